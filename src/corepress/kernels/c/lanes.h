/* Several floats at once, as a type of its own, so that compilers need not find out what vectorises: eight with AVX2,
 * whose instructions are called by name, else four. Sums have eight lanes either way, by the position modulo 8, so that
 * their order is the same. */
#ifndef COREPRESS_LANES_H
#define COREPRESS_LANES_H

#include "floats.h"

#define SUMS 8
#ifdef __AVX2__
#define LANES 8
#else
#define LANES 4
#endif
#define PARTS (SUMS / LANES)

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float Four __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32))); /* four */

#define SIGN ((int32_t)0x80000000)

INLINE Floats magnitude_of(Floats x) {
    return (Floats)((Ints)x & ~SIGN);
}

/* The magnitudes of one and the signs of the other. */
INLINE Floats with_sign(Floats magnitudes, Floats signs) {
    return (Floats)(((Ints)magnitudes & ~SIGN) | ((Ints)signs & SIGN));
}

#ifdef __AVX2__
#include <immintrin.h>

INLINE Floats all(float value) {
    return (Floats)_mm256_set1_ps(value);
}

/* Lane by lane, mask ? a : b. */
INLINE Floats choose(Ints mask, Floats a, Floats b) {
    return (Floats)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
}

/* MIN(a, b), MAX(a, b), round_even and round_to_half of each lane. */
INLINE Floats lanes_min(Floats a, Floats b) {
    return (Floats)_mm256_min_ps((__m256)b, (__m256)a);
}

INLINE Floats lanes_max(Floats a, Floats b) {
    return (Floats)_mm256_max_ps((__m256)b, (__m256)a);
}

INLINE Floats lanes_round(Floats x) {
    return (Floats)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE Floats lanes_to_half(Floats x) {
    return (Floats)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
}

/* array[i : i + LANES], which are of INT8, UINT8, HALF or SINGLE, as floats. */
INLINE Floats load_lanes(const void *array, int64_t type, int64_t i) {
    if (type == SINGLE) return (Floats)_mm256_loadu_ps((const float *)array + i);
    if (type == HALF) return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const void *)((const uint16_t *)array + i)));
    const __m128i bytes = _mm_loadl_epi64((const void *)((const uint8_t *)array + i));
    return (Floats)_mm256_cvtepi32_ps(type == INT8 ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
}

/* The inverse, to HALF or SINGLE; every NaN becomes the one that `narrow` makes. */
INLINE void store_lanes(Floats x, int64_t type, void *array, int64_t i) {
    if (type == SINGLE) {
        _mm256_storeu_ps((float *)array + i, (__m256)x);
    } else {
        x = choose(x != x, with_sign(all(NAN), x), x);
        _mm_storeu_si128((void *)((uint16_t *)array + i), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
    }
}

/* Integers from -128 to 255 as bytes. */
INLINE void store_bytes(Floats integers, uint8_t *bytes) {
    const __m256i wide = _mm256_cvttps_epi32((__m256)integers);
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i low = _mm_and_si128(pairs, _mm_set1_epi16(0xFF));
    _mm_storel_epi64((void *)bytes, _mm_packus_epi16(low, low));
}
#else
INLINE Floats all(float value) {
    return (Floats){value, value, value, value};
}

INLINE Floats choose(Ints mask, Floats a, Floats b) {
    return (Floats)((mask & (Ints)a) | (~mask & (Ints)b));
}

INLINE Floats lanes_min(Floats a, Floats b) {
    return choose(b < a, b, a);
}

INLINE Floats lanes_max(Floats a, Floats b) {
    return choose(b > a, b, a);
}

INLINE Floats lanes_round(Floats x) {
    const float push = 0x1p23f; /* see round_even */
    const Floats magnitude = magnitude_of(x), rounded = (magnitude + push) - push;
    return with_sign(choose(magnitude < push, rounded, magnitude), x);
}

INLINE Floats lanes_to_half(Floats x) {
    const Ints least = (Ints){0} + ((EXPONENT_SHIFT + 1) << 23); /* see round_magnitude */
    const Floats magnitude = magnitude_of(x);
    const Ints exponent = (Ints)magnitude & 0x7F800000;
    const Floats push = (Floats)((Ints)choose(exponent > least, (Floats)exponent, (Floats)least) + (13 << 23));
    return with_sign(choose(magnitude >= 65520.0f, all(INFINITY), (magnitude + push) - push), x);
}

INLINE Floats load_lanes(const void *array, int64_t type, int64_t i) {
    float some[LANES];
    for (int k = 0; k < LANES; k++) some[k] = element(array, type, i + k);
    Floats x;
    memcpy(&x, some, sizeof x);
    return x;
}

INLINE void store_lanes(Floats x, int64_t type, void *array, int64_t i) {
    float some[LANES];
    memcpy(some, &x, sizeof some);
    for (int k = 0; k < LANES; k++) set_element(array, type, i + k, some[k]);
}

INLINE void store_bytes(Floats integers, uint8_t *bytes) {
    const Ints wide = __builtin_convertvector(integers, Ints);
    int32_t some[LANES];
    memcpy(some, &wide, sizeof some);
    for (int k = 0; k < LANES; k++) bytes[k] = (uint8_t)some[k];
}
#endif

/* `count` elements, less than LANES, and zeros after them. */
INLINE Floats load_some(const void *array, int64_t type, int64_t i, int64_t count) {
    float some[LANES] = {0};
    for (int64_t k = 0; k < count; k++) some[k] = element(array, type, i + k);
    return load_lanes(some, SINGLE, 0);
}

/* values[i : i + LANES] of `count`, with zeros after the last. */
INLINE Floats load_up_to(const float *values, int64_t count, int64_t i) {
    return i + LANES <= count ? load_lanes(values, SINGLE, i) : load_some(values, SINGLE, i, count - i);
}

/* Rounded to the nearest values that the type, HALF or SINGLE, can hold. */
INLINE Floats lanes_to(Floats x, int64_t type) {
    return type == HALF ? lanes_to_half(x) : x;
}

/* The sum of the lanes of PARTS: those four apart are added, then those two apart, then the last two. */
INLINE float sum_of(const Floats *parts) {
    Four low, high;
    memcpy(&low, parts, sizeof low), memcpy(&high, (const char *)parts + sizeof low, sizeof high);
    const Four four = low + high;
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* The products of floats in double: added to as many sums as there are fours of lanes. */
INLINE void add_products(Floats x, Floats y, Doubles *sums) {
    for (int i = 0; i < LANES / 4; i++) {
        Four one, other;
        memcpy(&one, (const char *)&x + i * (int)sizeof one, sizeof one);
        memcpy(&other, (const char *)&y + i * (int)sizeof other, sizeof other);
        sums[i] += __builtin_convertvector(one, Doubles) * __builtin_convertvector(other, Doubles);
    }
}

/* The sum of the lanes of two, in the same order. */
INLINE double sum_of_products(const Doubles *sums) {
    const Doubles four = sums[0] + sums[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

#endif
