"""Exact k-means in one dimension, for weights: a look-up table and indices of the least squared error.

A 16-bit format has 65,536 values: a histogram replaces sorting the weight, `kernels.partition` clusters the histogram,
and a table replaces searching the nearest entry. Other formats are sorted, and searched; float32 may fall into bins
first, which keep the means of what they hold. What bins are is told in `kernels/c/bins.c`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import DataError
from corepress.kernels import kmeans1d as kernels
from corepress.kernels.half import narrow, widen
from corepress.kernels.partition import means_of_runs, partition

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Codes = NDArray[np.uint16]
Indices = NDArray[np.uint8]

BINS_PER_CLUSTER = 16  # where fewer are in use, bins are too coarse

NOT_FINITE = "the weight holds infinities or NaN, which can't be clustered"


class Clusters(NamedTuple):
    """`centroids`: float64 (k',), ascending. Cluster i is `values[bounds[i]:bounds[i + 1]]`. `sse`: the error."""

    centroids: Floats
    bounds: Ints
    sse: float


def cluster(values: Floats, counts: Floats, k: int) -> Clusters:
    """Split weighted numbers into min(n, k) clusters of the least total squared error.

    `values`: float64 (n,), finite, strictly ascending; `counts`: float64 (n,), positive. Optimal up to the rounding
    of float64 sums; a count below 2**-50 of the total weighs as much as that. Raises CorepressError for other input.
    """
    values, counts = np.ascontiguousarray(values, np.float64), np.ascontiguousarray(counts, np.float64)
    if k < 1 or values.ndim != 1 or values.shape != counts.shape or values.size == 0:
        raise DataError("k-means needs k >= 1, at least one value, and one count for each value")
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise DataError("k-means needs finite values in strictly ascending order, as `histogram` gives")
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        raise DataError("k-means needs finite, positive counts")
    bounds = partition(values, counts, k)
    centroids, sse = means_of_runs(values, counts, bounds)
    return Clusters(centroids, bounds, sse)


def histogram(weight: Array, importance: Array | None = None) -> tuple[Floats, Floats]:
    """The distinct values of a weight in ascending order, and how often each occurs: float64 (n,) twice.

    `weight`: float16, bfloat16, float32, float64, int8 or uint8 of any shape. `importance`: of that shape, not
    negative: values are counted by their importance, and those without any are left out, unless none has any.
    Raises CorepressError for numbers that are not finite.
    """
    rows, weights = _checked(weight.reshape(1, -1), None if importance is None else importance.reshape(1, -1))
    if short := _as_16_bit(rows):
        found = kernels.histogram_codes(short.codes[0], None if weights is None else weights[0], short.brain)
    else:
        rows, weights = _sorted(rows, weights)
        found = kernels.histogram_sorted(rows[0], None if weights is None else weights[0])
    if found is None:
        raise DataError(NOT_FINITE)
    return found


def quantize_values(weight: Array, k: int, importance: Array | None = None) -> tuple[Array, Indices]:
    """The best look-up table of `k` <= 256 entries for a weight, and the index of each element's entry.

    `weight` and `importance`: as for `histogram`. Returns the table, (k,) of the weight's type, ascending, with
    zeros after the last entry in use; and the indices, uint8 of the weight's shape.
    """
    flat = None if importance is None else importance.reshape(1, -1)
    lut, indices = quantize_rows(weight.reshape(1, -1), k, flat)
    return lut[0], indices.reshape(weight.shape)


def quantize_rows(
    rows: Array, k: int, importance: Array | None = None, *, binned: bool = False
) -> tuple[Array, Indices]:
    """`quantize_values` of each row of a matrix: (groups, m) gives tables (groups, k) and indices (groups, m).

    `binned`: long rows of float32 fall into bins first (`bins`), and clusters end where bins do. This is many times
    faster, and the error of normal numbers grows by some 1/300,000, with 256 entries 1/5,000. Entries are still true
    means, and indices those of the nearest entries. A row in few bins is clustered exactly all the same.
    """
    dtype = rows.dtype
    rows, weights = _checked(rows, importance)
    short = _as_16_bit(rows)
    if binned and not short and _suits_bins(rows, k):
        return _quantize_binned(rows, k, weights)
    if short:
        centroids, used = kernels.cluster_codes(short.codes, weights, short.brain, k)
    else:
        centroids, used = kernels.cluster_sorted(*_sorted(rows, weights), k)
    if (used < 0).any():
        raise DataError(NOT_FINITE)
    # The representable value nearest to the mean is the best for a partition. Rounding does not merge clusters:
    # their values are representable, so a rounded mean stays between its own.
    lut = round_to(centroids, dtype)
    return lut, _nearest(rows, short, lut, used)


def nearest(rows: Array, lut: Array, used: Ints | None = None) -> Indices:
    """For each element of (groups, m), the index of the nearest entry of its row's ascending table (groups, k), of
    which only the first `used` (groups,) entries count."""
    rows, _ = _checked(rows, None)
    if used is None:
        used = np.full(len(rows), lut.shape[1], np.int32)
    return _nearest(rows, _as_16_bit(rows), lut, used)


def round_to(values: Floats, dtype: np.dtype[Any]) -> Array:
    """The nearest values of another type; integers saturate."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


class Short(NamedTuple):
    """A matrix of 16-bit floating-point numbers as their bits: those of bfloat16 if `brain`, else of float16."""

    codes: Codes
    brain: bool


def _as_16_bit(rows: Array) -> Short | None:
    """The rows as 16-bit numbers, if each of them is exactly that."""
    if rows.dtype == np.float16 or rows.dtype.name == "bfloat16":
        return Short(rows.view(np.uint16), rows.dtype != np.float16)
    if rows.dtype.itemsize == 1:
        return Short(narrow(rows.astype(np.float32)).view(np.uint16), False)
    sample = rows.reshape(-1)[:: max(1, rows.size // 1024)]
    for brain, convert in ((False, _half_codes), (True, _brain_codes)):
        if convert(sample) is not None and (codes := convert(rows)) is not None:
            return Short(codes, brain)
    return None


def _half_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        half = narrow(np.ascontiguousarray(values, np.float32))
    return half.view(np.uint16) if (widen(half) == values).all() else None


def _brain_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    exact = not (bits & 0xFFFF).any() and (bits.view(np.float32) == values).all()
    return (bits >> 16).astype(np.uint16) if exact else None


def _checked(rows: Array, importance: Array | None) -> tuple[Array, Floats | None]:
    """Contiguous rows of a type that the kernels know, and importance of that shape, if there is any."""
    if not (rows.dtype.itemsize == 1 or rows.dtype.name in ("float16", "bfloat16", "float32")):
        rows = rows.astype(np.float64)
    rows = np.ascontiguousarray(rows)
    if importance is None:
        return rows, None
    if importance.shape != rows.shape:
        raise DataError(f"the importance has the shape {importance.shape}, but the weight {rows.shape}")
    weights = np.ascontiguousarray(importance, np.float64)
    if weights.size and not 0 <= weights.min() <= weights.max() < np.inf:  # NaN are not in any order
        raise DataError("the importance must be finite and not negative")
    if not np.isfinite(rows).all():
        raise DataError(NOT_FINITE)
    if not (some := weights.any(axis=1, keepdims=True)).all():
        weights = np.where(some, weights, 1.0)
    return rows, weights


def _sorted(rows: Array, weights: Floats | None) -> tuple[Array, Floats | None]:
    if weights is None:
        return np.sort(rows, axis=1), None
    order = np.argsort(rows, axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(weights, order, axis=1)


def _nearest(rows: Array, short: Short | None, lut: Array, used: Ints) -> Indices:
    tables = np.ascontiguousarray(lut, np.float64)
    if short:
        return kernels.assign_codes(short.codes, short.brain, tables, used)
    if _suits_bins(rows, lut.shape[1]):
        return kernels.assign_bins(rows, tables, _dropped_bits(lut.shape[1]), used)
    return kernels.assign_values(rows, tables, used)


def _dropped_bits(k: int) -> int:
    """How many bits of the mantissa do not tell bins apart: the more clusters, the finer the bins."""
    return 23 - min(max(k.bit_length() + 4, 7), 10)


def _suits_bins(rows: Array, k: int) -> bool:
    """Are there enough numbers in a row that bins are worth while?"""
    return rows.dtype == np.float32 and 8 * rows.shape[1] >= 2 << (kernels.RANGE - _dropped_bits(k))


def _quantize_binned(rows: Array, k: int, weights: Floats | None) -> tuple[Array, Indices]:
    luts, used = kernels.cluster_bins(rows, weights, _dropped_bits(k), k, BINS_PER_CLUSTER * k)
    if (used < 0).any():
        raise DataError(NOT_FINITE)
    indices = _nearest(rows, None, luts, used)
    if (coarse := used == 0).any():
        some = None if weights is None else weights[coarse]
        luts[coarse], indices[coarse] = quantize_rows(rows[coarse], k, some)
    return luts, indices
