"""Linear quantization of a weight in blocks: integers, one scale and maybe one zero point to a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from corepress.errors import ConfigError, CorepressError
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.forms import Quantized, Sparse
from corepress.weights.half import limits, rounded, single, stored
from corepress.weights.kernels import as_bits, frozen

Array = NDArray[Any]
IntegerType = Literal["int4", "uint4", "int8", "uint8"]
Mode = Literal["linear_symmetric", "linear"]

_RANGES = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}


def quantize(
    weight: Array,
    *,
    dtype: IntegerType = "int8",
    mode: Mode = "linear_symmetric",
    block_sizes: Sequence[int],
    scale_dtype: DTypeLike | None = None,
    scale_search: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Quantized:
    """Round a weight to `scale * (integer - offset)` with the least squared error that its scales allow.

    `weight`: float16, float32, or any other floating point, which is computed in float32; any shape.
    `mode`: "linear_symmetric" spreads the integers from -max|w| to max|w|, the one that has no opposite left
    out; "linear" from min(w, 0) to max(w, 0), with a zero point, `offset`, of its own for each block.
    `block_sizes`: for each axis the elements that share a scale; 0 for all.
    `scale_dtype`: float16 or float32; by default that of the weight, else float32.
    `scale_search`: for each block also try scales that clip its largest values, refitted by least squares, and
    all integers of the type; keeps the better of the search and the plain range, so the error never grows.
    `mask`: bool, of the weight's shape; the integers are 0 where it is False (`Sparse` ignores them).

    Gives `data` int8 or uint8 of the weight's shape, `scale` and `offset` (of the type of `data`, or None) with
    the count of blocks on each axis. A block of zeros gets the scale 1. Raises ConfigError if blocks don't divide
    the weight, CorepressError if the weight holds infinities or NaN.

    The scales and zero points are those of coremltools wherever its float16 arithmetic is finite.
    """
    scale_type = _scale_type(weight, scale_dtype)
    counts = block_counts(weight.shape, block_sizes)
    if weight.dtype != np.float16 or scale_search:
        # The search reads each value many times, so it is widened but once.
        weight = weight.astype(np.float32, copy=False)
    if mask is not None:
        # Zeros move neither range, since both hold 0, nor error, since 0 is always exact.
        weight = Sparse(mask, weight).decompress()
    signed, symmetric = not dtype.startswith("u"), mode == "linear_symmetric"
    integer_type = np.dtype(np.int8 if signed else np.uint8)

    rows = to_rows(weight, counts)
    data = np.empty(rows.shape, np.uint8)
    scale = np.empty(len(rows), scale_type)
    offset = np.empty(len(rows), np.uint8)
    lowest, highest = _RANGES[dtype]
    finite = _quantize_rows(
        frozen(as_bits(rows)), lowest, highest, symmetric, scale_search, data, as_bits(scale), offset
    )
    if not finite:
        raise CorepressError("the weight holds infinities or NaN, which can't be quantized")

    integers = from_rows(data, weight.shape, counts).view(integer_type)
    if mask is not None:
        integers *= mask
    return Quantized(
        integers,
        scale.reshape(counts),
        None if symmetric and signed else offset.view(integer_type).reshape(counts),
        bits=4 if dtype.endswith("4") else 8,
    )


def block_counts(shape: Sequence[int], block_sizes: Sequence[int]) -> tuple[int, ...]:
    """The number of blocks on each axis, a block size of 0 being the whole axis; ConfigError if they don't fit."""
    if len(block_sizes) != len(shape) or min(block_sizes, default=0) < 0:
        raise ConfigError(f"block sizes {tuple(block_sizes)} don't name one block size for each axis of {tuple(shape)}")
    if math.prod(shape) == 0:
        raise ConfigError(f"a weight of shape {tuple(shape)} holds nothing to compress")
    for axis, (size, block) in enumerate(zip(shape, block_sizes, strict=True)):
        if block and size % block:
            raise ConfigError(f"blocks of {block} don't divide axis {axis} of the weight, which has {size} elements")
    return tuple(size // block if block else 1 for size, block in zip(shape, block_sizes, strict=True))


def _scale_type(weight: Array, scale_dtype: DTypeLike | None) -> np.dtype[Any]:
    storable = (np.dtype(np.float16), np.dtype(np.float32))
    if scale_dtype is None:
        return weight.dtype if weight.dtype in storable else np.dtype(np.float32)
    if np.dtype(scale_dtype) not in storable:
        raise ConfigError(f"a scale is stored as float16 or float32, not as {np.dtype(scale_dtype)}")
    return np.dtype(scale_dtype)


# The kernels. A row is one block. `like` stands for the type of the stored scales, float32 or the bits of a half.
# `low` and `high` are the ends of the integers less the zero point, so that a level times the scale is a value.


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _quantize_rows(
    rows: Array, lowest: int, highest: int, symmetric: bool, search: bool, data: Array, scales: Array, zeros: Array
) -> bool:
    """Fill `data`, `scales` and `zeros`; False if a row holds infinities or NaN."""
    # Ranges of some rows first, then their integers: the processor overlaps the long chains behind several scales,
    # and the values are still in its cache.
    batch = max(1, 4096 // rows.shape[1])
    for start in range(0, rows.shape[0], batch):
        stop = min(start + batch, rows.shape[0])
        for r in range(start, stop):
            bottom, top = _extremes(rows, r)
            if not (np.isfinite(bottom) and np.isfinite(top)):
                return False
            scale, zero = _plain(bottom, top, lowest, highest, symmetric, scales[r])
            if search and (bottom != 0 or top != 0):
                scale, zero = _search(rows, r, scale, zero, lowest, highest, symmetric, scales[r])
            scales[r] = stored(scale, scales[r])
            zeros[r] = np.uint8(np.int32(zero))
        for r in range(start, stop):
            _round(rows, r, lowest, highest, symmetric and not search, data, scales, zeros)
    return True


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _round(
    rows: Array, r: int, lowest: int, highest: int, narrow: bool, data: Array, scales: Array, zeros: Array
) -> None:
    if narrow:
        # A symmetric range skips the integer without an opposite: the lowest if signed, the highest if not.
        lowest, highest = (lowest + 1, highest) if lowest < 0 else (lowest, highest - 1)
    zero = np.float32(np.int8(zeros[r])) if lowest < 0 else np.float32(zeros[r])
    scale, low, high = single(scales[r]), np.float32(lowest) - zero, np.float32(highest) - zero
    for i in range(rows.shape[1]):
        level, _ = _nearest(single(rows[r, i]), scale, low, high, scales[r])
        data[r, i] = np.uint8(np.int32(level + zero))


@numba.njit(nogil=True, cache=True)
def _ordered(bits: np.int32) -> np.int32:
    # Integers that order as the floats of these bits do, NaN outermost; its own inverse. Their minimum vectorises.
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@numba.njit(nogil=True, cache=True)
def _extremes(rows: Array, r: int) -> tuple[np.float32, np.float32]:
    least = _ordered(np.float32(single(rows[r, 0])).view(np.int32))
    most = least
    for i in range(rows.shape[1]):
        value = _ordered(np.float32(single(rows[r, i])).view(np.int32))
        least, most = min(least, value), max(most, value)
    return np.int32(_ordered(least)).view(np.float32), np.int32(_ordered(most)).view(np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _plain(
    bottom: np.float32, top: np.float32, lowest: int, highest: int, symmetric: bool, like: Any
) -> tuple[np.float32, np.float32]:
    """Scale and zero point of the range of a block, with the roundings of coremltools unless these overflow."""
    first, last, steps = np.float32(lowest), np.float32(highest), np.float32(highest - lowest)
    smallest, largest = limits(like)
    bottom, top = max(min(bottom, np.float32(0)), -largest), min(max(top, np.float32(0)), largest)
    peak = max(-bottom, top)
    zero = np.float32(0)
    if symmetric:
        levels = np.float32((highest - lowest) // 2)
        zero = np.float32(0) if lowest < 0 else levels
        scale = rounded(peak / levels, like)
    else:
        span = rounded(top - bottom, like)
        shift = rounded(rounded(first * top, like) - rounded(last * bottom, like), like)
        scale = rounded(span / steps, like)
        zero = rounded(shift / span, like)
        if not (np.isfinite(span) and np.isfinite(shift)):
            wide = np.float64(top) - np.float64(bottom)
            scale = rounded(np.float32(wide / steps), like)
            zero = np.float32((np.float64(first) * top - np.float64(last) * bottom) / wide)
        zero = min(max(np.rint(zero), first), last)
    if peak == 0:
        return np.float32(1), zero if symmetric else min(max(np.float32(0), first), last)
    scale = max(scale, smallest)
    if peak > largest / np.float32(2):
        # Rounded up, the scale may carry the largest value beyond what its type can hold.
        while not np.isfinite(rounded(scale * np.rint(peak / scale), like)):
            scale = rounded(scale * np.float32(1 - 2.0**-11), like)
    return scale, zero


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _nearest(
    value: np.float32, scale: np.float32, low: np.float32, high: np.float32, like: Any
) -> tuple[np.float32, np.float32]:
    """The level whose product with the scale, once rounded to its type, is nearest to the value; how far it is."""
    ratio = value / scale
    level = min(max(np.rint(ratio), low), high)
    other = min(max(level + np.copysign(np.float32(1), ratio - level), low), high)
    miss = abs(value - rounded(scale * level, like))
    other_miss = abs(value - rounded(scale * other, like))
    return (other, other_miss) if other_miss < miss else (level, miss)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _search(
    rows: Array, r: int, scale: np.float32, zero: np.float32, lowest: int, highest: int, symmetric: bool, like: Any
) -> tuple[np.float32, np.float32]:
    """A scale and zero point of less squared error than the given ones, or these.

    Rounds the block with scales of 0.4 to 1.1 times the given one. Once its integers q are fixed, the best scale is
    sum(w q) / sum(q q) and takes sum(w q)**2 / sum(q q) off the error, so each try is refitted on the spot.
    """
    inverse = np.float32(1) / scale
    first, last = np.float32(lowest), np.float32(highest)
    best = (np.float32(0), np.float32(1), np.float32(1), zero)
    for tenths in range(4, 12):
        best = _fit(rows, r, inverse, np.float32(tenths / 10), zero, first, last, best)
    coarse = best[2]
    best = _fit(rows, r, inverse, coarse - np.float32(0.05), zero, first, last, best)
    best = _fit(rows, r, inverse, coarse + np.float32(0.05), zero, first, last, best)
    if not symmetric:
        fine = best[2]
        best = _fit(rows, r, inverse, fine, max(zero - np.float32(1), first), first, last, best)
        best = _fit(rows, r, inverse, fine, min(zero + np.float32(1), last), first, last, best)
    found = rounded(scale * best[1], like)
    if not (np.isfinite(found) and found > 0):
        return scale, zero
    better = _error(rows, r, found, best[3], first, last, like) < _error(rows, r, scale, zero, first, last, like)
    return (found, best[3]) if better else (scale, zero)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _fit(
    rows: Array, r: int, inverse: np.float32, factor: np.float32, zero: np.float32, first: np.float32,
    last: np.float32, best: tuple[np.float32, np.float32, np.float32, np.float32],
) -> tuple[np.float32, np.float32, np.float32, np.float32]:  # fmt: skip
    """The better of `best` and this try: (gain, refitted scale in units of the plain one, factor, zero point)."""
    cross, square = np.float32(0), np.float32(0)
    narrower, low, high = np.float32(1) / factor, first - zero, last - zero
    for i in range(rows.shape[1]):
        value = single(rows[r, i]) * inverse
        level = min(max(np.rint(value * narrower), low), high)
        cross += value * level
        square += level * level
    gain, refit = cross * cross / square, cross / square
    return (gain, refit, factor, zero) if gain > best[0] else best


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _error(
    rows: Array, r: int, scale: np.float32, zero: np.float32, first: np.float32, last: np.float32, like: Any
) -> float:
    total = 0.0
    for i in range(rows.shape[1]):
        _, miss = _nearest(single(rows[r, i]), scale, first - zero, last - zero, like)
        total += np.float64(miss) * np.float64(miss)
    return total
