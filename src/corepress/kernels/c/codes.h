/* The numbers of a 16-bit floating-point format, by their bits and by their rank among all of them. */
#ifndef COREPRESS_CODES_H
#define COREPRESS_CODES_H

#include "half.h"

#define CODES 65536
#define NEGATIVE 0x8000 /* codes from here on, in descending order of values; ranks below, in ascending order */

/* The number of a code, of bfloat16 if `brain`, else of float16; infinity of its sign for NaN, to keep the order. */
INLINE double number_of(int64_t code, bool brain) {
    const uint32_t magnitude = (uint32_t)code & 0x7FFF, infinity = brain ? 0x7F80 : 0x7C00;
    const double number = brain ? float_of(magnitude << 16) : widen((uint16_t)magnitude);
    const double ordered = magnitude > infinity ? INFINITY : number;
    return code >= NEGATIVE ? -ordered : ordered;
}

/* Bits 0xFFFF down to 0x8000 have the ranks 0 to 0x7FFF, then come 0x0000 up to 0x7FFF. */
INLINE int64_t code_at(int64_t rank) {
    return rank >= NEGATIVE ? rank - NEGATIVE : CODES - 1 - rank;
}

/* How many of the format's numbers are not above a limit. */
static inline int64_t rank_above(double limit, bool brain) {
    int64_t low = 0, high = CODES;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (number_of(code_at(middle), brain) <= limit) low = middle + 1;
        else high = middle;
    }
    return low;
}

#endif
