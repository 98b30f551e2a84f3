/* The optimal partition of sorted, weighted numbers into k runs, in time that hardly grows with k.
 *
 * A run costs the weighted squared distance of its numbers to their mean. That cost is Monge, hence (Aggarwal,
 * Schieber and Tokuyama 1994, "Finding a minimum-weight k-link path in graphs with the concave Monge property"):
 *
 * - the least total is convex in k: under a price for each run, the shortest path over any number of runs has k of
 *   them at some price, and a search finds that price;
 * - one sweep over the numbers finds the shortest path at a price (Galil and Giancarlo 1989);
 * - where the count jumps over k, two shortest paths of one price splice into a shortest path of k runs.
 *
 * Groenlund et al. 2017, "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", put this to k-means.
 * New here is a coarse grid over the numbers that tells the price; then a sweep or two over all numbers, at that
 * price, find the optimum and certify it.
 */
#include "partition.h"

#define CELLS_PER_CLUSTER 16 /* of the coarse grid: with fewer, its price is off by a cluster, which costs sweeps */

/* Sums of count, count * x and count * x^2 before a position; the least cost of a path from position 0 to it, less its
 * `square`. Side by side, since the sweep jumps between positions. */
typedef struct {
    double mass, moment, square, best;
} Position;

/* Positions 0 = p_0 < p_1 < ... = n: the bounds of `edges` runs. */
typedef struct {
    int32_t *positions;
    int64_t edges;
} Path;

/* What a search works with: n + 1 positions, and space. labels: (3, n + 1). paths: of n + 1 positions each. */
typedef struct {
    int64_t n;
    Position *at;
    int32_t *labels;
    Path paths[3];
} Search;

/* ------------------------------------------------------------------------------------------------ preparations */

/* 2^(e - 51) for 2^e <= total < 2^(e + 1): sums of multiples of it, up to the total, are exact. */
static double unit_of(double total) {
    int64_t bits;
    memcpy(&bits, &total, sizeof bits);
    const int64_t exponent = bits >> 52;
    bits = MAX(exponent - 51, 1) << 52;
    double unit;
    memcpy(&unit, &bits, sizeof unit);
    return unit;
}

/* Fills the sums of at (n + 1), x being taken from the median.
 *
 * Two guards against rounding: the sums grow outwards from the median, so that an outlier does not drown the rest; and
 * counts are multiples of one power of two, which makes all sums of them exact. */
static void sum_up(const double *restrict values, const double *restrict counts, int64_t n, Position *restrict at) {
    double total = 0, mass = counts[0];
    for (int64_t j = 0; j < n; j++) total += counts[j];
    int64_t middle = 0;
    while (2 * mass < total && middle < n - 1) mass += counts[++middle];
    const double unit = unit_of(total), inverse = 1 / unit, origin = values[middle];
    Position sum = {0, 0, 0, 0};
    at[middle] = sum;
    for (int64_t j = middle; j < n; j++) {
        const double w = MAX(round_even_double(counts[j] * inverse), 1.0) * unit, x = values[j] - origin;
        sum.mass += w, sum.moment += w * x, sum.square += w * x * x;
        at[j + 1] = sum;
    }
    sum = at[middle];
    for (int64_t j = middle - 1; j >= 0; j--) {
        const double w = MAX(round_even_double(counts[j] * inverse), 1.0) * unit, x = values[j] - origin;
        sum.mass -= w, sum.moment -= w * x, sum.square -= w * x * x;
        at[j] = sum;
    }
}

/* Fills grid with at most cells + 1 positions, from 0 to n, spread about as densely as the bounds of good clusters are;
 * how many cells there are. spread (n) is room.
 *
 * That density goes with the cube root of the distribution's (Panter and Dite 1951); the fourth root is near enough,
 * and quicker to take. */
static int64_t coarse_grid(const double *restrict values, const double *restrict counts, int64_t n, int64_t cells,
                           double *restrict spread, int32_t *restrict grid) {
    spread[0] = 0;
    for (int64_t j = 1; j < n; j++) {
        const double gap = values[j] - values[j - 1];
        spread[j] = sqrt(sqrt(counts[j] * gap * gap * gap));
    }
    for (int64_t j = 1; j < n; j++) spread[j] += spread[j - 1];
    const double step = spread[n - 1] / (double)cells;
    double limit = step;
    int64_t size = 1;
    grid[0] = 0;
    for (int64_t j = 1; j < n; j++) {
        if (spread[j] > limit && size < cells) {
            grid[size++] = (int32_t)j;
            limit = MAX(limit + step, spread[j]);
        }
    }
    grid[size] = (int32_t)n;
    return size;
}

/* The cube root of a number that is not negative, to about the last digit; NaN for infinity. */
static double cube_root(double value) {
    int64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = bits / 3 + (1023ll * 2 / 3 << 52); /* a third of the exponent, the mantissa linear: within 6% */
    double root;
    memcpy(&root, &bits, sizeof root);
    for (int i = 0; i < 2; i++) { /* Halley's iteration trebles the digits */
        const double cube = root * root * root;
        root *= (cube + 2 * value) / (2 * cube + value);
    }
    root -= (root * root * root - value) / (3 * root * root); /* Newton's step rounds but once */
    return value == 0 ? 0 : root;
}

