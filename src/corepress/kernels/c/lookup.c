/* Indices into look-up tables, turned into the entries, and numbers turned into indices. */
#include "common.h"

/* dense[i] = table[indices[i]], entries of `size` bytes. */
INLINE void look_up_entries(const uint8_t *restrict indices, int64_t count, const char *restrict table, int64_t size,
                            char *restrict dense) {
    for (int64_t i = 0; i < count; i++) memcpy(dense + i * size, table + indices[i] * size, (size_t)size);
}

/* indices (rows, count), each below `entries`, tables (rows, entries) of entries of `size` bytes -> dense (rows, count)
 * of entries. Nothing overlaps. */
KERNEL(void, look_up)(const uint8_t *restrict indices, int64_t rows, int64_t count, const char *restrict tables,
                      int64_t entries, int64_t size, char *restrict dense) {
    for (int64_t row = 0; row < rows; row++) {
        switch (size) { /* as a constant, it makes each copy a single instruction */
            case 1: look_up_entries(indices, count, tables, 1, dense); break;
            case 2: look_up_entries(indices, count, tables, 2, dense); break;
            case 4: look_up_entries(indices, count, tables, 4, dense); break;
            case 6: look_up_entries(indices, count, tables, 6, dense); break;
            case 8: look_up_entries(indices, count, tables, 8, dense); break;
            case 16: look_up_entries(indices, count, tables, 16, dense); break;
            default: look_up_entries(indices, count, tables, size, dense);
        }
        indices += count, tables += entries * size, dense += count * size;
    }
}

#define BLOCK 256 /* numbers that stay in the cache while they pass all edges */

/* points (rows, count): of each the code of its entry, and the entry. tables (rows, entries): ascending; edges (rows,
 * entries - 1): from where on, itself not included, the next entry is taken. Of NaN the first. */
KERNEL(void, take_entries)(const float *restrict points, int64_t rows, int64_t count, const float *restrict edges,
                           const float *restrict tables, int64_t entries, uint8_t *restrict codes,
                           float *restrict dense) {
    for (int64_t row = 0; row < rows; row++) {
        const float *edge = edges + row * (entries - 1), *table = tables + row * entries;
        for (int64_t begin = 0; begin < count; begin += BLOCK) {
            const int64_t size = MIN(count - begin, BLOCK), first = row * count + begin;
            const float *point = points + first;
            uint8_t *code = codes + first;
            float *taken = dense + first;
            for (int64_t i = 0; i < size; i++) code[i] = 0, taken[i] = table[0];
            for (int64_t k = 0; k < entries - 1; k++) {
                const float where = edge[k], value = table[k + 1];
                for (int64_t i = 0; i < size; i++) code[i] += point[i] > where;
                for (int64_t i = 0; i < size; i++) taken[i] = point[i] > where ? value : taken[i];
            }
        }
    }
}
