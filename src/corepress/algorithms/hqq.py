"""Linear quantization with zero points that have a fraction, found by half-quadratic splitting; without data.

Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", equations 2 to 8. The
scale is that of the range of a block. The zero point z makes the sum of |w - s (q - z)|^p least, with p below 1, so
that few large errors count for little and most errors become small: in turn the proximal step says which part of each
error is an outlier, and z becomes the mean of what is left.

Blocks that lie on even steps already, as they were quantized before, keep these.

Three things differ from the paper's program. It ends with the first round that gains nothing, where here the best of
all rounds is kept. Errors are counted in steps of the grid, so that a weight in other units
gives the same integers. And p is 3/4 where the paper has 0.7: |x|^(p - 1) then is made of two square roots, which every
processor rounds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.linear import RANGES, IntegerType, block_counts, quantize, scale_type
from corepress.kernels.linear import shift_scale_rows
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.forms import Quantized, Sparse
from corepress.weights.lattice import steps_of

Array = NDArray[Any]
Floats = NDArray[np.float32]

# How hard outliers are told from other errors, and how much harder after each round: the paper's beta and kappa.
_BETA, _KAPPA, _ROUNDS = 10.0, 1.01, 20
# Values that are worked on at once: all of it stays in the nearer caches.
_TILE = 1 << 15


def quantize_half_quadratic(
    weight: Array,
    *,
    dtype: IntegerType = "uint4",
    block_sizes: Sequence[int],
    mask: NDArray[np.bool_] | None = None,
) -> Quantized:
    """Round a weight to `scale * (integer - offset)`, with an offset of the type of the scale.

    `weight`: float16, float32, or any other floating point, which is computed in float32; any shape.
    `block_sizes`: for each axis the elements that share a scale; 0 for all.
    `mask`: bool, of the weight's shape; what is outside of it counts for nothing, and gets the integer 0.

    Of each block the sum of |error|^(3/4) is never larger than `quantize(mode="linear")` leaves. Raises ConfigError if
    blocks don't divide the weight, DataError if it holds infinities or NaN.
    """
    counts = block_counts(weight.shape, block_sizes)
    plain = quantize(weight, dtype=dtype, mode="linear", block_sizes=block_sizes, mask=mask)
    lowest, highest = RANGES[dtype]
    given = weight if mask is None else Sparse(mask, weight).decompress()
    rows = to_rows(np.asarray(given, np.float32), counts)
    kept = None if mask is None else to_rows(mask, counts)
    stored = scale_type(weight, None)
    assert plain.offset is not None and isinstance(plain.data, np.ndarray)
    data = to_rows(plain.data, counts)
    scale, offset = plain.scale.reshape(-1).copy(), plain.offset.reshape(-1).astype(stored)
    known = None if kept is not None else steps_of(rows, stored, highest - lowest)
    count = max(1, _TILE // rows.shape[1])
    for first in range(0, len(rows), count):
        part = slice(first, first + count)
        keep = None if kept is None else kept[part]
        found = _settled(rows[part], keep, None if known is None else known[part], lowest, highest, stored)
        before = _loss(rows[part], shift_scale_rows(data[part], scale[part], offset[part]), scale[part], keep)
        after = _loss(rows[part], shift_scale_rows(*found), scale[part], keep)
        better = after < before  # not where a float16 can't hold the zero point of a range far from 0
        for whole, new in zip((data, scale, offset), found, strict=True):
            whole[part][better] = new[better].astype(whole.dtype)
    integers = from_rows(data, weight.shape, counts)
    return Quantized(
        integers if mask is None else integers * mask, scale.reshape(counts), offset.reshape(counts), plain.bits
    )


def _settled(
    rows: Floats, kept: NDArray[np.bool_] | None, known: Array | None, lowest: int, highest: int, stored: np.dtype[Any]
) -> tuple[Array, Array, Array]:
    """Integers, scales and zero points of blocks, (rows, size). `known`: the steps that these lie on already, or 0."""
    bottom, top = _range(rows, kept)
    limits, span = np.finfo(stored), top - bottom
    step = np.maximum(span / np.float32(highest - lowest), limits.smallest_subnormal)
    if known is not None:
        step = np.where(known > 0, known, step)
    scale = np.where(span > 0, step, 1).astype(stored)
    steps = rows / scale.astype(np.float32)[:, None]
    start: Floats = np.clip(lowest - bottom / scale.astype(np.float32), float(limits.min), float(limits.max))
    zero = zero_points(steps, start, kept, lowest, highest).astype(stored)
    integers = np.clip(np.rint(steps + zero.astype(np.float32)[:, None]), lowest, highest)
    return integers.astype(np.int8 if lowest < 0 else np.uint8), scale, zero


def zero_points(
    steps: Floats, zero: Floats, kept: NDArray[np.bool_] | None, lowest: int, highest: int, beta: float = _BETA
) -> Floats:
    """Of values in steps of their grid, (rows, size), the zero points of least sum of |error|^(3/4) that 20 rounds from
    `zero` come by: (rows,)."""
    least, best = np.full(len(steps), np.inf, np.float32), zero
    for _ in range(_ROUNDS):
        integers = np.clip(np.rint(steps + zero[:, None]), lowest, highest)
        error = steps - (integers - zero[:, None])
        size = np.abs(error)
        fourth = np.sqrt(np.sqrt(size))
        loss = _sum(np.sqrt(size) * fourth, kept)
        better = loss < least
        least, best = np.where(better, loss, least), np.where(better, zero, best)
        # The proximal step: |x|^(p - 1) / beta less of each error; a small error is no outlier at all.
        with np.errstate(divide="ignore"):
            outlier = np.copysign(np.maximum(size - 1 / (np.float32(beta) * fourth), 0), error)
        zero = _mean(integers - steps + outlier, kept)
        beta *= _KAPPA
    return best


def _range(rows: Floats, kept: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    if kept is None:
        return rows.min(1), rows.max(1)
    some = kept.any(1)
    bottom = np.where(some, np.where(kept, rows, np.inf).min(1), 0).astype(np.float32)
    top = np.where(some, np.where(kept, rows, -np.inf).max(1), 0).astype(np.float32)
    return bottom, top


def _loss(rows: Floats, dense: Array, scale: Array, kept: NDArray[np.bool_] | None) -> Floats:
    root = np.sqrt(np.abs(rows - dense.astype(np.float32)))
    return _sum(root * np.sqrt(root), kept)


def _sum(values: Floats, kept: NDArray[np.bool_] | None) -> Floats:
    found: Floats = (values if kept is None else np.where(kept, values, np.float32(0))).sum(1)
    return found


def _mean(values: Floats, kept: NDArray[np.bool_] | None) -> Floats:
    count = np.float32(values.shape[1]) if kept is None else np.maximum(kept.sum(1), 1).astype(np.float32)
    return _sum(values, kept) / count