/* What the k-th cluster saves in the limit of many clusters, by the integral of Panter and Dite over cells; grid:
 * their bounds, or NULL where each number is a cell. */
static double high_resolution_price(const double *restrict values, const Position *restrict at, int64_t n,
                                    const int32_t *restrict grid, int64_t cells, int64_t k) {
    double root = 0;
    for (int64_t i = 0; i < cells; i++) {
        const int64_t begin = grid ? grid[i] : i, end = grid ? grid[i + 1] : i + 1;
        const double width = values[MIN(end, n - 1)] - values[begin];
        root += cube_root((at[end].mass - at[begin].mass) * width * width);
    }
    return root * (root * root) / (6.0 * (double)(k * k * k));
}

/* --------------------------------------------------------------------------------------------- a shortest path */

/* How much less a run i..j costs around its mean than around the origin. */
INLINE double gain(const Position *at, int64_t i, int64_t j) {
    const double x = at[j].moment - at[i].moment, w = at[j].mass - at[i].mass;
    return x * x / w;
}

/* Two numbers that are computed with at once: a division takes as long for two as for one. */
typedef double Pair __attribute__((vector_size(16)));

/* Is start j worse than start i < j for the end `end`? */
INLINE bool worse(const Position *at, int64_t i, int64_t j, int64_t end) {
    const Pair moments = {at[i].moment, at[j].moment}, masses = {at[i].mass, at[j].mass};
    const Pair bests = {at[i].best, at[j].best};
    const Pair moment = {at[end].moment, at[end].moment}, mass = {at[end].mass, at[end].mass};
    const Pair x = moment - moments, w = mass - masses, cost = bests - x * x / w;
    return cost[1] > cost[0];
}

/* The first end after `end` for which start j is no worse than start i < j; n + 1 if there is none. */
INLINE int64_t overtaking(const Position *at, int64_t n, int64_t i, int64_t j, int64_t end) {
    int64_t low = end, high = end + 1, step = 1;
    while (high <= n && worse(at, i, j, high)) {
        low = high, step *= 2;
        high += step;
    }
    high = MIN(high, n + 1);
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        const bool after = worse(at, i, j, middle); /* nobody can foretell it: no branch */
        low = after ? middle : low;
        high = after ? high : middle;
    }
    return high;
}

/* Fills path with the one that minimises the cost of its runs plus `price` for each.
 *
 * A queue holds the start points that are yet to be the best: starts[q] is it for the ends from since[q] to
 * since[q + 1]. By the Monge property a later start point, once better than an earlier one, stays so; a new one
 * therefore takes over a tail of the queue. */
static void shortest_path(const Search *search, double price, Path *path) {
    const int64_t n = search->n;
    Position *restrict at = search->at;
    int32_t *restrict previous = search->labels;
    int32_t *restrict starts = previous + n + 1;
    int32_t *restrict since = starts + n + 1;
    int64_t head = 0, last = 0;
    at[0].best = -at[0].square, starts[0] = 0, since[0] = 1;
    for (int64_t j = 1; j <= n; j++) {
        while (head < last && since[head + 1] <= j) head++;
        previous[j] = starts[head];
        at[j].best = at[starts[head]].best - gain(at, starts[head], j) + price;
        int64_t end = j + 1;
        for (; last >= head; last--) { /* drop what j beats from its first end on */
            end = MAX(since[last], j + 1);
            if (end > n || worse(at, starts[last], j, end)) break;
        }
        end = last < head ? j + 1 : overtaking(at, n, starts[last], j, end);
        if (end <= n) {
            last = MAX(last + 1, head);
            starts[last] = (int32_t)j, since[last] = (int32_t)end;
        }
    }
    path->edges = 0;
    for (int64_t j = n; j > 0; j = previous[j]) path->edges++;
    int64_t j = n;
    for (int64_t i = path->edges; i >= 0; i--) {
        path->positions[i] = (int32_t)j;
        j = i ? previous[j] : 0;
    }
}

/* ------------------------------------------------------------------------------------- the search for the price */

static double cost_of(const Position *restrict at, const Path *path) {
    double cost = 0;
    for (int64_t i = 0; i < path->edges; i++) {
        const int32_t begin = path->positions[i], end = path->positions[i + 1];
        cost += at[end].square - at[begin].square - gain(at, begin, end);
    }
    return cost;
}

/* Fills path with one of k edges out of two shortest paths of one price, with fewer and with more edges.
 *
 * The first edge of `few` that encloses the edge of `many` a fixed number of edges further on: where `many` is left for
 * `few` by an edge across, the Monge property says that nothing is lost. */
static void splice(const Path *few, const Path *many, int64_t k, Path *path) {
    const int64_t ahead = k - few->edges;
    int64_t i = 0;
    while (few->positions[i + 1] < many->positions[i + 1 + ahead]) i++;
    for (int64_t j = 0; j <= i + ahead; j++) path->positions[j] = many->positions[j];
    for (int64_t j = i + 1; j <= few->edges; j++) path->positions[j + ahead] = few->positions[j];
    path->edges = k;
}

