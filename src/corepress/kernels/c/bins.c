/* Bins for float: numbers that share their leading bits fall together, in ascending order of values.
 *
 * The bits of a magnitude, read as an integer, ascend with it. Those that count are the top ones below the largest of a
 * row: its powers of two, and each power cut into equal parts, by leaving out the last `drop` bits. Smaller magnitudes
 * fall together with zero. There are 2 << (RANGE - drop) bins. */
#include "partition.h"
#include "tables.h"

#define RANGE 28 /* bits of a magnitude that count: 5 of the exponent, which is 32 powers of two, and the mantissa's 23 */
#define MAGNITUDE 0x7FFFFFFF
#define INFINITE 0x7F800000

/* The bits of the largest magnitude of a row. */
static int32_t largest_of(const float *restrict row, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t magnitude = (int32_t)bits_of(row[i]) & MAGNITUDE;
        largest = MAX(largest, magnitude);
    }
    return largest;
}

/* The bits of the magnitude at which bins begin, for the largest to be in the last. */
static int32_t origin_of(int32_t largest) {
    return MAX(largest - ((1 << RANGE) - 1), 0);
}

/* The bin of a float, ascending with its value: of two magnitudes, the greater has the greater bits. */
INLINE int32_t bin_of(float value, int32_t origin, int32_t drop) {
    const int32_t bits = (int32_t)bits_of(value), half = 1 << (RANGE - drop);
    const int32_t bin = MAX((bits & MAGNITUDE) - origin, 0) >> drop;
    return bits >= 0 ? half + bin : half - 1 - bin;
}

#define BLOCK 64 /* of elements whose bins are computed in a loop of its own, which vectorises */

INLINE void bins_of(const float *restrict row, int64_t count, int32_t origin, int32_t drop, int32_t *restrict found) {
    for (int64_t i = 0; i < count; i++) found[i] = bin_of(row[i], origin, drop);
}

/* Adds up to BLOCK elements to their bins. */
INLINE void add_block(const float *restrict row, int64_t count, const double *restrict weights, int32_t origin,
                      int32_t drop, double *restrict bins) {
    int32_t found[BLOCK];
    bins_of(row, count, origin, drop, found);
    for (int64_t i = 0; i < count; i++) {
        double *restrict bin = bins + 2 * (int64_t)found[i];
        const double weight = weights ? weights[i] : 1.0;
        bin[0] += weight;
        bin[1] += weight * row[i];
    }
}

INLINE void add_row(const float *restrict row, int64_t count, const double *restrict weights, int32_t origin,
                    int32_t drop, double *restrict bins) {
    int64_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK) add_block(row + i, BLOCK, weights ? weights + i : NULL, origin, drop, bins);
    add_block(row + i, count - i, weights ? weights + i : NULL, origin, drop, bins);
}

/* Fills bins (2 << (RANGE - drop), of mass and moment), then values and counts with their means and masses; how many
 * there are. */
static int64_t count_bins(const float *restrict row, int64_t count, const double *restrict weights, int32_t origin,
                          int32_t drop, double *restrict bins, double *restrict values, double *restrict counts) {
    const int64_t size = 2ll << (RANGE - drop);
    memset(bins, 0, (size_t)(2 * size) * sizeof *bins);
    if (weights) add_row(row, count, weights, origin, drop, bins);
    else add_row(row, count, NULL, origin, drop, bins);
    int64_t n = 0;
    for (int64_t i = 0; i < size; i++) {
        if (!(bins[2 * i] > 0)) continue;
        const double mean = bins[2 * i + 1] / bins[2 * i];
        if (n > 0 && values[n - 1] == mean) { /* -0.0 and 0.0 */
            counts[n - 1] += bins[2 * i];
        } else {
            values[n] = mean, counts[n] = bins[2 * i];
            n++;
        }
    }
    return n;
}

/* rows (rows, columns) -> luts (rows, k), ascending. used[row]: k, 0 where fewer than `least` >= k bins are in use, which
 * are too coarse, or -1 where a number is not finite.
 *
 * weights (rows, columns) or NULL. bins: 2 for each; values, counts: one for each. bounds (k + 1), centroids (k), and
 * room as for `partition` of so many bins. */
KERNEL(void, cluster_bins)(const float *restrict rows, int64_t count, int64_t columns, const double *restrict weights,
                           int64_t drop, int64_t k, int64_t least, double *restrict bins, double *restrict values,
                           double *restrict counts, double *restrict room, int32_t *restrict bounds,
                           double *restrict centroids, float *restrict luts, int32_t *restrict used) {
    for (int64_t row = 0; row < count; row++) {
        const float *own = rows + row * columns;
        const int32_t largest = largest_of(own, columns);
        used[row] = largest < INFINITE ? 0 : -1;
        if (used[row] < 0) continue;
        const double *own_weights = weights ? weights + row * columns : NULL;
        const int64_t n = count_bins(own, columns, own_weights, origin_of(largest), (int32_t)drop, bins, values, counts);
        if (n < least) continue;
        used[row] = (int32_t)CALL(partition)(values, counts, n, k, room, bounds);
        CALL(means_of_runs)(values, counts, bounds, used[row], centroids);
        for (int64_t i = 0; i < k; i++) luts[row * k + i] = (float)centroids[i];
    }
}

/* table: for each bin the index of the entry nearest to its least value. */
static void index_bins(const double *restrict limits, int64_t used, int32_t origin, int32_t drop,
                       uint8_t *restrict table) {
    const int64_t size = 2ll << (RANGE - drop);
    int64_t begin = 0;
    for (int64_t i = 0; i < used; i++) {
        int64_t end = size;
        if (i < used - 1) end = MIN(MAX((int64_t)bin_of((float)limits[i], origin, drop) + 1, begin), size);
        memset(table + begin, (int)i, (size_t)(end - begin));
        begin = end;
    }
}

INLINE void assign_block(const float *restrict row, int64_t count, int32_t origin, int32_t drop,
                         const double *restrict limits, const uint8_t *restrict table, uint8_t *restrict indices) {
    int32_t found[BLOCK];
    bins_of(row, count, origin, drop, found);
    for (int64_t i = 0; i < count; i++) {
        int64_t index = table[found[i]];
        while (row[i] > limits[index]) index++;
        indices[i] = (uint8_t)index;
    }
}

/* rows (rows, columns) -> indices (rows, columns) of the nearest of lut (rows, k <= 256), ascending, of which the first
 * used[row] count. table: a byte for each bin. */
KERNEL(void, assign_bins)(const float *restrict rows, int64_t count, int64_t columns, const double *restrict lut,
                          int64_t k, int64_t drop, const int32_t *restrict used, uint8_t *restrict table,
                          uint8_t *restrict indices) {
    double limits[MOST_ENTRIES];
    for (int64_t row = 0; row < count; row++) {
        const float *restrict own = rows + row * columns;
        uint8_t *restrict out = indices + row * columns;
        const int32_t origin = origin_of(largest_of(own, columns));
        limits_of(lut + row * k, used[row], limits);
        index_bins(limits, MAX(used[row], 1), origin, (int32_t)drop, table);
        int64_t j = 0;
        for (; j + BLOCK <= columns; j += BLOCK)
            assign_block(own + j, BLOCK, origin, (int32_t)drop, limits, table, out + j);
        assign_block(own + j, columns - j, origin, (int32_t)drop, limits, table, out + j);
    }
}
