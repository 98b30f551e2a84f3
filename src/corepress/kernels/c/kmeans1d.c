/* k-means in one dimension, for the rows of a weight: histograms, their partition, and the nearest entries.
 *
 * Rows of a 16-bit format come as their bits (codes), with `brain` telling bfloat16 from float16; other rows as float
 * or double (`size` bytes each), in ascending order for a histogram. A histogram is values (n), strictly ascending, and
 * counts (n), positive. weights: one for each element, not negative, or NULL, for one each.
 *
 * lut: (rows, k) ascending entries, of which the first used[row] count. Between two entries, their mean is the limit. */
#include "codes.h"
#include "partition.h"
#include "tables.h"

#define BLOCK 64 /* of codes that are passed over at a time where no element has any */

typedef struct {
    double *restrict values, *restrict counts;
    int64_t size;
} Histogram;

static bool is_finite(const Histogram *histogram) {
    const int64_t n = histogram->size;
    return n == 0 || (fabs(histogram->values[0]) < INFINITY && fabs(histogram->values[n - 1]) < INFINITY);
}

/* ------------------------------------------------------------------------------------------------ 16-bit formats */

/* How often each code occurs, in tally (65536). Four codes are read at a time, for the loads are what it waits for. */
static void tally_ones(const uint16_t *restrict codes, int64_t count, uint32_t *restrict tally) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint64_t word;
        memcpy(&word, codes + i, sizeof word);
        tally[word & 0xFFFF]++, tally[word >> 16 & 0xFFFF]++, tally[word >> 32 & 0xFFFF]++, tally[word >> 48]++;
    }
    for (; i < count; i++) tally[codes[i]]++;
}

/* Append what a block of codes from `first` on holds, in ascending order of values. Without a branch: each is written,
 * and the next writes over it unless it has a count. */
INLINE void append_block(const double *restrict found, int64_t first, bool brain, Histogram *histogram) {
    double numbers[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++) numbers[i] = number_of(first + i, brain);
    int64_t n = histogram->size;
    for (int64_t i = 0; i < BLOCK; i++) {
        const int64_t at = first < NEGATIVE ? i : BLOCK - 1 - i;
        histogram->values[n] = numbers[at], histogram->counts[n] = found[at];
        n += found[at] > 0;
    }
    histogram->size = n;
}

/* The same for a block of a tally, which is cleared. */
INLINE void take_ones(uint32_t *restrict tally, int64_t first, bool brain, Histogram *histogram) {
    uint32_t any = 0;
    double found[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++) any |= tally[first + i];
    if (!any) return;
    for (int64_t i = 0; i < BLOCK; i++) found[i] = (double)tally[first + i];
    memset(tally + first, 0, BLOCK * sizeof *tally);
    append_block(found, first, brain, histogram);
}

/* The same of weights. */
INLINE void take_mass(double *restrict mass, int64_t first, bool brain, Histogram *histogram) {
    double most = 0;
    for (int64_t i = 0; i < BLOCK; i++) most = MAX(most, mass[first + i]);
    if (!(most > 0)) return;
    append_block(mass + first, first, brain, histogram);
    memset(mass + first, 0, BLOCK * sizeof *mass);
}

static void take_all(double *restrict bins, bool weighted, bool brain, Histogram *histogram) {
    uint32_t *tally = (uint32_t *)bins;
    for (int64_t rank = 0; rank < CODES; rank += BLOCK) {
        const int64_t first = rank < NEGATIVE ? CODES - BLOCK - rank : rank - NEGATIVE;
        if (weighted) take_mass(bins, first, brain, histogram);
        else take_ones(tally, first, brain, histogram);
    }
}

/* Fills the histogram of a row of codes; false where a value is not finite. bins: 65536 doubles, zero, and left zero. */
static bool count_codes(const uint16_t *restrict codes, int64_t count, const double *restrict weights, bool brain,
                        double *restrict bins, Histogram *histogram) {
    histogram->size = 0;
    if (weights) {
        for (int64_t i = 0; i < count; i++) bins[codes[i]] += weights[i];
        if (bins[NEGATIVE] > 0) bins[NEGATIVE] += bins[0], bins[0] = 0; /* -0.0 and 0.0 are one */
    } else {
        uint32_t *tally = (uint32_t *)bins;
        tally_ones(codes, count, tally);
        if (tally[NEGATIVE]) tally[NEGATIVE] += tally[0], tally[0] = 0;
    }
    take_all(bins, weights != NULL, brain, histogram);
    return is_finite(histogram);
}

