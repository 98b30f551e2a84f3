/* Look-up tables: (rows, k <= 256) ascending entries, of which the first used[row] count. */
#ifndef COREPRESS_TABLES_H
#define COREPRESS_TABLES_H

#include "common.h"

#define MOST_ENTRIES 256

/* Fills limits (MOST_ENTRIES): the means of neighbouring entries, up to which a number belongs to the lower one, then
 * infinity. */
static inline void limits_of(const double *restrict entries, int64_t used, double *restrict limits) {
    for (int64_t i = 0; i < MOST_ENTRIES; i++)
        limits[i] = i < used - 1 ? (entries[i] + entries[i + 1]) / 2 : INFINITY;
}

#endif
