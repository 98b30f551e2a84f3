/* k-means on vectors: distinct points, a start by k-means++, Lloyd's iteration, and what each cluster is worth.
 *
 * points (n, d), centroids (k, d) and weights (n) are float, k <= 256; labels (n) are below k. Squared distances are
 * summed in float, one coordinate after the other; errors in double, one point after the other.
 *
 * Two consequences of the triangle inequality spare most distances in a few dimensions, and change nothing. A centroid
 * at least twice as far from a point's own centroid as the point is can't be nearer: with the others sorted by that
 * distance, a point looks at a few of them only. And a point whose own centroid is nearer than any other can have come
 * since looks at none (Hamerly 2010, "Making k-means even faster"). */
#include "common.h"

#define LANES 8 /* draws of k-means++ that are tried side by side */

/* Calls `function` with the usual dimensions as constants, which lets the loops over coordinates unroll. */
#define BY_DIMENSION(d, function, ...)           \
    switch (d) {                                 \
        case 1: function(__VA_ARGS__, 1); break; \
        case 2: function(__VA_ARGS__, 2); break; \
        case 3: function(__VA_ARGS__, 3); break; \
        case 4: function(__VA_ARGS__, 4); break; \
        case 8: function(__VA_ARGS__, 8); break; \
        default: function(__VA_ARGS__, d);       \
    }

INLINE float square_of(const float *restrict a, const float *restrict b, int64_t d) {
    float square = 0;
    for (int64_t t = 0; t < d; t++) {
        const float difference = a[t] - b[t];
        square += difference * difference;
    }
    return square;
}

/* ------------------------------------------------------------------------------------------------ distinct points */

INLINE bool equal(const float *restrict a, const float *restrict b, int64_t d) {
    bool equal = true;
    for (int64_t t = 0; t < d; t++) equal &= a[t] == b[t];
    return equal;
}

INLINE uint32_t hash_of(const float *restrict point, int64_t d) {
    uint32_t mixed = 0;
    for (int64_t t = 0; t < d; t++) mixed = (mixed ^ bits_of(point[t])) * 0x9E3779B1u;
    return mixed >> 22;
}

INLINE void number_points(const float *restrict points, int64_t n, int64_t most, uint8_t *restrict labels,
                          int64_t *restrict firsts, int64_t *restrict found, int64_t d) {
    int16_t slots[1024]; /* four times as many as can be taken */
    int64_t count = 0;
    memset(slots, -1, sizeof slots);
    *found = most + 1;
    for (int64_t i = 0; i < n; i++) {
        uint32_t slot = hash_of(points + i * d, d);
        while (slots[slot] >= 0 && !equal(points + firsts[slots[slot]] * d, points + i * d, d)) slot = (slot + 1) & 1023;
        if (slots[slot] < 0) {
            if (count == most) return;
            slots[slot] = (int16_t)count, firsts[count++] = i;
        }
        labels[i] = (uint8_t)slots[slot];
    }
    *found = count;
}

/* Numbers the distinct points in order of appearance: labels (n), and firsts (most <= 256), where each was first.
 * Gives how many there are, or most + 1 if there are more. The points hold no -0.0 and no NaN. */
KERNEL(int64_t, number_distinct)(const float *restrict points, int64_t n, int64_t d, int64_t most,
                                 uint8_t *restrict labels, int64_t *restrict firsts) {
    int64_t found = 0;
    BY_DIMENSION(d, number_points, points, n, most, labels, firsts, &found)
    return found;
}

/* ------------------------------------------------------------------------------------------------------ k-means++ */

/* The sums of weights * square up to each point, in mass (n); the last of them. */
static double sum_mass(const float *restrict weights, const float *restrict square, int64_t n, double *restrict mass) {
    double total = 0;
    for (int64_t i = 0; i < n; i++) mass[i] = total += weights[i] * square[i];
    return total;
}

/* The first point whose mass is above `wanted`; the last if none is. */
static int64_t point_at(const double *restrict mass, int64_t n, double wanted) {
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (mass[middle] <= wanted) low = middle + 1;
        else high = middle;
    }
    return MIN(low, n - 1);
}

