/* The columns of a group are settled one by one (algorithms/fitted/sweep.py), 64 rows at a time, which stay in the cache. */
#include "common.h"

#define LANES 64
#define FEW 64

/* A group of columns; matrices are (columns, rows), so that neighbours in memory are of neighbouring rows.
 * `inverse`: (columns, columns), upper triangular. `kept`: null where nothing is pruned. `block_of`: (columns), the
 * block of each column; null where nothing is rounded. `scale`, `zero`: (blocks, rows). `palette`: ascending; null for
 * evenly spaced levels up to `top`. `pruned`, `of`: so many of every so many columns of a row are pruned; or 0, 0. */
struct group {
    float *target;
    const float *inverse;
    uint8_t *kept, *levels;
    const float *scale, *zero, *palette;
    const int64_t *block_of;
    int64_t entries, pruned, of, columns, rows;
    float top;
};

/* values -> scale * (level - zero), with the nearest level from 0 to `top`. The integer part of `zero` is added last, so
 * that of two levels equally near the even one is taken where `zero` is an integer, too. */
INLINE void round_to_levels(float *restrict values, const float *restrict scale, const float *restrict zero, float top,
                            uint8_t *restrict levels, int64_t lanes) {
    for (int64_t lane = 0; lane < lanes; lane++) {
        const float size = scale[lane], shift = zero[lane], whole = round_even(shift);
        const float nearest = round_even(values[lane] / size + (shift - whole)) + whole;
        const float level = MIN(MAX(nearest, 0.0f), top);
        values[lane] = size * (level - shift);
        levels[lane] = (uint8_t)(int32_t)MAX(0.0f, level); /* 0 for NaN */
    }
}

/* values -> scale * palette[level], with the nearest level. */
INLINE void round_to_palette(float *restrict values, const float *restrict scale, const float *restrict palette,
                             int64_t entries, uint8_t *restrict levels, int64_t lanes) {
    float ratio[LANES], found[LANES];
    int32_t level[LANES];
    for (int64_t lane = 0; lane < lanes; lane++) ratio[lane] = values[lane] / scale[lane];
    for (int64_t lane = 0; lane < lanes; lane++) level[lane] = 0, found[lane] = palette[0];
    for (int64_t k = 1; k < entries; k++) {
        const float middle = (palette[k - 1] + palette[k]) / 2.0f, entry = palette[k];
        for (int64_t lane = 0; lane < lanes; lane++) {
            level[lane] += ratio[lane] > middle;
            found[lane] = ratio[lane] > middle ? entry : found[lane];
        }
    }
    for (int64_t lane = 0; lane < lanes; lane++) {
        values[lane] = scale[lane] * found[lane];
        levels[lane] = (uint8_t)level[lane];
    }
}

/* Of the columns `begin` to `end`, each row gives up the cheapest; those that are zero already count, as does NaN.
 * `tile`: the values of `lanes` rows from `first` on, (columns, LANES). `cost`: room for (end - begin, LANES). */
static void prune(const struct group *group, const float *restrict tile, int64_t begin, int64_t end, int64_t first,
                  int64_t lanes, float *restrict cost) {
    uint8_t *kept = group->kept + begin * group->rows + first;
    for (int64_t i = 0; i < end - begin; i++) {
        const float pivot = group->inverse[(begin + i) * (group->columns + 1)];
        const float *value = tile + (begin + i) * LANES;
        for (int64_t lane = 0; lane < lanes; lane++)
            cost[i * LANES + lane] = kept[i * group->rows + lane] ? fabsf(value[lane] / pivot) : -1.0f;
    }
    for (int64_t turn = 0; turn < MIN(group->pruned, end - begin); turn++) {
        float least[LANES];
        int32_t cheapest[LANES];
        for (int64_t lane = 0; lane < lanes; lane++) least[lane] = cost[lane], cheapest[lane] = 0;
        for (int64_t i = 1; i < end - begin; i++) {
            for (int64_t lane = 0; lane < lanes; lane++) {
                const float own = cost[i * LANES + lane];
                const bool cheaper = (least[lane] == least[lane]) & !(own >= least[lane]);
                least[lane] = cheaper ? own : least[lane];
                cheapest[lane] = cheaper ? (int32_t)i : cheapest[lane];
            }
        }
        for (int64_t lane = 0; lane < lanes; lane++) {
            cost[cheapest[lane] * LANES + lane] = INFINITY;
            kept[cheapest[lane] * group->rows + lane] = 0;
        }
    }
}

