/* See sixteen.h. */
#include <immintrin.h>

typedef __m512 Sixteen;
typedef __m512i Words; /* of 32 bits */
#define TILE 12 /* sums that fit the registers beside what is added to them */

INLINE Sixteen load(const float *numbers) { return _mm512_loadu_ps(numbers); }
INLINE void store(float *numbers, Sixteen sixteen) { _mm512_storeu_ps(numbers, sixteen); }
INLINE Sixteen all(float number) { return _mm512_set1_ps(number); }
INLINE Sixteen plus(Sixteen a, Sixteen b) { return _mm512_add_ps(a, b); }
INLINE Sixteen minus(Sixteen a, Sixteen b) { return _mm512_sub_ps(a, b); }
INLINE Sixteen times(Sixteen a, Sixteen b) { return _mm512_mul_ps(a, b); }
/* a * b + c */
INLINE Sixteen fused_sixteen(Sixteen a, Sixteen b, Sixteen c) { return _mm512_fmadd_ps(a, b, c); }
INLINE __m256 halves_added(Sixteen sixteen) {
    const __m256d high = _mm512_extractf64x4_pd(_mm512_castps_pd(sixteen), 1);
    return _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm256_castpd_ps(high));
}

INLINE __m128i sixteen_bytes(const uint8_t *bytes) { return _mm_loadu_si128((const __m128i *)bytes); }
INLINE Sixteen of_halves(const uint16_t *halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
}
INLINE Sixteen of_signed_bytes(const uint8_t *bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen_bytes(bytes)));
}

/* A word for each byte, each two bytes, each three, or as they are. */
INLINE Words of_bytes(const uint8_t *bytes) { return _mm512_cvtepu8_epi32(sixteen_bytes(bytes)); }
INLINE Words of_pairs(const uint8_t *bytes) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bytes));
}
INLINE Words of_words(const uint8_t *bytes) { return _mm512_loadu_si512(bytes); }
/* 48 bytes: the 12 for each quarter of the register are brought there, then apart. */
INLINE Words of_triples(const uint8_t *bytes) {
    const __m512i packed = _mm512_maskz_loadu_epi32(0x0FFF, bytes);
    const __m512i quarters = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
    const __m128i apart = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, packed), _mm512_broadcast_i32x4(apart));
}
/* Words for each three of 96 bytes: those of even places, then those of odd ones. */
INLINE void of_double_triples(const uint8_t *bytes, Words words[2]) {
    const __m512i low = of_triples(bytes), high = of_triples(bytes + 48);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    words[0] = _mm512_permutex2var_epi32(low, even, high);
    words[1] = _mm512_permutex2var_epi32(low, _mm512_or_si512(even, _mm512_set1_epi32(1)), high);
}

/* The entries that the `bits` from `shift` on of each word name; what is above them may be anything. */
typedef Sixteen Table; /* of 16 entries, in a register */
INLINE Table load_table(const float *table) { return load(table); }
INLINE Sixteen look_up(Table table, Words words, int shift, int bits) {
    (void)bits;
    return _mm512_permutexvar_ps(_mm512_srli_epi32(words, (unsigned)shift), table);
}
/* The same for a larger table, in memory. */
INLINE Sixteen gather(const float *table, Words words, int shift, int bits) {
    const Words index = _mm512_and_si512(_mm512_srli_epi32(words, (unsigned)shift), _mm512_set1_epi32((1 << bits) - 1));
    return _mm512_i32gather_ps(index, table, 4);
}
/* The entries that bytes name. */
INLINE Sixteen gather_bytes(const float *table, const uint8_t *bytes) { return gather(table, of_bytes(bytes), 0, 8); }
