"""Integers of 1 to 8 bits, packed as MIL packs them: the least significant bits of a byte come first."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take once packed."""
    return (count * bits + 7) // 8


def pack_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack integers into a byte stream.

    `values`: any shape, int8 or uint8 (or bool), each in the range of `bits` bits; two's complement when
    signed. Returns uint8 of length `packed_size(values.size, bits)`; unused high bits of the last byte are 0.
    """
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    if bits == 8:
        return flat
    packed = np.empty(packed_size(flat.size, bits), np.uint8)
    _pack(flat, bits, packed)
    return packed


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int, *, signed: bool = False) -> NDArray[Any]:
    """The inverse of `pack_bits`: `count` integers as uint8, or as sign-extended int8 when `signed`."""
    values = np.empty(count, np.uint8)
    if bits == 8:
        values[:] = packed[:count]
    else:
        _unpack(np.ascontiguousarray(packed), bits, values)
    if not signed:
        return values
    shift = np.uint8(8 - bits)
    return np.right_shift(np.left_shift(values, shift).view(np.int8), np.int8(8 - bits))


@numba.njit(nogil=True, cache=True)
def _pack(values: NDArray[np.uint8], bits: int, packed: NDArray[np.uint8]) -> None:
    # Eight integers of `bits` bits fill exactly `bits` bytes: no carry crosses from one octet to the next.
    mask = np.uint64((1 << bits) - 1)
    octets = values.size // 8
    for octet in range(octets):
        word = np.uint64(0)
        for j in range(8):
            word |= (np.uint64(values[8 * octet + j]) & mask) << np.uint64(j * bits)
        for j in range(bits):
            packed[bits * octet + j] = np.uint8((word >> np.uint64(8 * j)) & np.uint64(255))
    word = np.uint64(0)
    for j in range(values.size - 8 * octets):
        word |= (np.uint64(values[8 * octets + j]) & mask) << np.uint64(j * bits)
    for j in range(packed.size - bits * octets):
        packed[bits * octets + j] = np.uint8((word >> np.uint64(8 * j)) & np.uint64(255))


@numba.njit(nogil=True, cache=True)
def _unpack(packed: NDArray[np.uint8], bits: int, values: NDArray[np.uint8]) -> None:
    mask = np.uint64((1 << bits) - 1)
    octets = values.size // 8
    for octet in range(octets):
        word = np.uint64(0)
        for j in range(bits):
            word |= np.uint64(packed[bits * octet + j]) << np.uint64(8 * j)
        for j in range(8):
            values[8 * octet + j] = np.uint8((word >> np.uint64(j * bits)) & mask)
    word = np.uint64(0)
    for j in range(min(bits, packed.size - bits * octets)):
        word |= np.uint64(packed[bits * octets + j]) << np.uint64(8 * j)
    for j in range(values.size - 8 * octets):
        values[8 * octets + j] = np.uint8((word >> np.uint64(j * bits)) & mask)