/* codes (count) -> values, counts (of 65536 each); how many there are, or -1 where a value is not finite.
 * bins (65536): zero, and left zero. */
KERNEL(int64_t, histogram_codes)(const uint16_t *restrict codes, int64_t count, const double *restrict weights,
                                 int64_t brain, double *restrict bins, double *restrict values,
                                 double *restrict counts) {
    Histogram histogram = {values, counts, 0};
    return count_codes(codes, count, weights, brain, bins, &histogram) ? histogram.size : -1;
}

/* Table (65536): the index of the nearest entry for each code. */
static void index_codes(const double *restrict lut, int64_t used, bool brain, uint8_t *restrict table) {
    int64_t begin = 0;
    for (int64_t i = 0; i < used; i++) {
        const int64_t end = i < used - 1 ? rank_above((lut[i] + lut[i + 1]) / 2, brain) : CODES;
        if (end <= begin) continue;
        const int64_t middle = MAX(begin, MIN(end, NEGATIVE)); /* what lies before it is negative */
        if (middle > begin) memset(table + CODES - middle, (int)i, (size_t)(middle - begin));
        if (end > middle) memset(table + middle - NEGATIVE, (int)i, (size_t)(end - middle));
        begin = end;
    }
}

/* codes (rows, columns) -> indices (rows, columns) of the nearest of lut (rows, k). table: 65536 bytes of room. */
KERNEL(void, assign_codes)(const uint16_t *restrict codes, int64_t rows, int64_t columns, int64_t brain,
                           const double *restrict lut, int64_t k, const int32_t *restrict used,
                           uint8_t *restrict table, uint8_t *restrict indices) {
    for (int64_t row = 0; row < rows; row++) {
        index_codes(lut + row * k, MAX(used[row], 1), brain, table);
        const uint16_t *restrict own = codes + row * columns;
        uint8_t *restrict out = indices + row * columns;
        int64_t j = 0;
        for (; j + 8 <= columns; j += 8) /* eight in a row: compilers then overlap their loads */
            for (int64_t lane = 0; lane < 8; lane++) out[j + lane] = table[own[j + lane]];
        for (; j < columns; j++) out[j] = table[own[j]];
    }
}

/* --------------------------------------------------------------------------------------------------- other formats */

/* One more value, no smaller than those before: -0.0 and 0.0 are one. */
INLINE void append(Histogram *histogram, double value, double count) {
    const int64_t n = histogram->size;
    if (n > 0 && histogram->values[n - 1] == value) {
        histogram->counts[n - 1] += count;
    } else {
        histogram->values[n] = value, histogram->counts[n] = count;
        histogram->size++;
    }
}

INLINE double element(const void *row, int64_t size, int64_t i) {
    return size == 4 ? (double)((const float *)row)[i] : ((const double *)row)[i];
}

INLINE bool count_row(const void *row, int64_t size, int64_t count, const double *restrict weights,
                      Histogram *histogram) {
    histogram->size = 0;
    /* NaN sort last. */
    if (count && !(fabs(element(row, size, 0)) < INFINITY && fabs(element(row, size, count - 1)) < INFINITY))
        return false;
    for (int64_t i = 0; i < count; i++) {
        if (!weights) append(histogram, element(row, size, i), 1.0);
        else if (weights[i] > 0) append(histogram, element(row, size, i), weights[i]);
    }
    return true;
}

static bool count_sorted(const void *row, int64_t size, int64_t count, const double *restrict weights,
                         Histogram *histogram) {
    return size == 4 ? count_row(row, 4, count, weights, histogram) : count_row(row, 8, count, weights, histogram);
}

/* row (count), ascending -> values, counts (of `count` each); as `histogram_codes`. */
KERNEL(int64_t, histogram_sorted)(const void *restrict row, int64_t size, int64_t count,
                                  const double *restrict weights, double *restrict values, double *restrict counts) {
    Histogram histogram = {values, counts, 0};
    return count_sorted(row, size, count, weights, &histogram) ? histogram.size : -1;
}