static void swap(Path *one, Path *other) {
    const Path kept = *one;
    *one = *other, *other = kept;
}

/* The cheapest path of k edges from 0 to n, 1 <= k < n. *price: where to begin, then a price at which it is a shortest
 * path.
 *
 * `few` and `many` are the shortest paths found so far that come closest to k edges from below and from above. Until
 * both are found, the price follows the count's power law; then it is the slope of the chord between them (Eisner and
 * Severance 1976): that finds a path between them, or that there is none. */
static const Path *search_price(Search *search, int64_t k, double *price) {
    const int64_t n = search->n;
    Path *few = &search->paths[0], *many = &search->paths[1], *path = &search->paths[2];
    few->positions[0] = 0, few->positions[1] = (int32_t)n, few->edges = 1;
    if (k == 1) return few;
    for (int64_t i = 0; i <= n; i++) many->positions[i] = (int32_t)i;
    many->edges = n;
    bool on_chord = !(*price > 0 && *price < INFINITY);
    for (int tries = 1;; tries++) {
        if (on_chord)
            *price = (cost_of(search->at, few) - cost_of(search->at, many)) / (double)(many->edges - few->edges);
        shortest_path(search, *price, path);
        const int64_t count = path->edges;
        if (count == k) return path;
        if (on_chord && !(few->edges < count && count < many->edges)) {
            splice(few, many, k, path);
            return path;
        }
        if (count < k && count > few->edges) swap(few, path);
        else if (count > k && count < many->edges) swap(many, path);
        const double ratio = (double)count / (double)k;
        *price *= ratio * (ratio * ratio);
        on_chord = tries > 6 || (few->edges > 1 && many->edges < n);
    }
}

/* The price of k runs whose bounds keep to a coarse grid. `room`: for a search over as many positions. */
static double price_on_grid(const Position *restrict at, const int32_t *restrict grid, int64_t cells, int64_t k,
                            double price, Search *room) {
    for (int64_t i = 0; i <= cells; i++) room->at[i] = at[grid[i]];
    search_price(room, k, &price);
    /* Bounds that keep to cells of 1/c of a cluster raise the error, thus the price, by about 1 / (2 c^2). */
    return price * (1 - 0.5 / (CELLS_PER_CLUSTER * CELLS_PER_CLUSTER));
}

/* --------------------------------------------------------------------------------------------------- the kernels */

/* Doubles of a search over n numbers: its positions, and six rows of n + 1 integers. */
static int64_t search_room(int64_t n) {
    return 4 * (n + 1) + 3 * (n + 1);
}

static Search search_in(double *room, int64_t n) {
    Search search = {.n = n, .at = (Position *)room};
    int32_t *integers = (int32_t *)(room + 4 * (n + 1));
    search.labels = integers;
    for (int64_t i = 0; i < 3; i++) search.paths[i].positions = integers + (3 + i) * (n + 1);
    return search;
}

KERNEL(int64_t, partition_room)(int64_t n, int64_t k) {
    const int64_t cells = CELLS_PER_CLUSTER * k;
    return search_room(n) + n + (n > 2 * cells ? search_room(cells) + cells + 1 : 0);
}

KERNEL(int64_t, partition)(const double *restrict values, const double *restrict counts, int64_t n, int64_t k,
                           double *restrict room, int32_t *restrict bounds) {
    if (n <= k) {
        for (int64_t i = 0; i <= n; i++) bounds[i] = (int32_t)i;
        return n;
    }
    Search search = search_in(room, n);
    sum_up(values, counts, n, search.at);
    double price;
    if (n > 2 * CELLS_PER_CLUSTER * k) {
        double *spread = room + search_room(n), *rest = spread + n;
        int32_t *grid = (int32_t *)rest;
        const int64_t cells = coarse_grid(values, counts, n, CELLS_PER_CLUSTER * k, spread, grid);
        price = high_resolution_price(values, search.at, n, grid, cells, k);
        if (k < cells) {
            Search coarse = search_in(rest + CELLS_PER_CLUSTER * k + 1, cells);
            price = price_on_grid(search.at, grid, cells, k, price, &coarse);
        }
    } else {
        price = high_resolution_price(values, search.at, n, NULL, n, k);
    }
    const Path *path = search_price(&search, k, &price);
    memcpy(bounds, path->positions, (size_t)(k + 1) * sizeof *bounds);
    return k;
}

KERNEL(double, means_of_runs)(const double *restrict values, const double *restrict counts,
                              const int32_t *restrict bounds, int64_t runs, double *restrict means) {
    double error = 0;
    for (int64_t i = 0; i < runs; i++) {
        const double origin = values[bounds[i]];
        double mass = 0, moment = 0;
        for (int64_t j = bounds[i]; j < bounds[i + 1]; j++) {
            mass += counts[j];
            moment += counts[j] * (values[j] - origin);
        }
        means[i] = origin + moment / mass;
        for (int64_t j = bounds[i]; j < bounds[i + 1]; j++) {
            const double distance = values[j] - means[i];
            error += counts[j] * (distance * distance);
        }
    }
    return error;
}
