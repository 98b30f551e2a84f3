/* Arrays with their axes in another order. */
#include "common.h"

/* In tiles of 32 x 32, which stay in the nearest cache while they are read across and written down. */
#define SIDE 32

INLINE void swap_tile(const char *restrict array, int64_t rows, int64_t columns, int64_t top, int64_t left,
                      int64_t size, char *restrict swapped) {
    const int64_t bottom = MIN(top + SIDE, rows), right = MIN(left + SIDE, columns);
    for (int64_t column = left; column < right; column++)
        for (int64_t row = top; row < bottom; row++)
            memcpy(swapped + (column * rows + row) * size, array + (row * columns + column) * size, (size_t)size);
}

INLINE void swap_matrix(const char *restrict array, int64_t rows, int64_t columns, int64_t size,
                        char *restrict swapped) {
    for (int64_t top = 0; top < rows; top += SIDE)
        for (int64_t left = 0; left < columns; left += SIDE)
            swap_tile(array, rows, columns, top, left, size, swapped);
}

/* array (outer, rows, columns) -> swapped (outer, columns, rows), elements of 1, 2, 4 or 8 bytes; no overlap. */
KERNEL(void, swap_inner)(const char *restrict array, int64_t outer, int64_t rows, int64_t columns, int64_t size,
                         char *restrict swapped) {
    for (int64_t i = 0; i < outer; i++) {
        switch (size) { /* as a constant, it makes each copy a single instruction */
            case 1: swap_matrix(array, rows, columns, 1, swapped); break;
            case 2: swap_matrix(array, rows, columns, 2, swapped); break;
            case 4: swap_matrix(array, rows, columns, 4, swapped); break;
            default: swap_matrix(array, rows, columns, 8, swapped);
        }
        array += rows * columns * size, swapped += rows * columns * size;
    }
}