#define LANES 8 /* searches that go on side by side: each step of one waits for a load */

INLINE void search_limits(const void *row, int64_t size, int64_t columns, const double *restrict limits,
                          int64_t half, uint8_t *restrict indices) {
    for (int64_t j = 0; j < columns; j += LANES) {
        int64_t index[LANES] = {0};
        double value[LANES];
        for (int64_t lane = 0; lane < LANES; lane++) value[lane] = element(row, size, MIN(j + lane, columns - 1));
        for (int64_t step = half; step; step >>= 1) {
            for (int64_t lane = 0; lane < LANES; lane++)
                index[lane] += limits[index[lane] + step - 1] < value[lane] ? step : 0;
        }
        const int64_t lanes = MIN(LANES, columns - j);
        for (int64_t lane = 0; lane < lanes; lane++) indices[j + lane] = (uint8_t)index[lane];
    }
}

/* values (rows, columns) -> indices (rows, columns) of the nearest of lut (rows, k <= 256), by binary search. */
KERNEL(void, assign_values)(const void *restrict values, int64_t size, int64_t rows, int64_t columns,
                            const double *restrict lut, int64_t k, const int32_t *restrict used,
                            uint8_t *restrict indices) {
    double limits[MOST_ENTRIES];
    for (int64_t row = 0; row < rows; row++) {
        limits_of(lut + row * k, used[row], limits);
        int64_t half = 1;
        while (2 * half < used[row]) half *= 2;
        const char *own = (const char *)values + row * columns * size;
        uint8_t *out = indices + row * columns;
        if (size == 4) search_limits(own, 4, columns, limits, half, out);
        else search_limits(own, 8, columns, limits, half, out);
    }
}

/* ------------------------------------------------------------------------------------------------------- clusters */

/* Fills centroids (k) with the best ones; how many there are. bounds (k + 1), and room as for `partition`. */
static int32_t centroids_of(const Histogram *histogram, int64_t k, double *restrict room, int32_t *restrict bounds,
                            double *restrict centroids) {
    const double *values = histogram->values, *counts = histogram->counts;
    const int64_t runs = CALL(partition)(values, counts, histogram->size, k, room, bounds);
    CALL(means_of_runs)(values, counts, bounds, runs, centroids);
    return (int32_t)runs;
}

/* codes (rows, columns) -> centroids (rows, k), ascending, of which used[row] are filled; 0 for a row without any
 * element, -1 for one that is not finite. bins: as above. values, counts (of 65536 each), bounds (k + 1), and room for
 * min(65536, columns) numbers. */
KERNEL(void, cluster_codes)(const uint16_t *restrict codes, int64_t rows, int64_t columns,
                            const double *restrict weights, int64_t brain, int64_t k, double *restrict bins,
                            double *restrict values, double *restrict counts, double *restrict room,
                            int32_t *restrict bounds, double *restrict centroids, int32_t *restrict used) {
    for (int64_t row = 0; row < rows; row++) {
        Histogram histogram = {values, counts, 0};
        const double *own = weights ? weights + row * columns : NULL;
        const bool finite = count_codes(codes + row * columns, columns, own, brain, bins, &histogram);
        if (finite && histogram.size) used[row] = centroids_of(&histogram, k, room, bounds, centroids + row * k);
        else used[row] = finite ? 0 : -1;
    }
}

/* The same of sorted (rows, columns), each row ascending; values, counts (of `columns` each). */
KERNEL(void, cluster_sorted)(const void *restrict sorted, int64_t size, int64_t rows, int64_t columns,
                             const double *restrict weights, int64_t k, double *restrict values,
                             double *restrict counts, double *restrict room, int32_t *restrict bounds,
                             double *restrict centroids, int32_t *restrict used) {
    for (int64_t row = 0; row < rows; row++) {
        Histogram histogram = {values, counts, 0};
        const double *own = weights ? weights + row * columns : NULL;
        const bool finite = count_sorted((const char *)sorted + row * columns * size, size, columns, own, &histogram);
        if (finite && histogram.size) used[row] = centroids_of(&histogram, k, room, bounds, centroids + row * k);
        else used[row] = finite ? 0 : -1;
    }
}
