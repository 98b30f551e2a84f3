/* Integers of 2 to 7 bits, packed with the least significant bits of a byte first, and values under a mask. */
#include "shuffle.h"

/* `bits` ones at the lowest place of every `apart` bits of a word, which are 16, 32 or 64. */
INLINE uint64_t ones(int bits, int apart) {
    const uint64_t some = ((uint64_t)1 << bits) - 1;
    return apart == 16 ? some * 0x0001000100010001 : apart == 32 ? some * 0x0000000100000001 : some;
}

/* Of every two neighbours of `bits` bits in `apart` bits the upper one comes down by `gap`; of two words at once. */
INLINE Words close_gaps(Words words, int bits, int gap, int apart) {
    const uint64_t low = ones(bits, apart);
    return (words & low) | (words >> gap & low << bits);
}

/* And back up, of one word. */
INLINE uint64_t open_gaps(uint64_t word, int bits, int gap, int apart) {
    const uint64_t low = ones(bits, apart);
    return (word & low) | (word & low << bits) << gap;
}

/* The lowest bits of eight bytes side by side, in three steps; and back. */
INLINE Words join(Words words, int bits) {
    const int gap = 8 - bits;
    words = close_gaps(words, bits, gap, 16);
    words = close_gaps(words, 2 * bits, 2 * gap, 32);
    return close_gaps(words, 4 * bits, 4 * gap, 64);
}

INLINE uint64_t part(uint64_t word, int bits) {
    const int gap = 8 - bits;
    word = open_gaps(word, 4 * bits, 4 * gap, 64);
    word = open_gaps(word, 2 * bits, 2 * gap, 32);
    return open_gaps(word, bits, gap, 16);
}

INLINE uint64_t load(const uint8_t *bytes, int64_t size) {
    uint64_t word = 0;
    memcpy(&word, bytes, (size_t)size);
    return word;
}

INLINE void store(uint64_t word, int64_t size, uint8_t *bytes) {
    memcpy(bytes, &word, (size_t)size);
}

/* The first `bits` bytes of either word one after the other, in 16 bytes; what follows them is to be written over. */
INLINE void store_both(Words words, int bits, uint8_t *bytes) {
#ifdef SHUFFLES
    Bytes order;
    for (int i = 0; i < 16; i++) order[i] = (uint8_t)(i < bits ? i : i < 2 * bits ? 8 + i - bits : 0);
    words = (Words)shuffled((Bytes)words, order);
    memcpy(bytes, &words, 16);
#else
    store(words[0], 8, bytes), store(words[1], 8, bytes + bits);
#endif
}

/* Eight integers of `bits` bits fill exactly `bits` bytes: no carry crosses from one octet to the next. Whole words are
 * read and written where the arrays reach that far; the next octet writes over what is too much. */
INLINE void pack_octets(const uint8_t *restrict values, int64_t count, int bits, uint8_t *restrict packed) {
    const uint8_t *end = packed + (count * bits + 7) / 8;
    for (; end - packed >= 16 && count >= 16; count -= 16, values += 16, packed += 2 * bits) {
        Words words;
        memcpy(&words, values, 16);
        store_both(join(words, bits), bits, packed);
    }
    for (; count > 0; count -= 8, values += 8, packed += bits) {
        const Words words = {load(values, MIN(count, 8)), 0};
        store(join(words, bits)[0], MIN(bits, end - packed), packed);
    }
}

/* Whole octets of 4 bits, two values at a time, which vectorises best; how many values that were. */
static int64_t pack_pairs(const uint8_t *restrict values, int64_t count, uint8_t *restrict packed) {
    const int64_t whole = count / 8 * 8;
    for (int64_t i = 0; i < whole / 2; i++) {
        uint16_t pair;
        memcpy(&pair, values + 2 * i, 2);
        packed[i] = (uint8_t)((pair & 0x0F) | (pair >> 4 & 0xF0));
    }
    return whole;
}

