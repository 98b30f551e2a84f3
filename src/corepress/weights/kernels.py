"""The loops behind packing and decompression, compiled by numba; imported on first use, since numba loads slowly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from corepress.weights.half import rounded, single, stored

Array = NDArray[Any]


def frozen(array: Array) -> Array:
    """A read-only view, so that numba compiles one version for memory maps and for arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def as_bits(array: Array) -> Array:
    """float16 as its bits in uint16, the form in which kernels take it; anything else as it is."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


@numba.njit(nogil=True, cache=True)
def pack(values: NDArray[np.uint8], bits: int, packed: NDArray[np.uint8]) -> None:
    done = 0
    if bits == 4:
        done = _pack_4(values, packed)
    elif bits == 6:
        done = _pack_6(values, packed)
    _pack_any(values[done:], bits, packed[done * bits // 8 :])


@numba.njit(nogil=True, cache=True)
def _pack_4(values: NDArray[np.uint8], packed: NDArray[np.uint8]) -> int:
    """Pack whole octets, in a loop that vectorises; how many values that were."""
    count = values.size // 8 * 8
    for i in range(count // 2):
        packed[i] = (values[2 * i] & np.uint8(15)) | np.uint8(values[2 * i + 1] << np.uint8(4))
    return count


@numba.njit(nogil=True, cache=True)
def _pack_6(values: NDArray[np.uint8], packed: NDArray[np.uint8]) -> int:
    count = values.size // 8 * 8
    for i in range(count // 4):
        a, b = values[4 * i] & np.uint8(63), values[4 * i + 1] & np.uint8(63)
        c, d = values[4 * i + 2] & np.uint8(63), values[4 * i + 3] & np.uint8(63)
        packed[3 * i] = a | np.uint8(b << np.uint8(6))
        packed[3 * i + 1] = np.uint8(b >> np.uint8(2)) | np.uint8(c << np.uint8(4))
        packed[3 * i + 2] = np.uint8(c >> np.uint8(4)) | np.uint8(d << np.uint8(2))
    return count


@numba.njit(nogil=True, cache=True)
def _pack_any(values: NDArray[np.uint8], bits: int, packed: NDArray[np.uint8]) -> None:
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
def unpack(packed: NDArray[np.uint8], bits: int, values: NDArray[np.uint8]) -> None:
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


def look_up_rows(indices: NDArray[np.uint8], luts: Array) -> Array:
    """(rows, n) indices into (rows, entries, dim) tables -> (rows, n * dim); the indices are not checked."""
    rows, entries, dim = luts.shape
    bits = f"u{luts.dtype.itemsize}"
    dense = np.empty((rows, indices.shape[1] * dim), luts.dtype)
    tables = frozen(np.ascontiguousarray(luts).view(bits))
    if dim == 1:
        _look_up(frozen(indices), tables.reshape(rows, entries), dense.view(bits))
    else:
        _look_up_vectors(frozen(indices), tables, dense.view(bits).reshape(rows, -1, dim))
    return dense


@numba.njit(nogil=True, cache=True)
def _look_up(indices: NDArray[np.uint8], luts: Array, dense: Array) -> None:
    for row in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            dense[row, i] = luts[row, indices[row, i]]


@numba.njit(nogil=True, cache=True)
def _look_up_vectors(indices: NDArray[np.uint8], luts: Array, dense: Array) -> None:
    for row in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            for j in range(luts.shape[2]):
                dense[row, i, j] = luts[row, indices[row, i], j]


def shift_scale_rows(data: Array, scale: Array, offset: Array) -> Array:
    """scale * (data - offset), one scale and one offset to a row, each step rounded to the type of `scale`.

    `data`: (rows, n) of integers or floating point; `scale`, `offset`: (rows,), both float16 or both float32.
    """
    if data.dtype.kind == "f":
        data = data.astype(scale.dtype, copy=False)
    dense = np.empty(data.shape, scale.dtype)
    _shift_scale(frozen(as_bits(data)), frozen(as_bits(scale)), frozen(as_bits(offset)), as_bits(dense))
    return dense


@numba.njit(nogil=True, cache=True)
def _shift_scale(data: Array, scale: Array, offset: Array, dense: Array) -> None:
    for row in range(data.shape[0]):
        factor, shift, like = single(scale[row]), single(offset[row]), scale[row]
        for i in range(data.shape[1]):
            dense[row, i] = stored(factor * rounded(single(data[row, i]) - shift, like), like)


def swap_inner(array: Array) -> Array:
    """A copy of a (a, b, c) array as (a, c, b); NumPy's own copy takes up to ten times as long."""
    outer, rows, columns = array.shape
    bits = f"u{array.dtype.itemsize}"
    swapped = np.empty((outer, columns, rows), array.dtype)
    _swap_inner(frozen(array.view(bits)), swapped.view(bits))
    return swapped


@numba.njit(nogil=True, cache=True)
def _swap_inner(array: Array, swapped: Array) -> None:
    # In tiles of 32 x 32, which stay in the nearest cache while they are read across and written down.
    outer, rows, columns = array.shape
    for o in range(outer):
        for top in range(0, rows, 32):
            for left in range(0, columns, 32):
                for column in range(left, min(left + 32, columns)):
                    for row in range(top, min(top + 32, rows)):
                        swapped[o, column, row] = array[o, row, column]


@numba.njit(nogil=True, cache=True)
def keep(values: Array, mask: NDArray[np.bool_], kept: Array) -> None:
    """Gather the values under the mask into `kept`, which has one slot to spare: there is no branch, and what the mask
    leaves out is written over by the next value."""
    position = 0
    for i in range(values.size):
        kept[position] = values[i]
        position += mask[i]
