"""A tensor cut into equal blocks, laid out with one block to a row, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.layout import swap_inner

Array = NDArray[Any]


def to_rows(array: Array, counts: Sequence[int]) -> Array:
    """One row to each block, both in C order: (number of blocks, elements of a block), C-contiguous.

    `counts`: blocks on each axis of `array`; each must divide its axis. No copy where the layout allows it.
    """
    array = np.ascontiguousarray(array)
    blocks = math.prod(counts)
    if swap := _as_swap(array.shape, counts):
        return swap_inner(array.reshape(swap)).reshape(blocks, -1)
    grid, order = _grid(array.shape, counts)
    return np.ascontiguousarray(array.reshape(grid).transpose(order)).reshape(blocks, -1)


def from_rows(rows: Array, shape: Sequence[int], counts: Sequence[int]) -> Array:
    """The inverse of `to_rows`: the array of `shape` whose blocks are `rows`."""
    if swap := _as_swap(shape, counts):
        outer, size, inner = swap
        return swap_inner(rows.reshape(outer, inner, size)).reshape(shape)
    grid, order = _grid(shape, counts)
    inverse = np.argsort(order)
    return np.ascontiguousarray(rows.reshape([grid[axis] for axis in order]).transpose(inverse)).reshape(shape)


def spread(blocks: Array, shape: Sequence[int]) -> Array:
    """Values of blocks, repeated for every element of them: an array of `shape`."""
    for axis, size in enumerate(shape):
        blocks = np.repeat(blocks, size // blocks.shape[axis], axis)
    return blocks


def _grid(shape: Sequence[int], counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Each axis as (blocks, block size), and the order that brings the blocks before their insides."""
    grid = [part for size, count in zip(shape, counts, strict=True) for part in (count, size // count)]
    return grid, [*range(0, len(grid), 2), *range(1, len(grid), 2)]


def _as_swap(shape: Sequence[int], counts: Sequence[int]) -> tuple[int, int, int] | None:
    """(outer blocks, block size, inner blocks) if swapping the last two is all that it takes, as for columns."""
    parts = [(i % 2, size) for i, size in enumerate(_grid(shape, counts)[0]) if size > 1]
    runs = [(kind, math.prod(size for _, size in run)) for kind, run in groupby(parts, lambda part: part[0])]
    match runs:
        case [(0, outer), (1, size), (0, inner)]:
            return outer, size, inner
        case [(1, size), (0, inner)]:
            return 1, size, inner
    return None
