"""Exact k-means in one dimension, for weights: a look-up table and indices of the least squared error.

A 16-bit format has 65,536 values: a histogram replaces sorting the weight, `monge.partition` clusters the histogram,
and a table replaces searching the nearest entry. Other formats are sorted, and searched; float32 may fall into bins
first, which keep the means of what they hold.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.bins import RANGE, assign_bins, count_bins, dropped_bits, origin_of, suits_bins
from corepress.algorithms.monge import Floats, Ints, kernel, partition
from corepress.errors import CorepressError
from corepress.weights.kernels import frozen

Array = NDArray[Any]
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
        raise CorepressError("k-means needs k >= 1, at least one value, and one count for each value")
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise CorepressError("k-means needs finite values in strictly ascending order, as `histogram` gives")
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        raise CorepressError("k-means needs finite, positive counts")
    bounds = partition(values, counts, k)
    centroids = np.empty(bounds.size - 1)
    return Clusters(centroids, bounds, float(_means(values, counts, bounds, centroids)))


def histogram(weight: Array, importance: Array | None = None) -> tuple[Floats, Floats]:
    """The distinct values of a weight in ascending order, and how often each occurs: float64 (n,) twice.

    `weight`: float16, bfloat16, float32, float64, int8 or uint8 of any shape. `importance`: of that shape, not
    negative: values are counted by their importance, and those without any are left out, unless none has any.
    Raises CorepressError for numbers that are not finite.
    """
    rows, weights = _checked(weight.reshape(1, -1), None if importance is None else importance.reshape(1, -1))
    short = _as_16_bit(rows)
    values, counts = np.empty(max(rows.size, 65536)), np.empty(max(rows.size, 65536))
    if short:
        n = _count_codes(short.codes[0], weights[0], short.by_rank, values, counts)
    else:
        rows, weights = _sorted(rows, weights)
        n = _count_sorted(rows[0], weights[0], values, counts)
    if n < 0:
        raise CorepressError(NOT_FINITE)
    return values[:n].copy(), counts[:n].copy()


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
    if binned and not short and suits_bins(rows, k):
        return _quantize_binned(rows, k, weights)
    centroids, used = np.zeros((len(rows), k)), np.zeros(len(rows), np.int32)
    if short:
        _cluster_codes(short.codes, weights, short.by_rank, centroids, used)
    else:
        _cluster_sorted(*_sorted(rows, weights), centroids, used)
    if (used < 0).any():
        raise CorepressError(NOT_FINITE)
    # The representable value nearest to the mean is the best for a partition. Rounding does not merge clusters:
    # their values are representable, so a rounded mean stays between its own.
    lut = round_to(centroids, dtype)
    return lut, _nearest(rows, short, lut, used)


def nearest(rows: Array, lut: Array, used: Ints | None = None) -> Indices:
    """For each element of (groups, m), the index of the nearest entry of its row's ascending table (groups, k), of
    which only the first `used` (groups,) entries count."""
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
    """A matrix of 16-bit floating-point numbers: their bits, and all values of the format in ascending order."""

    codes: Codes
    by_rank: Floats


def _as_16_bit(rows: Array) -> Short | None:
    """The rows as 16-bit numbers, if each of them is exactly that."""
    if rows.dtype == np.float16 or rows.dtype.name == "bfloat16":
        return Short(frozen(rows.view(np.uint16)), _ranked(rows.dtype.name))
    if rows.dtype.itemsize == 1:
        return Short(frozen(rows.astype(np.float16).view(np.uint16)), _ranked("float16"))
    sample = rows.reshape(-1)[:: max(1, rows.size // 1024)]
    for name, convert in (("float16", _half_codes), ("bfloat16", _brain_codes)):
        if convert(sample) is not None and (codes := convert(rows)) is not None:
            return Short(frozen(codes), _ranked(name))
    return None


def _half_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    return half.view(np.uint16) if (half == values).all() else None


def _brain_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    exact = not (bits & 0xFFFF).any() and (bits.view(np.float32) == values).all()
    return (bits >> 16).astype(np.uint16) if exact else None


@functools.cache
def _ranked(name: str) -> Floats:
    """All values of a 16-bit format in ascending order: bits 0xFFFF down to 0x8000, then 0x0000 up to 0x7FFF."""
    codes = np.arange(65536, dtype=np.uint16)
    codes = np.concatenate([codes[:0x7FFF:-1], codes[:0x8000]])
    bits = codes.view(np.float16) if name == "float16" else (codes.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        values = bits.astype(np.float64)
    values[np.isnan(values)] = np.inf
    values[:0x8000][values[:0x8000] == np.inf] = -np.inf  # NaN of negative sign, to keep the order
    return frozen(values)


def _checked(rows: Array, importance: Array | None) -> tuple[Array, Array]:
    """Contiguous rows of a type that the kernels know, and importance of that shape, or (groups, 0) for none."""
    if not (rows.dtype.itemsize == 1 or rows.dtype.name in ("float16", "bfloat16", "float32")):
        rows = rows.astype(np.float64)
    rows = np.ascontiguousarray(rows)
    if importance is None:
        return rows, frozen(np.empty((len(rows), 0)))
    if importance.shape != rows.shape:
        raise CorepressError(f"the importance has the shape {importance.shape}, but the weight {rows.shape}")
    weights = np.ascontiguousarray(importance, np.float64)
    if weights.size and not 0 <= weights.min() <= weights.max() < np.inf:  # NaN are not in any order
        raise CorepressError("the importance must be finite and not negative")
    if not np.isfinite(rows).all():
        raise CorepressError(NOT_FINITE)
    if not (some := weights.any(axis=1, keepdims=True)).all():
        weights = np.where(some, weights, 1.0)
    return rows, frozen(weights)


def _sorted(rows: Array, weights: Array) -> tuple[Array, Array]:
    if not weights.size:
        return frozen(np.sort(rows, axis=1)), weights
    order = np.argsort(rows, axis=1)
    return frozen(np.take_along_axis(rows, order, axis=1)), frozen(np.take_along_axis(weights, order, axis=1))


def _nearest(rows: Array, short: Short | None, lut: Array, used: Ints) -> Indices:
    indices = np.empty(rows.shape, np.uint8)
    if short:
        _assign_codes(short.codes, short.by_rank, lut.astype(np.float64), used, indices)
    elif suits_bins(rows, lut.shape[1]):
        drop = dropped_bits(lut.shape[1])
        assign_bins(frozen(rows), frozen(rows.view(np.int32)), lut.astype(np.float64), drop, used, indices)
    else:
        _assign(frozen(rows), lut.astype(np.float64), used, indices)
    return indices


def _quantize_binned(rows: Array, k: int, weights: Array) -> tuple[Array, Indices]:
    luts, indices = np.zeros((len(rows), k), np.float32), np.empty(rows.shape, np.uint8)
    used = _cluster_bins(frozen(rows), frozen(rows.view(np.int32)), weights, dropped_bits(k), luts)
    if (used < 0).any():
        raise CorepressError(NOT_FINITE)
    indices = _nearest(rows, None, luts, used)
    if (coarse := used == 0).any():
        luts[coarse], indices[coarse] = quantize_rows(rows[coarse], k, weights[coarse] if weights.size else None)
    return luts, indices


@kernel
def _cluster_bins(rows: Array, bits: Array, weights: Floats, drop: int, luts: Array) -> Ints:
    """Fill `luts`. For each row, how many entries it got; 0 if bins are too coarse for it, -1 if it is not finite."""
    k, used = luts.shape[1], np.zeros(len(rows), np.int32)
    size = 2 << (RANGE - drop)
    bins, values, counts, centroids = np.empty((size, 2)), np.empty(size), np.empty(size), np.empty(k)
    for row in range(len(rows)):
        origin = origin_of(bits[row])
        if origin < 0:
            used[row] = -1
            continue
        n = count_bins(rows[row], bits[row], weights[row], origin, drop, bins, values, counts)
        if n >= BINS_PER_CLUSTER * k:
            used[row] = _centroids(values[:n], counts[:n], centroids)
            luts[row] = centroids
    return used


@kernel
def _cluster_codes(codes: Codes, weights: Floats, by_rank: Floats, centroids: Floats, used: Ints) -> None:
    values, counts = np.empty(65536), np.empty(65536)
    for row in range(codes.shape[0]):
        n = _count_codes(codes[row], weights[row], by_rank, values, counts)
        used[row] = _centroids(values[:n], counts[:n], centroids[row]) if n > 0 else n


@kernel
def _cluster_sorted(rows: Array, weights: Floats, centroids: Floats, used: Ints) -> None:
    values, counts = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    for row in range(rows.shape[0]):
        n = _count_sorted(rows[row], weights[row], values, counts)
        used[row] = _centroids(values[:n], counts[:n], centroids[row]) if n > 0 else n


@kernel
def _count_codes(codes: Codes, weights: Floats, by_rank: Floats, values: Floats, counts: Floats) -> int:
    """Fill `values` and `counts` with the histogram; its length, or -1 where a value is not finite."""
    if weights.size == 0:
        tally = np.zeros(65536, np.uint32)
        for i in range(codes.size):
            tally[codes[i]] += np.uint32(1)
        return _gather(tally, by_rank, values, counts)
    mass = np.zeros(65536)
    for i in range(codes.size):
        mass[codes[i]] += weights[i]
    return _gather(mass, by_rank, values, counts)


@kernel
def _gather(bins: Array, by_rank: Floats, values: Floats, counts: Floats) -> int:
    n = 0
    for rank in range(65536):
        count = bins[rank - 0x8000] if rank >= 0x8000 else bins[0xFFFF - rank]
        if count > 0:
            if n > 0 and values[n - 1] == by_rank[rank]:  # -0.0 and 0.0
                counts[n - 1] += count
            else:
                values[n], counts[n] = by_rank[rank], count
                n += 1
    return n if n == 0 or (np.isfinite(values[0]) and np.isfinite(values[n - 1])) else -1


@kernel
def _count_sorted(row: Array, weights: Floats, values: Floats, counts: Floats) -> int:
    """As `_count_codes`, for an ascending row; NaN sort last."""
    if row.size and not (np.isfinite(row[0]) and np.isfinite(row[-1])):
        return -1
    n = 0
    for i in range(row.size):
        count = weights[i] if weights.size else 1.0
        if count > 0:
            if n > 0 and values[n - 1] == row[i]:
                counts[n - 1] += count
            else:
                values[n], counts[n] = row[i], count
                n += 1
    return n


@kernel
def _assign_codes(codes: Codes, by_rank: Floats, luts: Floats, used: Ints, indices: Indices) -> None:
    ranked, table = np.empty(65536, np.uint8), np.empty(65536, np.uint8)
    for row in range(codes.shape[0]):
        lut, begin = luts[row], 0
        for i in range(used[row] - 1):
            end = np.searchsorted(by_rank, (lut[i] + lut[i + 1]) / 2, side="right")
            ranked[begin:end] = i
            begin = max(begin, end)
        ranked[begin:] = max(used[row] - 1, 0)
        table[:0x8000], table[0x8000:] = ranked[0x8000:], ranked[0x7FFF::-1]
        for j in range(codes.shape[1]):
            indices[row, j] = table[codes[row, j]]


@kernel
def _assign(rows: Array, luts: Floats, used: Ints, indices: Indices) -> None:
    limits = np.empty(256)  # between neighbouring entries; a binary search without branches needs all 256
    for row in range(rows.shape[0]):
        limits[:] = np.inf
        for i in range(used[row] - 1):
            limits[i] = (luts[row, i] + luts[row, i + 1]) / 2
        half = 1
        while 2 * half < used[row]:
            half *= 2
        for j in range(rows.shape[1]):
            index, step = 0, half
            while step:
                index += step * (limits[index + step - 1] < rows[row, j])
                step >>= 1
            indices[row, j] = index


@kernel
def _centroids(values: Floats, counts: Floats, centroids: Floats) -> int:
    """Fill `centroids` with the best ones; how many there are."""
    bounds = partition(values, counts, centroids.size)
    _means(values, counts, bounds, centroids)
    return bounds.size - 1


@kernel
def _means(values: Floats, counts: Floats, bounds: Ints, means: Floats) -> float:
    """Fill `means` with those of the clusters; their total squared error."""
    sse = 0.0
    for i in range(bounds.size - 1):
        origin, mass, moment = values[bounds[i]], 0.0, 0.0
        for j in range(bounds[i], bounds[i + 1]):
            mass += counts[j]
            moment += counts[j] * (values[j] - origin)
        means[i] = origin + moment / mass
        for j in range(bounds[i], bounds[i + 1]):
            sse += counts[j] * (values[j] - means[i]) ** 2
    return sse
