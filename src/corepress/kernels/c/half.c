/* float16 to float and back, a whole array at a time. */
#include "half.h"

/* halves (count) -> values (count), which do not overlap. */
KERNEL(void, widen)(const uint16_t *restrict halves, int64_t count, float *restrict values) {
    for (int64_t i = 0; i < count; i++) values[i] = widen(halves[i]);
}

/* values (count) -> the bits of the nearest halves (count), which do not overlap. */
KERNEL(void, narrow)(const float *restrict values, int64_t count, uint16_t *restrict halves) {
    for (int64_t i = 0; i < count; i++) halves[i] = narrow(values[i]);
}

/* values (count), each rounded to the nearest float16, still as float. */
KERNEL(void, round_to_half)(const float *restrict values, int64_t count, float *restrict rounded) {
    for (int64_t i = 0; i < count; i++) rounded[i] = round_to_half(values[i]);
}
