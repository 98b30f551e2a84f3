/* float16 as its bits in uint16: widened to float, and rounded back. The same bits with and without instructions. */
#ifndef COREPRESS_HALF_H
#define COREPRESS_HALF_H

#include "common.h"

#define EXPONENT_SHIFT 112 /* float's exponent bias less float16's */
#define SMALLEST_HALF 0x1p-24f
#define LARGEST_HALF 65504.0f

/* The float of the same value; exact, subnormal and infinite values included. */
INLINE float widen(uint16_t half) {
    /* Compared as wide and signed integers, which vectorises best. */
    const int32_t magnitude = (half & 0x7FFF) << 13, infinite = 0x7C00 << 13, normal = 0x0400 << 13;
    const int32_t shift = EXPONENT_SHIFT << 23;
    const int32_t bits = magnitude + shift + (magnitude >= infinite ? shift : 0);
    /* Two in place of the one that floats have before the point, and none: what lies after it times 2^-14. */
    const float subnormal = float_of((uint32_t)(magnitude + shift + normal)) - 0x1p-14f;
    const uint32_t value = magnitude < normal ? bits_of(subnormal) : (uint32_t)bits;
    return float_of(value | (uint32_t)(half & 0x8000) << 16);
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
    const float magnitude = fabsf(value);
    const uint32_t bits = bits_of(magnitude);
    /* Almost half of the last bit that stays carries what lies above the middle, and from the middle what is odd. */
    const uint32_t normal = (bits + ((bits >> 13) & 1) + 0xFFF - (EXPONENT_SHIFT << 23)) >> 13;
    /* The last bit of 0.5 is 2^-24, the smallest float16. */
    const uint32_t subnormal = bits_of(magnitude + 0.5f) - bits_of(0.5f);
    /* Chosen as floats: compilers choose among integers of 16 bits, which takes twice as long. */
    float half = magnitude < 0x1p-14f ? float_of(subnormal) : float_of(normal);
    half = magnitude >= 65520.0f ? float_of(0x7C00) : half;
    half = value != value ? float_of(0x7E00) : half;
    return (uint16_t)(bits_of(half) | (bits_of(value) >> 16 & 0x8000));
}

#endif
