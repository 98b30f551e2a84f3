"""Packing of integers of 2 to 7 bits, and the values under a mask. See `c/packing.c`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

Array = NDArray[Any]

_pack = kernel("pack", Pointer, Int, Int, Pointer)
_unpack = kernel("unpack", Pointer, Int, Int, Pointer)
_keep = kernel("keep", Pointer, Pointer, Int, Int, Pointer)


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The lowest `bits` bits, 1 to 8, of each of (n,) values, the first in the lowest bits of the first byte."""
    packed = np.empty(_bytes(values.size, bits), np.uint8)
    _pack(pointer(values, np.uint8, shape=(values.size,)), values.size, bits, pointer(packed, out=True))
    return packed


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: the first `count` values of a stream that holds at least so many."""
    if packed.size < _bytes(count, bits):
        raise ValueError(f"{packed.size} bytes can't hold {count} integers of {bits} bits")
    values = np.empty(count, np.uint8)
    _unpack(pointer(packed, np.uint8), count, bits, pointer(values, out=True))
    return values


def keep(values: Array, mask: NDArray[np.bool_]) -> Array:
    """`values[mask]` of one-dimensional arrays, ten times as fast; of a type of 1, 2, 4 or 8 bytes."""
    if values.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"values of {values.itemsize} bytes can't be kept under a mask")
    if mask.view(np.uint8).max(initial=0) > 1:  # of whoever made the mask out of other bytes
        mask = mask.view(np.uint8) != 0
    kept = np.empty(np.count_nonzero(mask) + 4, values.dtype)  # four to spare, see c/packing.c
    sizes = values.size, values.dtype.itemsize
    _keep(pointer(values), pointer(mask, np.bool_, shape=values.shape), *sizes, pointer(kept, out=True))
    return kept[:-4]


def _bytes(count: int, bits: int) -> int:
    if not 1 <= bits <= 8:
        raise ValueError(f"integers are packed to 1 to 8 bits, not to {bits}")
    return (count * bits + 7) // 8
