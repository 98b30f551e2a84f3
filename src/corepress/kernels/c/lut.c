/* Look-up tables fitted to the inputs of a layer: the steps of algorithms/fitted/lut_gptq.py that go row by row.
 *
 * A row is of `dim` numbers for each column (dim, columns), its codes are (columns). `tables`: (groups, dim, entries),
 * a group for equally many rows each: row r of `rows` has table r * groups / rows. Entries are a multiple of EIGHT,
 * filled up with infinities, which are never nearer than another. Matrices of inputs, `inputs` of them, serve equally
 * many rows each, too: those of a grouped convolution. Rows go from `first` to `last`.
 */
#include "common.h"

#define MOST 256 /* entries of a table */
#define EIGHT 8  /* loops over entries go by so many */

/* The entry of least squared distance to `wanted` (dim); `entry` if there are several. table: (dim, entries). */
INLINE int64_t nearest(const float *restrict table, int64_t entries, const float *restrict wanted, int64_t dim,
                       int64_t entry) {
    float distance[MOST];
    entries = entries / EIGHT * EIGHT; /* now the compiler knows, too */
    for (int64_t k = 0; k < entries; k++) distance[k] = (wanted[0] - table[k]) * (wanted[0] - table[k]);
    for (int64_t j = 1; j < dim; j++) {
        const float *own = table + j * entries, value = wanted[j];
        for (int64_t k = 0; k < entries; k++) distance[k] += (value - own[k]) * (value - own[k]);
    }
    /* Without a sign, bits are ordered as the numbers are, and the least of integers is found many at a time. */
    uint32_t least = UINT32_MAX;
    for (int64_t k = 0; k < entries; k++) least = MIN(least, bits_of(distance[k]));
    if (!(float_of(least) < distance[entry])) return entry;
    int32_t found = MOST;
    for (int32_t k = 0; k < (int32_t)entries; k++) found = MIN(found, bits_of(distance[k]) == least ? k : MOST);
    return found;
}

/* Column by column, each takes the nearest entry, and those after it make up for the error (as in GPTQ).
 * target (rows, dim, width): what is wanted; units (inputs, width, width): how an error passes on, upper triangular. Of
 * codes and errors, for `columns` each, those from `begin` on are of this group. errors: the weight's own values at
 * first, the errors made at last. `wanted`: room for dim. */
KERNEL(void, feedback)(float *restrict target, const float *restrict units, int64_t inputs, const float *restrict tables,
                       int64_t groups, int64_t entries, uint8_t *restrict codes, float *restrict errors, int64_t begin,
                       int64_t columns, int64_t width, int64_t dim, int64_t rows, int64_t first, int64_t last,
                       float *restrict wanted) {
    for (int64_t r = first; r < last; r++) {
        const float *unit = units + r * inputs / rows * width * width;
        const float *table = tables + r * groups / rows * dim * entries;
        float *own = target + r * dim * width, *error = errors + r * dim * columns + begin;
        for (int64_t i = 0; i < width; i++) {
            for (int64_t j = 0; j < dim; j++) wanted[j] = own[j * width + i];
            const int64_t code = nearest(table, entries, wanted, dim, 0);
            codes[r * columns + begin + i] = (uint8_t)code;
            for (int64_t j = 0; j < dim; j++) {
                const float made = error[j * columns + i] -= table[j * entries + code];
                float *rest = own + j * width;
                for (int64_t c = i + 1; c < width; c++) rest[c] = fused(made, unit[i * width + c], rest[c]);
            }
        }
    }
}

/* One round of coordinate descent: each code in turn becomes the best while all others stay.
 * hessians: (inputs, columns, columns). pull (rows, dim, columns): (w - q) hessian of the present codes, kept up to
 * date. `wanted`: room for dim. */
KERNEL(void, descend)(float *restrict pull, const float *restrict hessians, int64_t inputs, const float *restrict tables,
                      int64_t groups, int64_t entries, uint8_t *restrict codes, int64_t columns, int64_t dim,
                      int64_t rows, int64_t first, int64_t last, float *restrict wanted) {
    for (int64_t r = first; r < last; r++) {
        const float *hessian = hessians + r * inputs / rows * columns * columns;
        const float *table = tables + r * groups / rows * dim * entries;
        float *own = pull + r * dim * columns;
        for (int64_t i = 0; i < columns; i++) {
            const int64_t code = codes[r * columns + i];
            const float *influence = hessian + i * columns;
            for (int64_t j = 0; j < dim; j++)
                wanted[j] = table[j * entries + code] + own[j * columns + i] / influence[i];
            const int64_t better = nearest(table, entries, wanted, dim, code);
            if (better == code) continue;
            codes[r * columns + i] = (uint8_t)better;
            for (int64_t j = 0; j < dim; j++) {
                const float change = table[j * entries + better] - table[j * entries + code];
                float *rest = own + j * columns;
                for (int64_t c = 0; c < columns; c++) rest[c] = fused(-change, influence[c], rest[c]);
            }
        }
    }
}

/* codes (rows, columns) -> found (rows, dim, columns), the entries that they name. */
KERNEL(void, entries_of)(const uint8_t *restrict codes, const float *restrict tables, int64_t groups, int64_t entries,
                         int64_t columns, int64_t dim, int64_t rows, int64_t first, int64_t last,
                         float *restrict found) {
    for (int64_t r = first; r < last; r++) {
        for (int64_t j = 0; j < dim; j++) {
            const float *table = tables + (r * groups / rows * dim + j) * entries;
            float *own = found + (r * dim + j) * columns;
            for (int64_t i = 0; i < columns; i++) own[i] = table[codes[r * columns + i]];
        }
    }
}

/* values (rows, dim, columns) are added to sums (groups, dim, entries), each to that of its code, in order. */
KERNEL(void, sum_by_code)(const float *restrict values, const uint8_t *restrict codes, int64_t groups, int64_t entries,
                          int64_t columns, int64_t dim, int64_t rows, double *restrict sums) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < dim; j++) {
            double *own = sums + (r * groups / rows * dim + j) * entries;
            for (int64_t i = 0; i < columns; i++) own[codes[r * columns + i]] += values[(r * dim + j) * columns + i];
        }
    }
}
