/* Arrays of several types, read as floats and written from floats in one place: kernels compute with floats alone. */
#ifndef COREPRESS_FLOATS_H
#define COREPRESS_FLOATS_H

#include "half.h"

/* How an array stores its elements; `type_of` in kernels/library.py gives the same numbers, and
 * NOTHING for an array without elements. */
enum { NOTHING, INT8, UINT8, INT16, HALF, SINGLE };

INLINE int64_t size_of(int64_t type) {
    return type == SINGLE ? 4 : type == HALF || type == INT16 ? 2 : 1;
}

INLINE float element(const void *array, int64_t type, int64_t i) {
    switch (type) {
        case SINGLE: return ((const float *)array)[i];
        case HALF: return widen(((const uint16_t *)array)[i]);
        case INT8: return ((const int8_t *)array)[i];
        case INT16: return ((const int16_t *)array)[i];
        default: return ((const uint8_t *)array)[i];
    }
}

/* array[first : first + count], of HALF or SINGLE, as floats: in `tile`, which has room for them, or where they lie. */
INLINE const float *floats_of(const void *array, int64_t type, int64_t first, int64_t count, float *restrict tile) {
    if (type == SINGLE) return (const float *)array + first;
    for (int64_t i = 0; i < count; i++) tile[i] = element(array, HALF, first + i);
    return tile;
}

/* A number in the nearest value that the type, HALF or SINGLE, can hold. */
INLINE float rounded_to(float value, int64_t type) {
    return type == HALF ? round_to_half(value) : value;
}

/* Only HALF, rounded to nearest, and SINGLE. */
INLINE void set_element(void *array, int64_t type, int64_t i, float value) {
    if (type == HALF) ((uint16_t *)array)[i] = narrow(value);
    else ((float *)array)[i] = value;
}

#endif