INLINE void unpack_octets(const uint8_t *restrict packed, int64_t count, int bits, uint8_t *restrict values) {
    const uint8_t *end = packed + (count * bits + 7) / 8;
    for (; end - packed >= 8 && count >= 8; count -= 8, values += 8, packed += bits)
        store(part(load(packed, 8), bits), 8, values);
    for (; count > 0; count -= 8, values += 8, packed += bits)
        store(part(load(packed, MIN(bits, end - packed)), bits), MIN(count, 8), values);
}

/* values (count), of which the lowest `bits` count, 1 to 8 -> packed ((count * bits + 7) / 8), which do not overlap. */
KERNEL(void, pack)(const uint8_t *restrict values, int64_t count, int64_t bits, uint8_t *restrict packed) {
    const int64_t done = bits == 4 ? pack_pairs(values, count, packed) : 0;
    values += done, count -= done, packed += done / 2;
    switch (bits) { /* as a constant, it lets shifts and masks be known */
        case 2: pack_octets(values, count, 2, packed); break;
        case 3: pack_octets(values, count, 3, packed); break;
        case 4: pack_octets(values, count, 4, packed); break;
        case 6: pack_octets(values, count, 6, packed); break;
        default: pack_octets(values, count, (int)bits, packed);
    }
}

/* The inverse of `pack`: packed ((count * bits + 7) / 8) -> values (count), which do not overlap. */
KERNEL(void, unpack)(const uint8_t *restrict packed, int64_t count, int64_t bits, uint8_t *restrict values) {
    switch (bits) {
        case 2: unpack_octets(packed, count, 2, values); break;
        case 3: unpack_octets(packed, count, 3, values); break;
        case 4: unpack_octets(packed, count, 4, values); break;
        case 6: unpack_octets(packed, count, 6, values); break;
        default: unpack_octets(packed, count, (int)bits, values);
    }
}

/* Without a branch: each value is written, and the next writes over it unless the mask keeps it. */
INLINE void keep_each(const char *restrict values, const uint8_t *restrict mask, int64_t count, int64_t size,
                      char *restrict kept) {
    for (int64_t i = 0; i < count; i++) {
        memcpy(kept, values + i * size, (size_t)size);
        kept += mask[i] * size;
    }
}

#ifdef SHUFFLES
/* Four at a time: for each of the 16 masks of four, the order of their bytes in which the kept ones come first. */
INLINE void keep_fours(const char *restrict values, const uint8_t *restrict mask, int64_t count, int64_t size,
                       char *restrict kept) {
    uint8_t orders[16][16] = {{0}};
    for (int four = 0; four < 16; four++)
        for (int i = 0, place = 0; i < 4; i++)
            if (four >> i & 1)
                for (int64_t byte = 0; byte < size; byte++) orders[four][place++] = (uint8_t)(i * size + byte);
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint32_t some;
        memcpy(&some, mask + i, 4);
        /* The bits 0, 8, 16 and 24 side by side, and the sum of the four bytes, each in the highest place. */
        const uint32_t four = some * 0x10204080u >> 28, sum = some * 0x01010101u >> 24;
        Words words = {0, 0};
        if (size == 2) words[0] = load((const uint8_t *)values + 2 * i, 8);
        else memcpy(&words, values + i * size, 16);
        Bytes order;
        memcpy(&order, orders[four], sizeof order);
        const Bytes first = shuffled((Bytes)words, order);
        memcpy(kept, &first, (size_t)(4 * size));
        kept += sum * size;
    }
    keep_each(values + i * size, mask + i, count - i, size, kept);
}
#else
#define keep_fours keep_each
#endif

/* values (count) of `size` bytes each, under mask (count, 0 or 1) -> kept, which has four places to spare. */
KERNEL(void, keep)(const char *restrict values, const uint8_t *restrict mask, int64_t count, int64_t size,
                   char *restrict kept) {
    switch (size) {
        case 1: keep_each(values, mask, count, 1, kept); break;
        case 2: keep_fours(values, mask, count, 2, kept); break;
        case 4: keep_fours(values, mask, count, 4, kept); break;
        default: keep_each(values, mask, count, 8, kept);
    }
}
