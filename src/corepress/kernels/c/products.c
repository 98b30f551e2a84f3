/* Products with weights that stay packed (runtime/packed/), and their rows made dense.
 *
 * Codes come in pieces of 128, eight times sixteen. For a few tokens they become numbers in registers and are
 * multiplied there. For more, a tile of rows is made dense, in a span of columns that stays in the cache, and
 * multiplied by sixteen tokens at once. The order of sums is the same at each level: for few tokens sixteen lanes, and
 * up to four of these; for many, runs of columns, then spans. */
#include "floats.h"
#include "sixteen.h"

#define PIECE 128
#define FEW 4    /* tokens that are multiplied with numbers in registers */
#define RUN 32   /* columns that are summed up before the sum is added to others */
#define SHORT_RUN 8
#define SHORT_ROW 768 /* columns, below which runs are short: there is little else that rounds */
#define SPAN 1024 /* columns of a tile, and runs of which the sums are added up before they join the result */
#define STEP (SPAN + 16) /* from row to row of a tile: at a power of two they would share a few lines of the cache */
#define AHEAD 2048 /* bytes of codes that are asked of the memory ahead of their use */

/* Codes are 8-bit integers (SIGNED), indices into a table, or a row that is dense already. */
enum { SIGNED = 0, DENSE = 32 };

/* scale * (table[code] - offset), (rows, columns). `kernels/products.py` fills this in: all are of 64 bits. */
struct weight {
    const uint8_t *codes;  /* (rows, padded) codes of `bits` bits, as `Packed` orders them; SIGNED: bits is 0 */
    const float *tables;   /* (table_groups, 2^bits); a group for equally many rows each, as with scales */
    const void *scales, *offsets; /* (scale_groups, blocks), a block for equally many columns each */
    int64_t bits, rows, columns, padded, table_groups, scale_groups, blocks, scale_type, offset_type;
};

/* What is known of the row at hand. `factors`, `shifts`: for each column from `start` on where they change within
 * sixteen of them, else for each 16 << `shift`. */
struct row {
    const uint8_t *codes;
    const float *entries;
    float table[16]; /* the entries, again and again, of a table that is no larger */
    int64_t table_group, scale_group, start;
    int shift;
    bool by_column;
    float *factors, *shifts, *room;
};

/* values[first : first + count] as floats. */
static void as_floats(const void *values, int64_t type, int64_t first, int64_t count, float *restrict out) {
    int64_t i = 0;
    if (type == SINGLE)
        for (; i < count; i++) out[i] = ((const float *)values)[first + i];
    else if (type == HALF)
        for (; i + 16 <= count; i += 16) store(out + i, of_halves((const uint16_t *)values + first + i));
    for (; i < count; i++) out[i] = element(values, type, first + i);
}

INLINE int64_t group_of(int64_t r, int64_t groups, int64_t rows) {
    return groups == rows ? r : groups == 1 ? 0 : r * groups / rows; /* a division takes a while */
}

/* Of a group's blocks, `size` columns each, one value for each `unit` columns of `width` from `start` on; the last
 * block has what is beyond, too. */
static void spell_out(const void *values, int64_t type, int64_t group, int64_t blocks, int64_t size, int64_t unit,
                      int64_t start, int64_t width, float *restrict room, float *restrict out) {
    int64_t block = MIN(start / size, blocks - 1);
    const int64_t last = MIN((start + width - 1) / size, blocks - 1);
    as_floats(values, type, group * blocks + block, last - block + 1, size == unit ? out : room);
    if (size == unit) { /* each block has one value: only what is beyond the last is left */
        for (int64_t i = last - block + 1; i < width / unit; i++) out[i] = out[last - block];
        return;
    }
    for (int64_t column = start; block <= last; block++, room++) {
        const int64_t end = block < last ? (block + 1) * size : start + width;
        for (; column < end; column += unit) *out++ = *room;
    }
}

