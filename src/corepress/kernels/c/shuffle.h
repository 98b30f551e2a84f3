/* Bytes in another order, by the instruction that most processors have; SHUFFLES says that this one has it. */
#ifndef COREPRESS_SHUFFLE_H
#define COREPRESS_SHUFFLE_H

#include "common.h"

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint64_t Words __attribute__((vector_size(16)));

/* bytes[order[i]] for each i, of an order from 0 to 15. */
#if defined(__SSSE3__)
#include <tmmintrin.h>
#define SHUFFLES
INLINE Bytes shuffled(Bytes bytes, Bytes order) {
    return (Bytes)_mm_shuffle_epi8((__m128i)bytes, (__m128i)order);
}
#elif defined(__aarch64__)
#include <arm_neon.h>
#define SHUFFLES
INLINE Bytes shuffled(Bytes bytes, Bytes order) {
    return (Bytes)vqtbl1q_u8((uint8x16_t)bytes, (uint8x16_t)order);
}
#endif

#endif