/* Fills trials (n, LANES): the squared distance to the nearest chosen point, had each of `drawn` (d, LANES) been chosen
 * too; errors (LANES): the sums of them, weighed. */
INLINE void try_draws(const float *restrict points, const float *restrict weights, int64_t n,
                      const float *restrict drawn, const float *restrict square, float *restrict trials,
                      double *restrict errors, int64_t d) {
    double sums[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        const float *restrict point = points + i * d;
        float distance[LANES] = {0};
        for (int64_t t = 0; t < d; t++) {
            for (int64_t lane = 0; lane < LANES; lane++) {
                const float difference = point[t] - drawn[t * LANES + lane];
                distance[lane] += difference * difference;
            }
        }
        for (int64_t lane = 0; lane < LANES; lane++) {
            const float trial = MIN(square[i], distance[lane]);
            trials[i * LANES + lane] = trial;
            sums[lane] += weights[i] * trial;
        }
    }
    memcpy(errors, sums, sizeof sums);
}

/* chosen (k): indices of points, each drawn with a chance that goes with its squared distance to those before (Arthur
 * and Vassilvitskii 2007). draws (k, tries <= 8), in [0, 1): of the points drawn at a time, the one that leaves the
 * least error. Room: mass (n), square (n), trials (n, 8), drawn (d, 8). */
KERNEL(void, plus_plus)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                        const double *restrict draws, int64_t k, int64_t tries, double *restrict mass,
                        float *restrict square, float *restrict trials, float *restrict drawn,
                        int64_t *restrict chosen) {
    for (int64_t i = 0; i < n; i++) square[i] = 1;
    for (int64_t c = 0; c < k; c++) {
        const double total = sum_mass(weights, square, n, mass);
        if (c == 0)
            for (int64_t i = 0; i < n; i++) square[i] = INFINITY;
        int64_t candidates[LANES], best = 0;
        double errors[LANES];
        for (int64_t lane = 0; lane < LANES; lane++) {
            candidates[lane] = point_at(mass, n, draws[c * tries + MIN(lane, tries - 1)] * total);
            for (int64_t t = 0; t < d; t++) drawn[t * LANES + lane] = points[candidates[lane] * d + t];
        }
        BY_DIMENSION(d, try_draws, points, weights, n, drawn, square, trials, errors)
        for (int64_t lane = 1; lane < LANES; lane++) best = errors[lane] < errors[best] ? lane : best;
        chosen[c] = candidates[best];
        for (int64_t i = 0; i < n; i++) square[i] = trials[i * LANES + best];
    }
}

/* ---------------------------------------------------------------------------------------------- nearest centroids */

/* Fills distances (k) with those of all centroids from centroid a. */
INLINE void distances_from(int64_t a, const float *restrict centroids, int64_t k, float *restrict distances, int64_t d) {
    for (int64_t b = 0; b < k; b++) distances[b] = sqrtf(square_of(centroids + a * d, centroids + b * d, d));
}

/* Sorts each row of order (k, k), all centroids from the nearest to this one on, itself the first, and fills gap (k, k)
 * with their distances. By insertion: from one iteration to the next the order hardly changes. */
static void sort_neighbours(const float *restrict centroids, int64_t k, int64_t d, int16_t *restrict order,
                            float *restrict gap) {
    float distances[256];
    for (int64_t a = 0; a < k; a++) {
        BY_DIMENSION(d, distances_from, a, centroids, k, distances)
        distances[a] = -1;
        float *restrict sorted = gap + a * k;
        int16_t *restrict own = order + a * k;
        for (int64_t q = 0; q < k; q++) {
            const int16_t b = own[q];
            const float distance = distances[b];
            int64_t at = q;
            for (; at > 0 && sorted[at - 1] > distance; at--) sorted[at] = sorted[at - 1], own[at] = own[at - 1];
            sorted[at] = distance, own[at] = b;
        }
    }
}

/* Centroids, and for each all of them sorted by their distance to it. */
typedef struct {
    const float *restrict centroids, *restrict gap;
    const int16_t *restrict order;
    int64_t k;
} Table;

/* What is nearest to a point, `least` its squared distance; `lower` is a bound of the distance to all others. */
typedef struct {
    int64_t label;
    float least, lower;
} Nearest;

