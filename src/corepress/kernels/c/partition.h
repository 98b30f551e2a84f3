/* The optimal partition of sorted, weighted numbers into k runs: see partition.c. */
#ifndef COREPRESS_PARTITION_H
#define COREPRESS_PARTITION_H

#include "common.h"

/* Doubles that `partition` needs as room for up to n numbers and k runs. */
KERNEL(int64_t, partition_room)(int64_t n, int64_t k);

/* Fills bounds (k + 1) and gives the number of runs, min(n, k): run i is values[bounds[i]] to values[bounds[i + 1]].
 *
 * values (n): finite, strictly ascending. counts (n): finite, positive. n, k >= 1; n < 2^31. */
KERNEL(int64_t, partition)(const double *restrict values, const double *restrict counts, int64_t n, int64_t k,
                           double *restrict room, int32_t *restrict bounds);

/* Fills means (runs) with those of the runs, and gives their total squared error. */
KERNEL(double, means_of_runs)(const double *restrict values, const double *restrict counts,
                              const int32_t *restrict bounds, int64_t runs, double *restrict means);

#endif
