/* float16 as its bits in uint16: widened to float, and rounded back. The same bits with and without instructions. */
#ifndef COREPRESS_HALF_H
#define COREPRESS_HALF_H

#include "common.h"

#define EXPONENT_SHIFT 112 /* float's exponent bias less float16's */
#define SMALLEST_HALF 0x1p-24f
#define LARGEST_HALF 65504.0f

/* The float of the same value; exact, subnormal and infinite values included. */
INLINE float widen(uint16_t half) {
    const uint32_t magnitude = half & 0x7FFFu, sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t bits = (magnitude << 13) + ((uint32_t)EXPONENT_SHIFT << 23);
    bits += magnitude >= 0x7C00u ? (uint32_t)EXPONENT_SHIFT << 23 : 0;
    const uint32_t subnormal = bits_of((float)(int32_t)magnitude * SMALLEST_HALF);
    return float_of((magnitude < 0x0400u ? subnormal : bits) | sign);
}

/* The nearest float16, ties to even, of a value that is not negative, still as float; infinity from 65,520 on. */
INLINE float round_magnitude(float magnitude) {
    /* Adding 2^13 times the power of two below pushes out the bits that float16 lacks. */
    const uint32_t exponent = bits_of(magnitude) & 0x7F800000u, least = (uint32_t)(EXPONENT_SHIFT + 1) << 23;
    const float push = float_of(MAX(exponent, least) + (13u << 23));
    const float rounded = (magnitude + push) - push;
    return magnitude >= 65520.0f ? INFINITY : rounded;
}

/* The nearest float16, ties to even, still as float. */
INLINE float round_to_half(float value) {
    return copysignf(round_magnitude(fabsf(value)), value);
}

/* The bits of the nearest float16, ties to even. */
INLINE uint16_t narrow(float value) {
    const float rounded = round_magnitude(fabsf(value));
    uint32_t half = (bits_of(rounded) - ((uint32_t)EXPONENT_SHIFT << 23)) >> 13;
    half = rounded < 0x1p-14f ? (uint32_t)(int32_t)(rounded * 0x1p24f) : half;
    half = rounded > LARGEST_HALF ? 0x7C00u : half;
    half = value != value ? 0x7E00u : half;
    return (uint16_t)(half | ((bits_of(value) >> 16) & 0x8000u));
}

#endif
