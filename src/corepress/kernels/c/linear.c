/* Linear quantization in blocks, and back. A row is one block, and has a scale and a zero point. */
#include "lanes.h"

#define TILE 4096 /* values at once: as floats, half of the nearest cache */

/* Back. */

INLINE void shift_scale(const void *restrict data, int64_t data_type, int64_t rows, int64_t size,
                        const void *restrict scales, const void *restrict offsets, int64_t type,
                        void *restrict dense) {
    /* Without the instructions of AVX2 for float16, the loop that compilers vectorise themselves is the faster one. */
    const int64_t whole = LANES == 8 ? size / LANES * LANES : 0;
    for (int64_t row = 0; row < rows; row++) {
        const float scale = element(scales, type, row), offset = element(offsets, type, row);
        const int64_t first = row * size;
#pragma GCC unroll 4
        for (int64_t i = first; i < first + whole; i += LANES)
            store_lanes(scale * lanes_to(load_lanes(data, data_type, i) - offset, type), type, dense, i);
        for (int64_t i = first + whole; i < first + size; i++)
            set_element(dense, type, i, scale * rounded_to(element(data, data_type, i) - offset, type));
    }
}

/* data (rows, size) of INT8, UINT8 or `type`, scales and offsets (rows) of `type`, HALF or SINGLE -> dense (rows, size)
 * of `type`: scale * (data - offset), each step rounded to it. Nothing overlaps. */
KERNEL(void, shift_scale_rows)(const void *restrict data, int64_t data_type, int64_t rows, int64_t size,
                               const void *restrict scales, const void *restrict offsets, int64_t type,
                               void *restrict dense) {
    switch (8 * data_type + type) { /* as constants, types let loops vectorise */
        case 8 * INT8 + HALF: shift_scale(data, INT8, rows, size, scales, offsets, HALF, dense); break;
        case 8 * UINT8 + HALF: shift_scale(data, UINT8, rows, size, scales, offsets, HALF, dense); break;
        case 8 * HALF + HALF: shift_scale(data, HALF, rows, size, scales, offsets, HALF, dense); break;
        case 8 * INT8 + SINGLE: shift_scale(data, INT8, rows, size, scales, offsets, SINGLE, dense); break;
        case 8 * UINT8 + SINGLE: shift_scale(data, UINT8, rows, size, scales, offsets, SINGLE, dense); break;
        default: shift_scale(data, SINGLE, rows, size, scales, offsets, SINGLE, dense);
    }
}

/* Forth. A level times the scale is a value: `low` and `high` are the ends of the integers less the zero point. */

typedef struct {
    int64_t lowest, highest; /* the integers of the type */
    bool symmetric;          /* no zero point, or that in the middle */
    bool search;             /* for the scales of least error, with all integers of the type */
    int64_t type;            /* of the scales, HALF or SINGLE */
} Plan;

/* A row of a weight, of HALF or SINGLE. */
typedef struct {
    const void *values;
    int64_t type, size;
} Row;

/* The row `r` rows further down. */
INLINE Row below(Row row, int64_t r) {
    return (Row){(const char *)row.values + r * row.size * size_of(row.type), row.type, row.size};
}

typedef struct {
    float scale, zero;
} Scale;

/* A conversion to an integer, of which NaN makes 0. */
INLINE uint8_t byte_of(float value) {
    return value != value ? 0 : (uint8_t)(int32_t)value;
}