/* The column `i` of `tile` takes its final values; `error`: by how much each was changed. */
static void settle_column(const struct group *group, float *restrict value, int64_t i, int64_t first, int64_t lanes,
                          float *restrict error) {
    for (int64_t lane = 0; lane < lanes; lane++) error[lane] = value[lane];
    if (group->kept) {
        const uint8_t *kept = group->kept + i * group->rows + first;
        for (int64_t lane = 0; lane < lanes; lane++) value[lane] *= (float)kept[lane];
    }
    if (group->block_of) {
        const int64_t place = group->block_of[i] * group->rows + first;
        const float *scale = group->scale + place, *zero = group->zero + place;
        uint8_t *levels = group->levels + i * group->rows + first;
        if (group->palette) round_to_palette(value, scale, group->palette, group->entries, levels, lanes);
        else round_to_levels(value, scale, zero, group->top, levels, lanes);
    }
    for (int64_t lane = 0; lane < lanes; lane++) error[lane] -= value[lane];
}

/* Settle all columns of `group` in the rows from `start` to `stop`: what `target` and, where values are pruned, `kept`
 * held at first gives way to the result. `room`: LANES * (columns + of + 1) + columns floats, zero in the beginning. */
KERNEL(void, settle)(float *target, const float *inverse, uint8_t *kept, int64_t pruned, int64_t of, const float *scale,
                     const float *zero, const int64_t *block_of, float top, const float *palette, int64_t entries,
                     uint8_t *levels, int64_t columns, int64_t rows, int64_t start, int64_t stop, float *room) {
    const struct group group = {target,  inverse, kept, levels,  scale, zero, palette, block_of,
                                entries, pruned,  of,   columns, rows,  top};
    float *tile = room, *cost = tile + columns * LANES, *error = cost + of * LANES, *share = error + LANES;
    for (int64_t first = start; first < stop; first += LANES) {
        const int64_t lanes = MIN(LANES, stop - first);
        for (int64_t i = 0; i < columns; i++)
            memcpy(tile + i * LANES, target + i * rows + first, (size_t)lanes * sizeof(float));
        for (int64_t i = 0; i < columns; i++) {
            if (of > 0 && i % of == 0) prune(&group, tile, i, MIN(i + of, columns), first, lanes, cost);
            settle_column(&group, tile + i * LANES, i, first, lanes, error);
            const float *factor = inverse + i * columns;
            for (int64_t j = i + 1; j < columns; j++) share[j] = factor[j] / factor[i];
            for (int64_t j = i + 1; j < columns; j++) /* all LANES: a loop without an end to look for */
                for (int lane = 0; lane < LANES; lane++)
                    tile[j * LANES + lane] = fused(-error[lane], share[j], tile[j * LANES + lane]);
        }
        for (int64_t i = 0; i < columns; i++)
            memcpy(target + i * rows + first, tile + i * LANES, (size_t)lanes * sizeof(float));
    }
}

/* The element that sorting would bring to place `k`, for bits of floats that are not negative: these are ordered as
 * their values are. values (count), fewer than 2^32; counts: room for 65,536. */
KERNEL(uint32_t, smallest)(const uint32_t *restrict values, int64_t count, int64_t k, uint32_t *restrict counts) {
    uint32_t high = 0, low = 0;
    memset(counts, 0, 65536 * sizeof *counts);
    for (int64_t i = 0; i < count; i++) counts[values[i] >> 16]++;
    for (; counts[high] <= k; high++) k -= counts[high];
    memset(counts, 0, 65536 * sizeof *counts);
    for (int64_t first = 0; first < count; first += FEW) { /* few have these upper bits: most often none of FEW */
        const int64_t size = MIN(FEW, count - first);
        const uint32_t *few = values + first;
        uint32_t found = 0;
        if (size == FEW)
            for (int i = 0; i < FEW; i++) found += few[i] >> 16 == high;
        if (size == FEW && !found) continue;
        for (int64_t i = 0; i < size; i++)
            if (few[i] >> 16 == high) counts[few[i] & 0xFFFF]++;
    }
    for (; counts[low] <= k; low++) k -= counts[low];
    return high << 16 | low;
}
