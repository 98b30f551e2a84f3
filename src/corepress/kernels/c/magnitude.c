/* Pruning by magnitude. Magnitudes are the bits of floating-point numbers without their sign, which order as they do;
 * infinity and NaN come last. Numbers have 1, 2, 4 or 8 bytes. */
#include "common.h"

/* values (count) of 2 bytes -> counts (1 << 15), zeros before: how many have each magnitude. Four are read at a time,
 * for the loads are what it waits for. */
KERNEL(void, count_magnitudes)(const uint16_t *restrict values, int64_t count, uint32_t *restrict counts) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint64_t four;
        memcpy(&four, values + i, sizeof four);
        counts[four & 0x7FFF]++, counts[four >> 16 & 0x7FFF]++;
        counts[four >> 32 & 0x7FFF]++, counts[four >> 48 & 0x7FFF]++;
    }
    for (; i < count; i++) counts[values[i] & 0x7FFF]++;
}

/* values (count) -> mask (count): which magnitudes are above the limit; the largest of all. */
#define ABOVE(type)                                                                            \
    static type above_##type(const type *restrict values, int64_t count, type limit, uint8_t *restrict mask) { \
        type largest = 0;                                                                      \
        for (int64_t i = 0; i < count; i++) {                                                  \
            const type magnitude = values[i] & (type)((type)-1 / 2);                           \
            mask[i] = magnitude > limit;                                                       \
            largest = MAX(largest, magnitude);                                                 \
        }                                                                                      \
        return largest;                                                                        \
    }

ABOVE(uint8_t)
ABOVE(uint16_t)
ABOVE(uint32_t)
ABOVE(uint64_t)

/* The same for values of `size` bytes. */
KERNEL(uint64_t, above)(const void *restrict values, int64_t count, int64_t size, uint64_t limit,
                        uint8_t *restrict mask) {
    switch (size) {
        case 1: return above_uint8_t(values, count, (uint8_t)limit, mask);
        case 2: return above_uint16_t(values, count, (uint16_t)limit, mask);
        case 4: return above_uint32_t(values, count, (uint32_t)limit, mask);
        default: return above_uint64_t(values, count, limit, mask);
    }
}

#define COLUMNS 1024 /* at once */

/* Of some columns of keys and keep (members, stride), true for all but the `drop` smallest of each, and never for zero.
 * Of equal keys the first is the smallest. Ranks are as wide as keys, so that loops vectorise. */
#define KEEP_LARGEST(type)                                                                                       \
    static void keep_largest_##type(const type *restrict keys, int64_t members, int64_t stride, int64_t columns, \
                                    type drop, uint8_t *restrict keep) {                                         \
        type rank[COLUMNS];                                                                                      \
        for (int64_t i = 0; i < members; i++) {                                                                  \
            const type *mine = keys + i * stride;                                                                \
            memset(rank, 0, sizeof rank);                                                                        \
            for (int64_t j = 0; j < i; j++)                                                                      \
                for (int64_t c = 0; c < columns; c++) rank[c] += keys[j * stride + c] <= mine[c];                \
            for (int64_t j = i + 1; j < members; j++)                                                            \
                for (int64_t c = 0; c < columns; c++) rank[c] += keys[j * stride + c] < mine[c];                 \
            for (int64_t c = 0; c < columns; c++) keep[i * stride + c] = (rank[c] >= drop) & (mine[c] > 0);      \
        }                                                                                                        \
    }

KEEP_LARGEST(uint16_t)
KEEP_LARGEST(uint32_t)
KEEP_LARGEST(uint64_t)

/* The same for all columns, of keys of `size` bytes, of 2, 4 or 8. */
KERNEL(void, keep_largest)(const char *restrict keys, int64_t members, int64_t groups, int64_t size, int64_t drop,
                           uint8_t *restrict keep) {
    for (int64_t i = 0; i < groups; i += COLUMNS) {
        const int64_t columns = MIN(COLUMNS, groups - i);
        const void *first = keys + i * size;
        switch (size) {
            case 2: keep_largest_uint16_t(first, members, groups, columns, (uint16_t)drop, keep + i); break;
            case 4: keep_largest_uint32_t(first, members, groups, columns, (uint32_t)drop, keep + i); break;
            default: keep_largest_uint64_t(first, members, groups, columns, (uint64_t)drop, keep + i);
        }
    }
}