/* Scales and offsets for `width` columns of a row from `start` on, unless they are those at hand. */
static void find_parameters(const struct weight *weight, struct row *row, int64_t r, int64_t start, int64_t width) {
    const int64_t group = group_of(r, weight->scale_groups, weight->rows);
    if (row->scale_group == group && row->start == start) return;
    row->scale_group = group, row->start = start;
    const int64_t size = weight->blocks == 1 ? weight->padded : weight->columns / weight->blocks;
    const int64_t unit = row->by_column ? 1 : (int64_t)16 << row->shift;
    spell_out(weight->scales, weight->scale_type, group, weight->blocks, size, unit, start, width, row->room,
              row->factors);
    if (weight->offset_type)
        spell_out(weight->offsets, weight->offset_type, group, weight->blocks, size, unit, start, width, row->room,
                  row->shifts);
}

static void find_codes(const struct weight *weight, struct row *row, int64_t r) {
    row->codes = weight->codes + r * (weight->padded / 8 * (weight->bits ? weight->bits : 8));
    const int64_t group = weight->bits ? group_of(r, weight->table_groups, weight->rows) : 0;
    if (row->table_group == group) return;
    row->table_group = group;
    const int64_t entries = (int64_t)1 << weight->bits;
    row->entries = weight->tables + group * entries;
    if (weight->bits >= 1 && weight->bits <= 4)
        for (int i = 0; i < 16; i++) row->table[i] = row->entries[i & (entries - 1)];
}

INLINE void unpack(const uint8_t *codes, int bits, Words words[2]) {
    switch (bits) {
        case 1: words[0] = of_bytes(codes); break;
        case 2: words[0] = of_pairs(codes); break;
        case 3: words[0] = of_triples(codes); break;
        case 4: words[0] = of_words(codes); break;
        case 6: of_double_triples(codes, words); break;
        default:;
    }
}

/* Sixteen numbers, the `i`th of the eight of a piece. */
INLINE Sixteen number(const uint8_t *codes, const Words words[2], int i, int bits, const Table *table,
                      const float *entries) {
    switch (bits) {
        case SIGNED: return of_signed_bytes(codes + 16 * i);
        case DENSE: return load((const float *)codes + 16 * i);
        case 8: return gather_bytes(entries, codes + 16 * i);
        case 6: return gather(entries, words[i / 4], i % 4 * 6, 6);
        default: return look_up(*table, words[0], i * bits, bits);
    }
}

/* What is done with a number: nothing, scale * number, or scale * (number - offset). */
enum { BARE, SCALED, SHIFTED };

INLINE Sixteen scaled(Sixteen numbers, int64_t place, int kind, const struct row *row) {
    if (kind == SHIFTED) numbers = minus(numbers, all(row->shifts[place >> row->shift]));
    return kind == BARE ? numbers : times(numbers, all(row->factors[place >> row->shift]));
}

/* The products of a row with 1 or FEW tokens, of which the vectors are at `x`, to `sums`. */
INLINE void multiply_row(const struct row *row, const uint8_t *codes, int bits, int kind, const float *const x[FEW],
                         int tokens, int64_t pieces, float *sums) {
    /* More than one sum for a token alone: the next addition to the same one would wait for the last. */
    const int each = FEW / tokens;
    const Table table = load_table(row->table);
    Sixteen totals[FEW];
    for (int i = 0; i < FEW; i++) totals[i] = all(0);
    for (int64_t piece = 0; piece < pieces; piece++) {
        const uint8_t *own = codes + piece * 16 * (bits ? bits : 8);
        if (tokens == 1 && bits != DENSE) __builtin_prefetch(own + AHEAD);
        Words words[2];
        unpack(own, bits, words);
        UNROLL for (int i = 0; i < 8; i++) {
            const Sixteen found = number(own, words, i, bits, &table, row->entries);
            const Sixteen numbers = scaled(found, 8 * piece + i, kind, row);
            UNROLL for (int t = 0; t < tokens; t++) {
                Sixteen *total = &totals[t * each + i % each];
                *total = fused_sixteen(numbers, load(x[t] + piece * PIECE + 16 * i), *total);
            }
        }
    }
    if (tokens == 1) sums[0] = sum_of(plus(plus(totals[0], totals[1]), plus(totals[2], totals[3])));
    else for (int t = 0; t < FEW; t++) sums[t] = sum_of(totals[t]);
}

