/* What every kernel begins with: names, rounding, fused multiplication.
 *
 * The same sources are compiled once for each level of vector instructions (tools/build_kernels.py has the list), and
 * must give the same bits on each, by every compiler. So:
 * - sums have an order, or a blocking, that is written out; compilers may not reorder them;
 * - a product and a sum are fused where `fused` says so, and nowhere else (-ffp-contract=off);
 * - of the mathematical library only what is one instruction everywhere is used: sqrt, fabs, copysign.
 * Kernels allocate nothing and keep no state: the caller gives all space. Sizes are counts of elements.
 */
#ifndef COREPRESS_COMMON_H
#define COREPRESS_COMMON_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* KERNEL(void, pack)(...) is the function corepress_pack_avx2 where LEVEL is avx2. */
#define JOINED(name, level) corepress_##name##_##level
#define NAMED(name, level) JOINED(name, level)
#define KERNEL(type, name) EXPORT type NAMED(name, LEVEL)
/* CALL(pack)(...) calls that of another file, for the same level. */
#define CALL(name) NAMED(name, LEVEL)

/* A function that is compiled into each caller, so that its constant arguments vanish. */
#define INLINE static inline __attribute__((always_inline))

/* C's own min and max know what to do with NaN, which costs; these are one instruction. `a` where one is NaN. */
#define MIN(a, b) ((b) < (a) ? (b) : (a))
#define MAX(a, b) ((b) > (a) ? (b) : (a))

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest integer, ties to even. */
INLINE float round_even(float value) {
#if defined(__SSE4_1__) || defined(__aarch64__)
    return __builtin_rintf(value);
#else
    /* From 2^23 on a float is an integer; below, adding that much pushes the fraction out. */
    const float push = 8388608.0f, magnitude = fabsf(value);
    const float rounded = (magnitude + push) - push;
    return copysignf(magnitude < push ? rounded : magnitude, value);
#endif
}

/* The same of a double. */
INLINE double round_even_double(double value) {
#if defined(__SSE4_1__) || defined(__aarch64__)
    return __builtin_rint(value);
#else
    const double push = 4503599627370496.0, magnitude = fabs(value);
    const double rounded = (magnitude + push) - push;
    return copysign(magnitude < push ? rounded : magnitude, value);
#endif
}

/* a * b + c, rounded once. */
INLINE float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    /* The product of two floats is exact in double. Their sum is rounded to odd there, after which rounding to float
     * is right (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums"). */
    const double product = (double)a * b, sum = product + c;
    const double other = sum - product, error = (product - (sum - other)) + (c - other);
    int64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    const int64_t inexact = (error < 0) | (error > 0), even = !(bits & 1), outward = (error > 0) == (sum > 0);
    bits += (inexact & even) * (2 * outward - 1);
    double odd;
    memcpy(&odd, &bits, sizeof odd);
    return (float)odd;
#endif
}

#endif
