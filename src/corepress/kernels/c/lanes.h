/* Sums in eight lanes, which every processor adds up in the same order, however many it adds at once. */
#ifndef COREPRESS_LANES_H
#define COREPRESS_LANES_H

#include "common.h"

#define LANES 8
typedef float Floats __attribute__((vector_size(32)));
typedef struct {
    double low __attribute__((vector_size(32))), high __attribute__((vector_size(32)));
} Doubles;

/* Eight floats from any address. */
INLINE void load_lanes(const float *values, Floats *lanes) {
    memcpy(lanes, values, sizeof *lanes);
}

/* Adds the squares of eight floats. */
INLINE void add_squares(const float *values, Doubles *sums) {
    typedef float Four __attribute__((vector_size(16)));
    typedef double Wide __attribute__((vector_size(32)));
    Four low, high;
    memcpy(&low, values, sizeof low), memcpy(&high, values + 4, sizeof high);
    const Wide wide_low = __builtin_convertvector(low, Wide), wide_high = __builtin_convertvector(high, Wide);
    sums->low += wide_low * wide_low, sums->high += wide_high * wide_high;
}

/* Zeros after `count` values, up to a whole number of lanes, for which there must be room. */
INLINE void pad_lanes(float *values, int64_t count) {
    for (int64_t i = count; i % LANES; i++) values[i] = 0;
}

INLINE float sum_of_floats(const Floats *sums) {
    const float *lanes = (const float *)sums;
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

INLINE double sum_of_doubles(const Doubles *sums) {
    const double *lanes = (const double *)sums;
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

#endif