/* The product of a row with one token, where each two sixteens have the same scale: it comes after their sum. */
INLINE void multiply_pairs(const struct row *row, const uint8_t *codes, int bits, int kind, const float *x,
                           int64_t pieces, float *sum) {
    const Table table = load_table(row->table);
    Sixteen totals[4];
    for (int i = 0; i < 4; i++) totals[i] = all(0);
    for (int64_t piece = 0; piece < pieces; piece++, x += PIECE) {
        const uint8_t *own = codes + piece * 16 * (bits ? bits : 8);
        __builtin_prefetch(own + AHEAD);
        Words words[2];
        unpack(own, bits, words);
        UNROLL for (int i = 0; i < 4; i++) {
            const int64_t place = (8 * piece + 2 * i) >> row->shift;
            Sixteen one = number(own, words, 2 * i, bits, &table, row->entries);
            Sixteen other = number(own, words, 2 * i + 1, bits, &table, row->entries);
            if (kind == SHIFTED) {
                const Sixteen shift = all(row->shifts[place]);
                one = minus(one, shift), other = minus(other, shift);
            }
            const Sixteen both = fused_sixteen(other, load(x + 32 * i + 16), times(one, load(x + 32 * i)));
            totals[i] = fused_sixteen(both, all(row->factors[place]), totals[i]);
        }
    }
    *sum = sum_of(plus(plus(totals[0], totals[1]), plus(totals[2], totals[3])));
}

INLINE void multiply_as(const struct row *row, const uint8_t *codes, int bits, int kind, const float *const x[FEW],
                        int tokens, int64_t pieces, float *sums) {
    const bool pairs = row->shift > 0;
    switch (kind + (tokens > 1 ? 0 : pairs ? 6 : 3)) {
        case BARE: multiply_row(row, codes, bits, BARE, x, FEW, pieces, sums); break;
        case SCALED: multiply_row(row, codes, bits, SCALED, x, FEW, pieces, sums); break;
        case SHIFTED: multiply_row(row, codes, bits, SHIFTED, x, FEW, pieces, sums); break;
        case SCALED + 6: multiply_pairs(row, codes, bits, SCALED, x[0], pieces, sums); break;
        case SHIFTED + 6: multiply_pairs(row, codes, bits, SHIFTED, x[0], pieces, sums); break;
        case BARE + 6:
        case BARE + 3: multiply_row(row, codes, bits, BARE, x, 1, pieces, sums); break;
        case SCALED + 3: multiply_row(row, codes, bits, SCALED, x, 1, pieces, sums); break;
        default: multiply_row(row, codes, bits, SHIFTED, x, 1, pieces, sums);
    }
}

/* The same for a row that is dense already. */
INLINE void multiply_dense(const float *dense, const float *const x[FEW], int tokens, int64_t pieces, float *sums) {
    const struct row none = {0};
    if (tokens == 1) multiply_row(&none, (const uint8_t *)dense, DENSE, BARE, x, 1, pieces, sums);
    else multiply_row(&none, (const uint8_t *)dense, DENSE, BARE, x, FEW, pieces, sums);
}

/* Each form is a loop of its own, in which its bits are a constant; where all goes slowly anyway, they share one. */
#if defined(__AVX2__) || defined(__aarch64__)
#define FOR_EACH_FORM(bits, CASE)                    \
    switch (bits) {                                  \
        case SIGNED: CASE(SIGNED); break;            \
        case 1: CASE(1); break;                      \
        case 2: CASE(2); break;                      \
        case 3: CASE(3); break;                      \
        case 4: CASE(4); break;                      \
        case 6: CASE(6); break;                      \
        default: CASE(8);                            \
    }
#else
#define FOR_EACH_FORM(bits, CASE) CASE((int)(bits));
#endif

INLINE void spread_codes(const struct row *row, const uint8_t *codes, int bits, int kind, int64_t pieces,
                         float *restrict dense) {
    const Table table = load_table(row->table);
    for (int64_t piece = 0; piece < pieces; piece++) {
        const uint8_t *own = codes + piece * 16 * (bits ? bits : 8);
        Words words[2];
        unpack(own, bits, words);
        UNROLL for (int i = 0; i < 8; i++) {
            const Sixteen found = number(own, words, i, bits, &table, row->entries);
            store(dense + piece * PIECE + 16 * i, scaled(found, 8 * piece + i, kind, row));
        }
    }
}

