/* See sixteen.h. */
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float Four __attribute__((vector_size(16)));
typedef struct { Four part[4]; } Sixteen;
typedef struct { uint32_t word[16]; } Words;
#define TILE 6

/* What is long without an instruction for it stays a function. */
#if defined(__aarch64__)
#define LONG INLINE
#else
#define LONG static __attribute__((noinline))
#endif

#define FOR_PARTS for (int i = 0; i < 4; i++)
#define FOR_LANES for (int i = 0; i < 16; i++)

INLINE Sixteen load(const float *numbers) {
    Sixteen sixteen;
    memcpy(&sixteen, numbers, sizeof sixteen);
    return sixteen;
}
INLINE void store(float *numbers, Sixteen sixteen) { memcpy(numbers, &sixteen, sizeof sixteen); }
INLINE Sixteen all(float number) {
    Sixteen sixteen;
    FOR_PARTS sixteen.part[i] = (Four){number, number, number, number};
    return sixteen;
}
INLINE Sixteen plus(Sixteen a, Sixteen b) {
    FOR_PARTS a.part[i] += b.part[i];
    return a;
}
INLINE Sixteen minus(Sixteen a, Sixteen b) {
    FOR_PARTS a.part[i] -= b.part[i];
    return a;
}
INLINE Sixteen times(Sixteen a, Sixteen b) {
    FOR_PARTS a.part[i] *= b.part[i];
    return a;
}
/* a * b + c */
LONG Sixteen fused_sixteen(Sixteen a, Sixteen b, Sixteen c) {
#if defined(__aarch64__)
    FOR_PARTS c.part[i] = (Four)vfmaq_f32((float32x4_t)c.part[i], (float32x4_t)a.part[i], (float32x4_t)b.part[i]);
    return c;
#else
    float one[16], other[16], sums[16];
    store(one, a), store(other, b), store(sums, c);
    FOR_LANES sums[i] = fused(one[i], other[i], sums[i]);
    return load(sums);
#endif
}

LONG Sixteen of_halves(const uint16_t *halves) {
    float numbers[16];
    FOR_LANES numbers[i] = widen(halves[i]);
    return load(numbers);
}
LONG Sixteen of_signed_bytes(const uint8_t *bytes) {
    float numbers[16];
    FOR_LANES numbers[i] = (float)(int8_t)bytes[i];
    return load(numbers);
}

/* Words from `size` bytes each, `step` bytes apart. */
INLINE Words words_from(const uint8_t *bytes, int size, int step) {
    Words words;
    FOR_LANES {
        words.word[i] = 0;
        for (int j = 0; j < size; j++) words.word[i] |= (uint32_t)bytes[i * step + j] << 8 * j;
    }
    return words;
}
LONG Words of_bytes(const uint8_t *bytes) { return words_from(bytes, 1, 1); }
LONG Words of_pairs(const uint8_t *bytes) { return words_from(bytes, 2, 2); }
LONG Words of_triples(const uint8_t *bytes) { return words_from(bytes, 3, 3); }
LONG Words of_words(const uint8_t *bytes) { return words_from(bytes, 4, 4); }
/* Words for each three of 96 bytes: those of even places, then those of odd ones. */
LONG void of_double_triples(const uint8_t *bytes, Words words[2]) {
    words[0] = words_from(bytes, 3, 6);
    words[1] = words_from(bytes + 3, 3, 6);
}

/* The entries that the `bits` from `shift` on of each word name; what is above them may be anything. */
LONG Sixteen gather(const float *table, Words words, int shift, int bits) {
    float numbers[16];
    FOR_LANES numbers[i] = table[words.word[i] >> shift & ((1u << bits) - 1)];
    return load(numbers);
}
/* The same for a table of 16 entries. */
typedef const float *Table;
INLINE Table load_table(const float *table) { return table; }
INLINE Sixteen look_up(Table table, Words words, int shift, int bits) { return gather(table, words, shift, bits); }
/* The entries that bytes name. */
LONG Sixteen gather_bytes(const float *table, const uint8_t *bytes) { return gather(table, of_bytes(bytes), 0, 8); }