/* Integers that order as the floats of these bits do, NaN outermost; its own inverse. */
INLINE int32_t ordered(int32_t bits) {
    return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

/* A range, as ordered integers, extended to some values. */
static void extend(const float *values, int64_t count, int32_t *least, int32_t *most) {
    int32_t low = *least, high = *most;
    for (int64_t i = 0; i < count; i++) {
        const int32_t value = ordered((int32_t)bits_of(values[i]));
        low = MIN(low, value), high = MAX(high, value);
    }
    *least = low, *most = high;
}

/* The least and the largest value of a row; NaN if it holds one. */
static void extremes(Row row, float *bottom, float *top) {
    float tile[TILE];
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (int64_t i = 0; i < row.size; i += TILE) {
        const int64_t count = MIN(TILE, row.size - i);
        extend(floats_of(row.values, row.type, i, count, tile), count, &least, &most);
    }
    *bottom = float_of((uint32_t)ordered(least)), *top = float_of((uint32_t)ordered(most));
}

/* Scale and zero point of the range of a block, with the roundings of coremltools unless these overflow. */
static Scale plain_scale(float bottom, float top, const Plan *plan) {
    const float first = (float)plan->lowest, last = (float)plan->highest, steps = last - first;
    const float smallest = plan->type == HALF ? SMALLEST_HALF : 0x1p-149f;
    const float largest = plan->type == HALF ? LARGEST_HALF : 0x1.fffffep127f;
    const int64_t type = plan->type;
    bottom = MAX(MIN(bottom, 0.0f), -largest), top = MIN(MAX(top, 0.0f), largest);
    const float peak = MAX(-bottom, top);
    float scale, zero;
    if (plan->symmetric) {
        const float levels = (float)((plan->highest - plan->lowest) / 2);
        zero = plan->lowest < 0 ? 0.0f : levels;
        scale = rounded_to(peak / levels, type);
    } else {
        const float span = rounded_to(top - bottom, type);
        const float shift = rounded_to(rounded_to(first * top, type) - rounded_to(last * bottom, type), type);
        scale = rounded_to(span / steps, type), zero = rounded_to(shift / span, type);
        if (!(isfinite(span) && isfinite(shift))) {
            const double wide = (double)top - (double)bottom;
            scale = rounded_to((float)(wide / steps), type);
            zero = (float)(((double)first * top - (double)last * bottom) / wide);
        }
        zero = MIN(MAX(round_even(zero), first), last);
    }
    if (peak == 0) return (Scale){1.0f, plan->symmetric ? zero : MIN(MAX(0.0f, first), last)};
    scale = MAX(scale, smallest);
    if (peak > largest / 2) /* rounded up, the scale may carry the largest value beyond what its type can hold */
        while (!isfinite(rounded_to(scale * round_even(peak / scale), type)))
            scale = rounded_to(scale * (1 - 0x1p-11f), type);
    return (Scale){scale, zero};
}

INLINE Floats clamp(Floats values, float low, float high) {
    return lanes_min(lanes_max(values, all(low)), all(high));
}

/* The levels whose products with the scale, once rounded to its type, are nearest to the values. */
INLINE Floats nearest(Floats values, float scale, float low, float high, int64_t type) {
    const Floats ratio = values / scale;
    const Floats level = clamp(lanes_round(ratio), low, high);
    const Floats other = clamp(level + with_sign(all(1), ratio - level), low, high);
    const Floats miss = magnitude_of(values - lanes_to(scale * level, type));
    const Floats other_miss = magnitude_of(values - lanes_to(scale * other, type));
    return choose(other_miss < miss, other, level);
}

INLINE void round_values(const float *restrict values, int64_t count, Scale at, float low, float high, int64_t type,
                         uint8_t *restrict data) {
    int64_t i = 0;
#pragma GCC unroll 2
    for (; i + LANES <= count; i += LANES)
        store_bytes(nearest(load_lanes(values, SINGLE, i), at.scale, low, high, type) + at.zero, data + i);
    if (i == count) return;
    uint8_t rest[LANES];
    store_bytes(nearest(load_some(values, SINGLE, i, count - i), at.scale, low, high, type) + at.zero, rest);
    for (int64_t k = 0; i + k < count; k++) data[i + k] = rest[k];
}

/* The integers of a row. */
static void round_row(Row row, Scale at, const Plan *plan, uint8_t *data) {
    float tile[TILE];
    /* A symmetric range skips the integer without an opposite: the lowest if signed, the highest if not. */
    const bool narrower = plan->symmetric && !plan->search;
    const float low = (float)(plan->lowest + (narrower && plan->lowest < 0)) - at.zero;
    const float high = (float)(plan->highest - (narrower && plan->lowest >= 0)) - at.zero;
    for (int64_t i = 0; i < row.size; i += TILE) {
        const int64_t count = MIN(TILE, row.size - i);
        const float *values = floats_of(row.values, row.type, i, count, tile);
        if (plan->type == HALF) round_values(values, count, at, low, high, HALF, data + i);
        else round_values(values, count, at, low, high, SINGLE, data + i);
    }
}

/* The search. Errors e of a row w cost the squares of a layer's outputs, for inputs that nothing is known of but what
 * those of most layers have in common: |e|^2 + MEAN (sum e)^2 + GAIN (e w)^2 / |w|^2.
 *
 * The second is their mean. Behind a relu of normally distributed numbers its square is 1 / (pi - 1) = 0.47 times their
 * variance, behind a norm nothing. The third is that inputs to which an output is large are like its weights, as far as
 * these were learnt: an error that makes all of a row smaller, as clipping does, changes the outputs that count most. */
#define MEAN 0.1f
#define GAIN 5.0f

typedef struct {
    float cost, refit, factor, zero; /* cost: the least for the integers that `factor` gives; refit: its scale */
} Fit;

/* Rounds a row, of which `energy` is the sum of squares in steps of the plain scale, with `factor` times this scale.
 * Its integers q leave r, and t more of the scale leaves r - t q, whose cost is a parabola in t. From r it comes out
 * exacter than from the values, whose sums are so much larger. The better of `best` and this try. */
INLINE Fit better_fit(Fit best, const float *values, int64_t size, float inverse, float energy, float factor,
                      float zero, const Plan *plan) {
    Floats errors[PARTS] = {{0}}, crosses[PARTS] = {{0}}, squares[PARTS] = {{0}};
    Floats residuals[PARTS] = {{0}}, levels[PARTS] = {{0}};
    const float narrower = 1 / factor, low = (float)plan->lowest - zero, high = (float)plan->highest - zero;
    for (int64_t i = 0; i < size; i += SUMS) {
        for (int part = 0; part < PARTS; part++) {
            const Floats value = load_up_to(values, size, i + part * LANES) * inverse;
            const Floats level = clamp(lanes_round(value * narrower), low, high), residual = value - factor * level;
            errors[part] += residual * residual, crosses[part] += residual * level, squares[part] += level * level;
            residuals[part] += residual, levels[part] += level;
        }
    }
    const float error = sum_of(errors), cross = sum_of(crosses), square = sum_of(squares);
    const float residual = sum_of(residuals), level = sum_of(levels), gain = GAIN / energy;
    const float lost = error + factor * cross, along = cross + factor * square; /* r w and q w */
    const float bend = square + MEAN * (level * level) + gain * (along * along);
    const float slope = cross + MEAN * (residual * level) + gain * (lost * along);
    const float start = error + MEAN * (residual * residual) + gain * (lost * lost);
    const float more = slope / bend, cost = start - slope * more;
    return cost < best.cost ? (Fit){cost, factor + more, factor, zero} : best;
}

INLINE double cost_of(const float *values, int64_t size, Scale at, float low, float high, int64_t type) {
    Doubles squares[2] = {{0}}, sums[2] = {{0}}, products[2] = {{0}}, energies[2] = {{0}};
    for (int64_t i = 0; i < size; i += SUMS)
        for (int part = 0; part < PARTS; part++) {
            const Floats some = load_up_to(values, size, i + part * LANES);
            const Floats miss = some - lanes_to(at.scale * nearest(some, at.scale, low, high, type), type);
            add_products(miss, miss, squares + part), add_products(miss, all(1), sums + part);
            add_products(miss, some, products + part), add_products(some, some, energies + part);
        }
    const double sum = sum_of_products(sums), product = sum_of_products(products);
    return sum_of_products(squares) + MEAN * (sum * sum) + GAIN * (product * product) / sum_of_products(energies);
}

static double cost(const float *values, int64_t size, Scale at, const Plan *plan) {
    const float low = (float)plan->lowest - at.zero, high = (float)plan->highest - at.zero;
    return plan->type == HALF ? cost_of(values, size, at, low, high, HALF) : cost_of(values, size, at, low, high, SINGLE);
}

INLINE float energy_of(const float *values, int64_t size, float inverse) {
    Floats squares[PARTS] = {{0}};
    for (int64_t i = 0; i < size; i += SUMS)
        for (int part = 0; part < PARTS; part++) {
            const Floats value = load_up_to(values, size, i + part * LANES) * inverse;
            squares[part] += value * value;
        }
    return sum_of(squares);
}

/* A scale and zero point that cost less than the plain ones, or these: the best of 0.4 to 1.1 times the plain scale,
 * then of its neighbours, then of the scale that spreads all integers over the range, or of the neighbours of its zero
 * point. */
static Scale better_scale(const float *values, int64_t size, Scale plain, const Plan *plan) {
    const float inverse = 1 / plain.scale, first = (float)plan->lowest, last = (float)plan->highest;
    const float energy = energy_of(values, size, inverse);
    Fit best = {INFINITY, 1, 1, plain.zero};
    for (int tenths = 4; tenths < 12; tenths++)
        best = better_fit(best, values, size, inverse, energy, (float)(tenths / 10.0), plain.zero, plan);
    const float coarse = best.factor;
    for (int side = -1; side <= 1; side += 2)
        best = better_fit(best, values, size, inverse, energy, coarse + (float)side * 0.05f, plain.zero, plan);
    if (plan->symmetric) {
        const float half = (float)((plan->highest - plan->lowest) / 2);
        best = better_fit(best, values, size, inverse, energy, half / (half + 0.5f), plain.zero, plan);
    }
    const float fine = best.factor;
    for (int side = -1; side <= 1 && !plan->symmetric; side += 2) {
        const float zero = MIN(MAX(plain.zero + (float)side, first), last);
        best = better_fit(best, values, size, inverse, energy, fine, zero, plan);
    }
    best = better_fit(best, values, size, inverse, energy, best.refit, best.zero, plan);
    const Scale found = {rounded_to(plain.scale * best.refit, plan->type), best.zero};
    if (!(isfinite(found.scale) && found.scale > 0)) return plain;
    return cost(values, size, found, plan) < cost(values, size, plain, plan) ? found : plain;
}

/* The scale of a row; false if it holds infinities or NaN. */
static bool settle_row(Row row, const Plan *plan, Scale *at) {
    float bottom, top;
    extremes(row, &bottom, &top);
    if (!(isfinite(bottom) && isfinite(top))) return false;
    *at = plain_scale(bottom, top, plan);
    if (plan->search && (bottom != 0 || top != 0)) *at = better_scale(row.values, row.size, *at, plan);
    return true;
}

/* rows (count, size of at least 1) of row_type, which is SINGLE for a search -> data (count, size): integers from
 * `lowest` to `highest`, signed or not; scales (count) of `type`; zeros (count): zero points, like data. Types: HALF or
 * SINGLE. Nothing overlaps. False, with data unfinished, if rows hold infinities or NaN. */
KERNEL(int64_t, quantize_rows)(const char *restrict rows, int64_t row_type, int64_t count, int64_t size,
                               int64_t lowest, int64_t highest, int64_t symmetric, int64_t search, int64_t type,
                               uint8_t *restrict data, void *restrict scales, uint8_t *restrict zeros) {
    const Plan plan = {lowest, highest, symmetric, search, type};
    float tile[TILE];
    /* Scales of some rows first, then their integers: the processor overlaps the long chains behind several scales,
     * and the values are still in its cache, as floats if they fit. */
    const int64_t batch = MAX(1, TILE / size);
    for (int64_t start = 0; start < count; start += batch) {
        const int64_t stop = MIN(start + batch, count);
        Row row = {rows + start * size * size_of(row_type), row_type, size};
        if (size <= TILE)
            row = (Row){floats_of(row.values, row_type, 0, (stop - start) * size, tile), SINGLE, size};
        for (int64_t r = start; r < stop; r++) {
            Scale at;
            if (!settle_row(below(row, r - start), &plan, &at)) return false;
            set_element(scales, type, r, at.scale);
            zeros[r] = byte_of(at.zero);
        }
        for (int64_t r = start; r < stop; r++) {
            const float zero = lowest < 0 ? (float)(int8_t)zeros[r] : (float)zeros[r];
            round_row(below(row, r - start), (Scale){element(scales, type, r), zero}, &plan, data + r * size);
        }
    }
    return true;
}