/* The best of a few centroids, to begin near by where nothing is known; `found`: the first one tried. */
INLINE Nearest begin_near(const float *restrict point, const Table *table, int64_t stride, Nearest found, int64_t d) {
    for (int64_t c = 0; c < table->k; c += stride) {
        const float square = square_of(point, table->centroids + c * d, d);
        if (square < found.least) found.label = c, found.least = square;
    }
    return found;
}

/* The nearest centroid, searched outwards from the one of `found`. */
INLINE Nearest search_nearest(const float *restrict point, const Table *table, Nearest found, int64_t d) {
    const float *restrict gap = table->gap + found.label * table->k;
    const int16_t *restrict order = table->order + found.label * table->k;
    const float reach = sqrtf(found.least);
    float second = INFINITY, radius = reach, beyond = INFINITY;
    for (int64_t q = 1; q < table->k; q++) {
        if (gap[q] >= reach + radius) {
            beyond = gap[q] - reach;
            break;
        }
        const float square = square_of(point, table->centroids + order[q] * d, d);
        if (square < found.least) {
            second = found.least, found.least = square, found.label = order[q];
            radius = sqrtf(square);
        } else if (square < second) {
            second = square;
        }
    }
    const float next = sqrtf(second);
    found.lower = MIN(next, beyond);
    return found;
}

INLINE void assign_points(const float *restrict points, const float *restrict weights, int64_t n, const Table *table,
                          float drift, uint8_t *restrict labels, float *restrict lower, double *restrict error,
                          int64_t d) {
    const int64_t stride = (int64_t)sqrt((double)table->k);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *restrict point = points + i * d;
        Nearest found = {labels[i], 0, lower[i]};
        found.least = square_of(point, table->centroids + found.label * d, d);
        if (found.lower == -INFINITY) found = begin_near(point, table, stride, found, d);
        found.lower -= drift;
        if (sqrtf(found.least) > found.lower) {
            found = search_nearest(point, table, found, d);
            labels[i] = (uint8_t)found.label;
        }
        lower[i] = found.lower;
        sum += weights[i] * found.least;
    }
    *error = sum;
}

/* Labels the points with the nearest centroid, and gives the error. labels: where to begin.
 *
 * order (k, k): in each row all centroids, in any order; they are sorted. gap (k, k): room. lower (n): a lower bound of
 * the distance to each centroid but the own, before the centroids moved by at most `drift`; minus infinity where no
 * label is known. */
KERNEL(double, assign_vectors)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                               const float *restrict centroids, int64_t k, int16_t *restrict order,
                               float *restrict gap, float drift, uint8_t *restrict labels, float *restrict lower) {
    double error = 0;
    sort_neighbours(centroids, k, d, order, gap);
    const Table table = {centroids, gap, order, k};
    BY_DIMENSION(d, assign_points, points, weights, n, &table, drift, labels, lower, &error)
    return error;
}

INLINE void weigh_points(const float *restrict points, const float *restrict weights, int64_t n, const Table *table,
                         const uint8_t *restrict labels, double *restrict errors, double *restrict savings, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t own = labels[i];
        const float *restrict gap = table->gap + own * table->k, *restrict point = points + i * d;
        const int16_t *restrict order = table->order + own * table->k;
        const float least = square_of(point, table->centroids + own * d, d), reach = sqrtf(least);
        float second = INFINITY;
        for (int64_t q = 1; q < table->k && !(gap[q] >= reach + sqrtf(second)); q++) {
            const float square = square_of(point, table->centroids + order[q] * d, d);
            second = MIN(second, square);
        }
        errors[own] += weights[i] * least;
        savings[own] += weights[i] * (second - least);
    }
}

/* errors (k): of each cluster. savings (k): how much the error of all would grow without its centroid. order: as above;
 * gap: room. */
KERNEL(void, worth_of_clusters)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                                const float *restrict centroids, int64_t k, const uint8_t *restrict labels,
                                int16_t *restrict order, float *restrict gap, double *restrict errors,
                                double *restrict savings) {
    sort_neighbours(centroids, k, d, order, gap);
    const Table table = {centroids, gap, order, k};
    for (int64_t c = 0; c < k; c++) errors[c] = savings[c] = 0;
    BY_DIMENSION(d, weigh_points, points, weights, n, &table, labels, errors, savings)
}