INLINE void spread_as(const struct row *row, const uint8_t *codes, int bits, int kind, int64_t pieces, float *dense) {
    switch (kind) {
        case BARE: spread_codes(row, codes, bits, BARE, pieces, dense); break;
        case SCALED: spread_codes(row, codes, bits, SCALED, pieces, dense); break;
        default: spread_codes(row, codes, bits, SHIFTED, pieces, dense);
    }
}

static int kind_of(const struct weight *weight) {
    return weight->offset_type ? SHIFTED : weight->scale_type ? SCALED : BARE;
}

/* A row, from the column `start` on, in whole pieces; `dense` has room for `width` numbers. */
static void spread_row(const struct weight *weight, struct row *row, int64_t r, int64_t start, int64_t width,
                       float *restrict dense) {
    find_codes(weight, row, r);
    if (weight->scale_type) find_parameters(weight, row, r, start, width);
    const uint8_t *codes = row->codes + start / 8 * (weight->bits ? weight->bits : 8);
    const int kind = row->by_column ? BARE : kind_of(weight);
#define SPREAD(bits) spread_as(row, codes, bits, kind, width / PIECE, dense)
    FOR_EACH_FORM(weight->bits, SPREAD)
    if (!row->by_column) return;
    if (weight->offset_type)
        for (int64_t i = 0; i < width; i++) dense[i] -= row->shifts[i];
    for (int64_t i = 0; i < width; i++) dense[i] *= row->factors[i];
}

/* y (tokens, step): for a few tokens, the products with the row `r`. `dense`: room for a row. */
static void multiply_few(const struct weight *weight, struct row *row, int64_t r, const float *x, int64_t tokens,
                         float *restrict y, int64_t step, float *restrict dense) {
    const int64_t pieces = weight->padded / PIECE;
    /* For a token alone, a scale for all of a row comes last, once, rather than with each number. */
    const bool at_the_end = tokens == 1 && weight->blocks == 1 && kind_of(weight) == SCALED;
    const int kind = at_the_end ? BARE : kind_of(weight);
    float factor = 1;
    if (row->by_column) spread_row(weight, row, r, 0, weight->padded, dense);
    else {
        find_codes(weight, row, r);
        if (kind != BARE) find_parameters(weight, row, r, 0, weight->padded);
        if (at_the_end)
            as_floats(weight->scales, weight->scale_type, group_of(r, weight->scale_groups, weight->rows), 1, &factor);
    }
    for (int64_t first = 0; first < tokens; first += tokens - first == 1 ? 1 : FEW) {
        const float *places[FEW];
        float sums[FEW];
        const int64_t count = MIN(FEW, tokens - first);
        for (int64_t t = 0; t < FEW; t++) places[t] = x + (first + MIN(t, count - 1)) * weight->padded;
        const int at_once = count == 1 ? 1 : FEW;
#define MULTIPLY(bits) multiply_as(row, row->codes, bits, kind, places, at_once, pieces, sums)
        if (row->by_column) multiply_dense(dense, places, at_once, pieces, sums);
        else { FOR_EACH_FORM(weight->bits, MULTIPLY) }
        for (int64_t t = 0; t < count; t++) y[(first + t) * step] = sums[t] * factor;
    }
}

/* Adds to sums (TILE, 16) the products of `run` columns of a tile with sixteen tokens, of which `x` has (run, 16). Not
 * inlined, since compilers would then keep `sums` in registers that the loop needs. */
static __attribute__((noinline)) void multiply_run(const float *restrict tile, const float *restrict x, int64_t run,
                                                   float *restrict sums) {
    Sixteen own[TILE];
    for (int r = 0; r < TILE; r++) own[r] = all(0);
    for (int64_t c = 0; c < run; c++) {
        const Sixteen given = load(x + 16 * c);
        for (int r = 0; r < TILE; r++) own[r] = fused_sixteen(all(tile[r * STEP + c]), given, own[r]);
    }
    for (int r = 0; r < TILE; r++) store(sums + 16 * r, plus(load(sums + 16 * r), own[r]));
}

