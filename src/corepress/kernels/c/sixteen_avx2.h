/* See sixteen.h. */
#include <immintrin.h>

typedef struct { __m256 low, high; } Sixteen;
typedef struct { __m256i low, high; } Words; /* of 32 bits */
#define TILE 6 /* sums that fit the registers beside what is added to them */

INLINE Sixteen load(const float *numbers) { return (Sixteen){_mm256_loadu_ps(numbers), _mm256_loadu_ps(numbers + 8)}; }
INLINE void store(float *numbers, Sixteen sixteen) {
    _mm256_storeu_ps(numbers, sixteen.low);
    _mm256_storeu_ps(numbers + 8, sixteen.high);
}
INLINE Sixteen all(float number) { return (Sixteen){_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
INLINE Sixteen plus(Sixteen a, Sixteen b) {
    return (Sixteen){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
INLINE Sixteen minus(Sixteen a, Sixteen b) {
    return (Sixteen){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
INLINE Sixteen times(Sixteen a, Sixteen b) {
    return (Sixteen){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
/* a * b + c */
INLINE Sixteen fused_sixteen(Sixteen a, Sixteen b, Sixteen c) {
    return (Sixteen){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE __m256 halves_added(Sixteen sixteen) { return _mm256_add_ps(sixteen.low, sixteen.high); }

INLINE Sixteen of_halves(const uint16_t *halves) {
    return (Sixteen){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves)),
                     _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(halves + 8)))};
}
INLINE __m128i eight_bytes(const uint8_t *bytes) { return _mm_loadl_epi64((const __m128i *)bytes); }
INLINE Sixteen of_signed_bytes(const uint8_t *bytes) {
    return (Sixteen){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight_bytes(bytes))),
                     _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight_bytes(bytes + 8)))};
}

/* A word for each byte, each two bytes, or as they are. */
INLINE Words of_bytes(const uint8_t *bytes) {
    return (Words){_mm256_cvtepu8_epi32(eight_bytes(bytes)), _mm256_cvtepu8_epi32(eight_bytes(bytes + 8))};
}
INLINE Words of_pairs(const uint8_t *bytes) {
    return (Words){_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bytes)),
                   _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(bytes + 16)))};
}
INLINE Words of_words(const uint8_t *bytes) {
    return (Words){_mm256_loadu_si256((const __m256i *)bytes), _mm256_loadu_si256((const __m256i *)(bytes + 32))};
}
/* Words from the 12 bytes at `one` and the 12 at `other`, three bytes each. It reads 16, those before where `end`. */
INLINE __m256i of_twelve(const uint8_t *one, const uint8_t *other, int end) {
    const __m128i low = _mm_loadu_si128((const __m128i *)one);
    const __m128i high = _mm_loadu_si128((const __m128i *)(other - (end ? 4 : 0)));
    const __m128i first = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    const __m128i later = _mm_setr_epi8(4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    return _mm256_set_m128i(_mm_shuffle_epi8(high, end ? later : first), _mm_shuffle_epi8(low, first));
}
/* A word for each three of 48 bytes. */
INLINE Words of_triples(const uint8_t *bytes) {
    return (Words){of_twelve(bytes, bytes + 12, 0), of_twelve(bytes + 24, bytes + 36, 1)};
}
/* Words for each three of 96 bytes: those of even places, then those of odd ones. */
INLINE void of_double_triples(const uint8_t *bytes, Words words[2]) {
    const __m256 a = _mm256_castsi256_ps(of_twelve(bytes, bytes + 24, 0));
    const __m256 b = _mm256_castsi256_ps(of_twelve(bytes + 12, bytes + 36, 0));
    const __m256 c = _mm256_castsi256_ps(of_twelve(bytes + 48, bytes + 72, 0));
    const __m256 d = _mm256_castsi256_ps(of_twelve(bytes + 60, bytes + 84, 1));
    words[0].low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    words[0].high = _mm256_castps_si256(_mm256_shuffle_ps(c, d, 0x88));
    words[1].low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD));
    words[1].high = _mm256_castps_si256(_mm256_shuffle_ps(c, d, 0xDD));
}

/* A table of 16 entries in registers: three bits name an entry of each half, the fourth says which half. */
typedef Sixteen Table;
INLINE Table load_table(const float *table) { return load(table); }
INLINE __m256 look_up_eight(Table table, __m256i words, int shift, int bits) {
    const __m256i index = _mm256_srli_epi32(words, shift), half = _mm256_slli_epi32(words, 28 - shift);
    const __m256 low = _mm256_permutevar8x32_ps(table.low, index);
    if (bits < 4) return low;
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(table.high, index), _mm256_castsi256_ps(half));
}
/* The entries that the `bits` from `shift` on of each word name; what is above them may be anything. */
INLINE Sixteen look_up(Table table, Words words, int shift, int bits) {
    return (Sixteen){look_up_eight(table, words.low, shift, bits), look_up_eight(table, words.high, shift, bits)};
}
/* The same for a larger table, in memory; one by one, which takes less time than the instruction for it does. */
INLINE __m256 gather_eight(const float *table, __m256i words, int shift, int bits) {
    const __m256i index = _mm256_and_si256(_mm256_srli_epi32(words, shift), _mm256_set1_epi32((1 << bits) - 1));
    const __m128i low = _mm256_castsi256_si128(index), high = _mm256_extracti128_si256(index, 1);
    const uint64_t a = (uint64_t)_mm_cvtsi128_si64(low), b = (uint64_t)_mm_extract_epi64(low, 1);
    const uint64_t c = (uint64_t)_mm_cvtsi128_si64(high), d = (uint64_t)_mm_extract_epi64(high, 1);
    return _mm256_setr_ps(table[(uint32_t)a], table[a >> 32], table[(uint32_t)b], table[b >> 32], table[(uint32_t)c],
                          table[c >> 32], table[(uint32_t)d], table[d >> 32]);
}
INLINE Sixteen gather(const float *table, Words words, int shift, int bits) {
    return (Sixteen){gather_eight(table, words.low, shift, bits), gather_eight(table, words.high, shift, bits)};
}
/* The entries that bytes name. */
INLINE __m256 gather_eight_bytes(const float *table, const uint8_t *bytes) {
    uint64_t at;
    memcpy(&at, bytes, sizeof at);
    return _mm256_setr_ps(table[at & 255], table[at >> 8 & 255], table[at >> 16 & 255], table[at >> 24 & 255],
                          table[at >> 32 & 255], table[at >> 40 & 255], table[at >> 48 & 255], table[at >> 56]);
}
INLINE Sixteen gather_bytes(const float *table, const uint8_t *bytes) {
    return (Sixteen){gather_eight_bytes(table, bytes), gather_eight_bytes(table, bytes + 8)};
}