/* ------------------------------------------------------------------------------------------------ Lloyd's iteration */

INLINE void add_points(const float *restrict points, const float *restrict weights, int64_t n,
                       const uint8_t *restrict labels, double *restrict sums, double *restrict mass, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t label = labels[i];
        mass[label] += weights[i];
        for (int64_t t = 0; t < d; t++) sums[label * d + t] += weights[i] * points[i * d + t];
    }
}

/* mass (k): the weight of each cluster; sums (k, d): of its points, weighed. */
KERNEL(void, sum_clusters)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                           int64_t k, const uint8_t *restrict labels, double *restrict sums, double *restrict mass) {
    for (int64_t c = 0; c < k; c++) mass[c] = 0;
    for (int64_t c = 0; c < k * d; c++) sums[c] = 0;
    BY_DIMENSION(d, add_points, points, weights, n, labels, sums, mass)
}

/* Gives an empty cluster the point of the largest error, if any has one, and changes labels, sums and mass. */
KERNEL(void, move_farthest)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                            const float *restrict centroids, uint8_t *restrict labels, double *restrict sums,
                            double *restrict mass, int64_t empty) {
    int64_t farthest = -1;
    float most = 0;
    for (int64_t i = 0; i < n; i++) {
        const float error = weights[i] * square_of(points + i * d, centroids + labels[i] * d, d);
        if (error > most && mass[labels[i]] > weights[i]) farthest = i, most = error;
    }
    if (farthest < 0) return;
    const int64_t from = labels[farthest];
    mass[from] -= weights[farthest];
    mass[empty] = weights[farthest];
    for (int64_t t = 0; t < d; t++) {
        const float moved = weights[farthest] * points[farthest * d + t];
        sums[from * d + t] -= moved;
        sums[empty * d + t] = moved;
    }
    labels[farthest] = (uint8_t)empty;
}

/* Moves each centroid (k, d) to the mean of its points; at least how far the one went that went farthest. */
static float move_centroids(const double *restrict sums, const double *restrict mass, int64_t k, int64_t d,
                            double *restrict centroids) {
    float drift = 0;
    for (int64_t c = 0; c < k; c++) {
        if (!(mass[c] > 0)) continue;
        double square = 0;
        for (int64_t t = 0; t < d; t++) {
            const double mean = sums[c * d + t] / mass[c], step = mean - centroids[c * d + t];
            square += step * step;
            centroids[c * d + t] = mean;
        }
        const float moved = (float)(sqrt(square) * 1.000001);
        drift = MAX(drift, moved);
    }
    return drift;
}

/* Moves centroids (k, d), in double, until the error falls by less than the fraction `tolerance`, at most `iterations`
 * times; labels the points with the nearest, and gives the error.
 *
 * Room: rounded (k, d), sums (k, d), mass (k), order (k, k), gap (k, k), lower (n). */
KERNEL(double, lloyd)(const float *restrict points, const float *restrict weights, int64_t n, int64_t d,
                      double *restrict centroids, int64_t k, double tolerance, int64_t iterations,
                      float *restrict rounded, double *restrict sums, double *restrict mass, int16_t *restrict order,
                      float *restrict gap, float *restrict lower, uint8_t *restrict labels) {
    for (int64_t c = 0; c < k * k; c++) order[c] = (int16_t)(c % k);
    for (int64_t i = 0; i < n; i++) lower[i] = -INFINITY;
    float drift = 0;
    double error = INFINITY;
    for (int64_t turn = 0;; turn++) {
        for (int64_t c = 0; c < k * d; c++) rounded[c] = (float)centroids[c];
        const double before = error;
        error = CALL(assign_vectors)(points, weights, n, d, rounded, k, order, gap, drift, labels, lower);
        if (turn == iterations || error >= before * (1 - tolerance)) return error;
        CALL(sum_clusters)(points, weights, n, d, k, labels, sums, mass);
        for (int64_t c = 0; c < k; c++)
            if (mass[c] == 0) CALL(move_farthest)(points, weights, n, d, rounded, labels, sums, mass, c);
        drift = move_centroids(sums, mass, k, d, centroids);
    }
}
