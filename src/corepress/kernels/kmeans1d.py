"""k-means in one dimension: histograms of rows, their clusters, the nearest entries. See `c/kmeans1d.c`, `c/bins.c`.

Rows are (rows, columns) of one of three kinds: codes, uint16, the bits of float16 or, with `brain`, of bfloat16;
float32 or float64 numbers, each row ascending for what counts; or float32 for bins. `weights`: float64 of that shape,
not negative, or None. `luts`: float64 (rows, k), ascending, of which the first `used` entries count, int32 (rows,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer
from corepress.kernels.partition import Floats, Ints, room_for

Array = NDArray[Any]
Codes = NDArray[np.uint16]
Singles = NDArray[np.float32]
Indices = NDArray[np.uint8]

CODES = 65536
RANGE = 28  # bits of a magnitude that tell bins apart: 5 of the exponent, which is 32 powers of two, and the mantissa's

_histogram_codes = kernel("histogram_codes", *[Pointer, Int, Pointer, Int], *[Pointer] * 3, returns=Int)
_histogram_sorted = kernel("histogram_sorted", *[Pointer, Int, Int], *[Pointer] * 3, returns=Int)
_cluster_codes = kernel("cluster_codes", Pointer, Int, Int, Pointer, Int, Int, *[Pointer] * 7)
_cluster_sorted = kernel("cluster_sorted", Pointer, Int, Int, Int, Pointer, Int, *[Pointer] * 6)
_cluster_bins = kernel("cluster_bins", Pointer, Int, Int, Pointer, Int, Int, Int, *[Pointer] * 8)
_assign_codes = kernel("assign_codes", Pointer, Int, Int, Int, Pointer, Int, *[Pointer] * 3)
_assign_values = kernel("assign_values", Pointer, Int, Int, Int, Pointer, Int, Pointer, Pointer)
_assign_bins = kernel("assign_bins", Pointer, Int, Int, Pointer, Int, Int, *[Pointer] * 3)


def histogram_codes(codes: Codes, weights: Floats | None, brain: bool) -> tuple[Floats, Floats] | None:
    """The distinct values of (n,) codes in ascending order, and their counts; None where one that
    counts is not finite."""
    bins, values, counts = np.zeros(CODES), np.empty(CODES), np.empty(CODES)
    given = pointer(codes, np.uint16, shape=(codes.size,)), codes.size, _weights(weights, codes), brain
    n = _histogram_codes(*given, *(pointer(array, out=True) for array in (bins, values, counts)))
    return None if n < 0 else (values[:n].copy(), counts[:n].copy())


def histogram_sorted(row: Array, weights: Floats | None) -> tuple[Floats, Floats] | None:
    """The same of (n,) ascending numbers."""
    values, counts = np.empty(row.size), np.empty(row.size)
    given = pointer(row, np.float32, np.float64, shape=(row.size,)), row.itemsize, row.size, _weights(weights, row)
    n = _histogram_sorted(*given, pointer(values, out=True), pointer(counts, out=True))
    return None if n < 0 else (values[:n].copy(), counts[:n].copy())


def cluster_codes(codes: Codes, weights: Floats | None, brain: bool, k: int) -> tuple[Floats, Ints]:
    """The best `k` centroids of each row, float64 (rows, k), ascending, with zeros after the last; and how many it has:
    0 for a row without any element, -1 for one that is not finite."""
    rows, columns = codes.shape
    centroids, used = np.zeros((rows, k)), np.zeros(rows, np.int32)
    scratch = (
        *np.zeros((1, CODES)),
        *np.empty((2, CODES)),
        room_for(min(CODES, columns), k),
        np.empty(k + 1, np.int32),
    )
    given = pointer(codes, np.uint16), rows, columns, _weights(weights, codes), brain, k
    _cluster_codes(*given, *(pointer(array, out=True) for array in (*scratch, centroids, used)))
    return centroids, used


def cluster_sorted(rows: Array, weights: Floats | None, k: int) -> tuple[Floats, Ints]:
    """The same of rows of ascending numbers."""
    count, columns = rows.shape
    centroids, used = np.zeros((count, k)), np.zeros(count, np.int32)
    scratch = (np.empty(columns), np.empty(columns), room_for(columns, k), np.empty(k + 1, np.int32))
    given = pointer(rows, np.float32, np.float64), rows.itemsize, count, columns, _weights(weights, rows), k
    _cluster_sorted(*given, *(pointer(array, out=True) for array in (*scratch, centroids, used)))
    return centroids, used


def cluster_bins(rows: Singles, weights: Floats | None, drop: int, k: int, least: int) -> tuple[Singles, Ints]:
    """Centroids of bins which leave out the last `drop` bits: float32 (rows, k), ascending; and for each row `k`, or 0
    where it has fewer than `least` >= k bins, or -1 where it is not finite."""
    count, columns = rows.shape
    if not k <= least:
        raise ValueError("so many clusters need as many bins")
    luts, used, bins = np.zeros((count, k), np.float32), np.zeros(count, np.int32), _bins(drop)
    room, bounds, centroids = room_for(bins, k), np.empty(k + 1, np.int32), np.empty(k)
    scratch = (np.empty(2 * bins), np.empty(bins), np.empty(bins), room, bounds, centroids)
    given = pointer(rows, np.float32), count, columns, _weights(weights, rows), drop, k, least
    _cluster_bins(*given, *(pointer(array, out=True) for array in (*scratch, luts, used)))
    return luts, used


def assign_codes(codes: Codes, brain: bool, luts: Floats, used: Ints) -> Indices:
    """The index of the nearest entry for each code."""
    tables, indices = np.empty(CODES, np.uint8), np.empty(codes.shape, np.uint8)
    given = pointer(codes, np.uint16), *codes.shape, brain, *_tables(codes, luts, used)
    _assign_codes(*given, pointer(tables, out=True), pointer(indices, out=True))
    return indices


def assign_values(rows: Array, luts: Floats, used: Ints) -> Indices:
    """The same for float32 or float64 numbers, in any order."""
    indices = np.empty(rows.shape, np.uint8)
    given = pointer(rows, np.float32, np.float64), rows.itemsize, *rows.shape, *_tables(rows, luts, used)
    _assign_values(*given, pointer(indices, out=True))
    return indices


def assign_bins(rows: Singles, luts: Floats, drop: int, used: Ints) -> Indices:
    """The same for float32, by a table for each bin; worth while for long rows."""
    table, indices = np.empty(_bins(drop), np.uint8), np.empty(rows.shape, np.uint8)
    lut, k, counted = _tables(rows, luts, used)
    given = pointer(rows, np.float32), *rows.shape, lut, k, drop, counted
    _assign_bins(*given, pointer(table, out=True), pointer(indices, out=True))
    return indices


def _bins(drop: int) -> int:
    if not 0 <= drop <= RANGE - 1:
        raise ValueError(f"bins leave out 0 to {RANGE - 1} bits, not {drop}")
    return 2 << (RANGE - drop)


def _weights(weights: Floats | None, rows: Array) -> int | None:
    return None if weights is None else pointer(weights, np.float64, shape=rows.shape)


def _tables(rows: Array, luts: Floats, used: Ints) -> tuple[int, int, int]:
    """The tables, their length, and how many of their entries count."""
    k = luts.shape[1]
    if not 1 <= k <= 256 or (used > k).any():
        raise ValueError("a table has 1 to 256 entries, of which no more count")
    return pointer(luts, np.float64, shape=(len(rows), k)), k, pointer(used, np.int32, shape=(len(rows),))
