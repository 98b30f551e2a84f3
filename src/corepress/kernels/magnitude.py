"""Pruning by magnitude. See `c/magnitude.c`."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

Array = NDArray[Any]
Unsigned = (np.uint8, np.uint16, np.uint32, np.uint64)

_count_magnitudes = kernel("count_magnitudes", Pointer, Int, Pointer)
_above = kernel("above", Pointer, Int, Int, ctypes.c_uint64, Pointer, returns=ctypes.c_uint64)
_keep_largest = kernel("keep_largest", Pointer, Int, Int, Int, Int, Pointer)


def count_magnitudes(bits: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """How many of the numbers, whose bits these are, have each magnitude: (32768,)."""
    if bits.size >= 1 << 32:
        raise ValueError(f"{bits.size} numbers are too many to be counted in 32 bits")
    counts = np.zeros(1 << 15, np.uint32)
    _count_magnitudes(pointer(bits, np.uint16), bits.size, pointer(counts, out=True))
    return counts


def above(bits: Array, limit: int) -> tuple[NDArray[np.bool_], int]:
    """Which of the numbers, whose bits these are, have a magnitude above a limit; and the largest magnitude of all.

    `bits`: unsigned integers of 1, 2, 4 or 8 bytes. Magnitudes are bits without the sign; `limit` is one.
    """
    mask = np.empty(bits.shape, np.bool_)
    largest: int = _above(pointer(bits, *Unsigned), bits.size, bits.itemsize, limit, pointer(mask, out=True))
    return mask, largest


def keep_largest(keys: Array, drop: int) -> NDArray[np.bool_]:
    """True for all but the `drop` smallest of each column, and never for zero; of equal keys the first is the smallest.

    `keys`: (members, columns) of unsigned integers of 2, 4 or 8 bytes, with fewer members than a key can count.
    """
    if not 0 <= drop <= len(keys) <= np.iinfo(keys.dtype).max:
        raise ValueError(f"{drop} of {len(keys)} members can't be told apart by keys of {keys.itemsize} bytes")
    keep = np.empty(keys.shape, np.bool_)
    _keep_largest(pointer(keys, *Unsigned[1:]), *keys.shape, keys.itemsize, drop, pointer(keep, out=True))
    return keep