/* The same for RUN columns in shorter runs, which rounds less. */
static void multiply_short_runs(const float *restrict tile, const float *restrict x, float *restrict sums) {
    float own[TILE * 16] = {0};
    for (int c = 0; c < RUN; c += SHORT_RUN) multiply_run(tile + c, x + 16 * c, SHORT_RUN, own);
    for (int i = 0; i < TILE * 16; i++) sums[i] += own[i];
}

/* The products of TILE rows from `r` on, or of `height` of them, with `groups` of sixteen tokens.
 * x: (groups, padded, 16). */
static void multiply_many(const struct weight *weight, struct row *row, int64_t r, int64_t height, const float *x,
                          int64_t groups, int64_t tokens, float *restrict y, int64_t step, float *restrict tile) {
    float sums[TILE * 16];
    for (int64_t start = 0; start < weight->padded; start += SPAN) {
        const int64_t width = MIN(SPAN, weight->padded - start);
        for (int64_t i = 0; i < height; i++) spread_row(weight, row, r + i, start, width, tile + i * STEP);
        for (int64_t group = 0; group < groups; group++) {
            const float *own = x + (group * weight->padded + start) * 16;
            memset(sums, 0, sizeof sums);
            for (int64_t c = 0; c < width; c += RUN) {
                if (weight->columns < SHORT_ROW) multiply_short_runs(tile + c, own + 16 * c, sums);
                else multiply_run(tile + c, own + 16 * c, RUN, sums);
            }
            for (int64_t t = 0; t < MIN(16, tokens - 16 * group); t++) {
                float *place = y + (16 * group + t) * step;
                for (int64_t i = 0; i < height; i++) place[i] = (start ? place[i] : 0) + sums[16 * i + t];
            }
        }
    }
}

static struct row no_row(const struct weight *weight, float *room) {
    struct row row = {.table_group = -1, .scale_group = -1, .factors = room, .shifts = room + weight->padded};
    row.room = row.shifts + weight->padded;
    int64_t size = weight->columns / weight->blocks; /* of a block */
    if (weight->blocks == 1) row.shift = 32;
    else if (size % 16) row.by_column = true;
    else for (size /= 16; size % 2 == 0; size /= 2) row.shift++;
    return row;
}

/* x (tokens, padded) -> together (groups, padded, 16): sixteen tokens at a time, zeros beyond the last. */
KERNEL(void, bring_together)(const float *restrict x, int64_t tokens, int64_t padded, int64_t groups,
                             float *restrict together) {
    for (int64_t group = 0; group < groups; group++) {
        const float *own = x + group * 16 * padded;
        float *to = together + group * 16 * padded;
        const int64_t present = MIN(16, tokens - 16 * group);
        for (int64_t start = 0; start < padded; start += 16)
            for (int64_t t = 0; t < 16; t++)
                for (int64_t c = start; c < start + 16; c++) to[16 * c + t] = t < present ? own[t * padded + c] : 0;
    }
}

/* y (tokens, rows), columns `first` to `last`: the products of these rows with x (tokens, padded), which is zero beyond
 * `columns`. The first 16 * groups tokens are taken from `together`. room: 4 * padded + TILE * STEP floats. */
KERNEL(void, multiply)(const struct weight *weight, const float *x, const float *together, int64_t groups,
                       int64_t tokens, float *y, int64_t first, int64_t last, float *room) {
    struct row row = no_row(weight, room);
    float *dense = room + 3 * weight->padded, *tile = dense + weight->padded;
    const int64_t many = MIN(16 * groups, tokens);
    if (many) {
        for (int64_t r = first; r < last; r += TILE)
            multiply_many(weight, &row, r, MIN(TILE, last - r), together, groups, many, y + r, weight->rows, tile);
        row.start = -1; /* parameters are those of a span */
    }
    if (many == tokens) return;
    for (int64_t r = first; r < last; r++)
        multiply_few(weight, &row, r, x + many * weight->padded, tokens - many, y + many * weight->rows + r,
                     weight->rows, dense);
}

/* dense (last - first, padded): the rows of the weight from `first` to `last`. room: as above. */
KERNEL(void, spread)(const struct weight *weight, int64_t first, int64_t last, float *dense, float *room) {
    struct row row = no_row(weight, room);
    for (int64_t r = first; r < last; r++)
        spread_row(weight, &row, r, 0, weight->padded, dense + (r - first) * weight->padded);
}
