/* Sixteen numbers at a time: in one register of AVX-512, in two of AVX2, or in four of what any processor has.
 *
 * Intrinsics are where compilers find no instruction by themselves: to look up, to widen, to fuse. The results are the
 * same bits whichever version is compiled. Addresses need not be aligned. */
#ifndef COREPRESS_SIXTEEN_H
#define COREPRESS_SIXTEEN_H

#include "half.h"

/* Before a loop of constant length: what it has in arrays of registers stays in registers. */
#if !defined(__AVX2__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)
#include "sixteen_avx512.h"
#elif defined(__AVX2__)
#include "sixteen_avx2.h"
#else
#include "sixteen_plain.h"
#endif

/* The sum, halved again and again: 0 and 8, 1 and 9 ... first. */
INLINE float sum_of(Sixteen numbers) {
#if defined(__AVX2__)
    const __m256 eight = halves_added(numbers);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float lanes[16];
    store(lanes, numbers);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
#endif
}

#endif
