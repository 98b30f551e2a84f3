"""Bins for float32: numbers that share their leading bits fall together, in ascending order of values.

The bits of a magnitude, read as an integer, ascend with it. Those that count are the top ones below the largest of a
row: its powers of two, and each power cut into equal parts. Smaller magnitudes fall together with zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.monge import Floats, Ints, kernel

Array = NDArray[Any]
Indices = NDArray[np.uint8]

RANGE = 28  # bits of a magnitude that count: 5 of the exponent, which is 32 powers of two, and the mantissa's 23


def dropped_bits(k: int) -> int:
    """How many bits of the mantissa do not tell bins apart: the more clusters, the finer the bins."""
    return 23 - min(max(k.bit_length() + 4, 7), 10)


def suits_bins(rows: Array, k: int) -> bool:
    """Are there enough numbers in a row that bins are worth while?"""
    return rows.dtype == np.float32 and 8 * rows.shape[1] >= 2 << (RANGE - dropped_bits(k))


@kernel
def origin_of(bits: Array) -> int:
    """The bits of the magnitude at which bins begin, for the largest to be in the last; -1 where one is not finite."""
    largest = 0
    for i in range(bits.size):
        magnitude: int = bits[i] & 0x7FFFFFFF
        largest = max(largest, magnitude)
    return max(largest - ((1 << RANGE) - 1), 0) if largest < 0x7F800000 else -1


@kernel
def bin_of(bits: int, origin: int, drop: int) -> int:
    """The bin of a float32, ascending with its value: of two magnitudes, the greater has the greater bits."""
    bin = max((bits & 0x7FFFFFFF) - origin, 0) >> drop
    half = 1 << (RANGE - drop)
    return half + bin if bits >= 0 else half - 1 - bin


@kernel
def count_bins(
    row: Array, bits: Array, weights: Floats, origin: int, drop: int, bins: Floats, values: Floats, counts: Floats
) -> int:
    """Fill `values` and `counts` with the bins' means and masses; how many there are."""
    bins[:] = 0.0
    for i in range(row.size):
        bin, count = bin_of(bits[i], origin, drop), weights[i] if weights.size else 1.0
        bins[bin, 0] += count
        bins[bin, 1] += count * row[i]
    n = 0
    for bin in range(len(bins)):
        if bins[bin, 0] > 0:
            mean = bins[bin, 1] / bins[bin, 0]
            if n > 0 and values[n - 1] == mean:  # -0.0 and 0.0
                counts[n - 1] += bins[bin, 0]
            else:
                values[n], counts[n] = mean, bins[bin, 0]
                n += 1
    return n


@kernel
def assign_bins(rows: Array, bits: Array, luts: Floats, drop: int, used: Ints, indices: Indices) -> None:
    """Fill `indices` with those of the nearest entries, by a table of where each bin's least value belongs."""
    table, limits = np.empty(2 << (RANGE - drop), np.uint8), np.empty(256)
    for row in range(rows.shape[0]):
        limits[:] = np.inf
        for i in range(used[row] - 1):
            limits[i] = (luts[row, i] + luts[row, i + 1]) / 2
        single, origin, begin = limits.astype(np.float32).view(np.int32), origin_of(bits[row]), 0
        for i in range(used[row] - 1):
            end = bin_of(single[i], origin, drop) + 1
            table[begin:end] = i
            begin = max(begin, end)
        table[begin:] = max(used[row] - 1, 0)
        for j in range(rows.shape[1]):
            index = table[bin_of(bits[row, j], origin, drop)]
            while rows[row, j] > limits[index]:
                index += np.uint8(1)
            indices[row, j] = index
