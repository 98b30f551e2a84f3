/* Integers of 2 to 7 bits, packed with the least significant bits of a byte first, and values under a mask. */
#include "common.h"

/* Whole octets of 4 bits, in a loop that vectorises; how many values that were. */
static int64_t pack_4(const uint8_t *restrict values, int64_t count, uint8_t *restrict packed) {
    const int64_t whole = count / 8 * 8;
    for (int64_t i = 0; i < whole / 2; i++)
        packed[i] = (uint8_t)((values[2 * i] & 15) | values[2 * i + 1] << 4);
    return whole;
}

static int64_t pack_6(const uint8_t *restrict values, int64_t count, uint8_t *restrict packed) {
    const int64_t whole = count / 8 * 8;
    for (int64_t i = 0; i < whole / 4; i++) {
        const uint32_t a = values[4 * i] & 63, b = values[4 * i + 1] & 63;
        const uint32_t c = values[4 * i + 2] & 63, d = values[4 * i + 3] & 63;
        packed[3 * i] = (uint8_t)(a | b << 6);
        packed[3 * i + 1] = (uint8_t)(b >> 2 | c << 4);
        packed[3 * i + 2] = (uint8_t)(c >> 4 | d << 2);
    }
    return whole;
}

/* Up to eight values in one word, the first in its lowest bits. */
INLINE uint64_t word_of(const uint8_t *values, int64_t count, int bits) {
    const uint64_t mask = (1u << bits) - 1;
    uint64_t word = 0;
    for (int64_t j = 0; j < count; j++) word |= (values[j] & mask) << (j * bits);
    return word;
}

/* Eight integers of `bits` bits fill exactly `bits` bytes: no carry crosses from one octet to the next. */
INLINE void pack_octets(const uint8_t *restrict values, int64_t count, int bits, uint8_t *restrict packed) {
    for (; count >= 8; count -= 8, values += 8, packed += bits) {
        const uint64_t word = word_of(values, 8, bits);
        for (int j = 0; j < bits; j++) packed[j] = (uint8_t)(word >> 8 * j);
    }
    const uint64_t word = word_of(values, count, bits);
    for (int j = 0; j < (count * bits + 7) / 8; j++) packed[j] = (uint8_t)(word >> 8 * j);
}

INLINE void unpack_octets(const uint8_t *restrict packed, int64_t count, int bits, uint8_t *restrict values) {
    const uint64_t mask = (1u << bits) - 1;
    for (; count > 0; count -= 8, values += 8, packed += bits) {
        const int64_t present = MIN(count, 8);
        uint64_t word = 0;
        for (int j = 0; j < (present * bits + 7) / 8; j++) word |= (uint64_t)packed[j] << 8 * j;
        for (int64_t j = 0; j < present; j++) values[j] = (uint8_t)(word >> (j * bits) & mask);
    }
}

/* values (count), of which the lowest `bits` count -> packed ((count * bits + 7) / 8), which do not overlap. */
KERNEL(void, pack)(const uint8_t *restrict values, int64_t count, int64_t bits, uint8_t *restrict packed) {
    const int64_t done = bits == 4 ? pack_4(values, count, packed) : bits == 6 ? pack_6(values, count, packed) : 0;
    values += done, count -= done, packed += done * bits / 8;
    switch (bits) { /* as a constant, it lets loops unroll */
        case 2: pack_octets(values, count, 2, packed); break;
        case 3: pack_octets(values, count, 3, packed); break;
        case 4: pack_octets(values, count, 4, packed); break;
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
#define KEEP(type)                                                         \
    do {                                                                   \
        const type *from = values;                                         \
        type *to = kept;                                                   \
        for (int64_t i = 0; i < count; i++) *to = from[i], to += mask[i];  \
    } while (0)

/* values (count) of `size` bytes each, under mask (count, 0 or 1) -> kept, which has one place to spare. */
KERNEL(void, keep)(const void *restrict values, const uint8_t *restrict mask, int64_t count, int64_t size,
                   void *restrict kept) {
    switch (size) {
        case 1: KEEP(uint8_t); break;
        case 2: KEEP(uint16_t); break;
        case 4: KEEP(uint32_t); break;
        default: KEEP(uint64_t);
    }
}
