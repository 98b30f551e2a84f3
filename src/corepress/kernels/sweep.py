"""The columns of a group settled one by one, and the k-th smallest of many numbers. See `c/sweep.c`."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Float, Int, Pointer, kernel, pointer

Floats = NDArray[np.float32]
LANES = 64  # rows that are settled at a time

_settle = kernel(
    "settle", Pointer, Pointer, Pointer, Int, Int, Pointer, Pointer, Pointer, Float, Pointer, Int, Pointer,
    Int, Int, Int, Int, Pointer,
)  # fmt: skip
_smallest = kernel("smallest", Pointer, Int, Int, Pointer, returns=ctypes.c_uint32)


class Levels(NamedTuple):
    """What the columns of a group are rounded to: scale * (level - zero), or scale * palette[level].

    `scale`, `zero`: (blocks, rows). `block_of`: (columns,), the block of each column. `top`: the highest level.
    `palette`: ascending; empty for evenly spaced levels 0..`top`.
    """

    scale: Floats
    zero: Floats
    block_of: NDArray[np.int64]
    top: float
    palette: Floats


def settle(
    target: Floats, inverse: Floats, kept: NDArray[np.bool_] | None, n_m: tuple[int, int], grid: Levels | None,
    levels: NDArray[np.uint8], first: int, last: int,
) -> None:  # fmt: skip
    """Settle the rows from `first` to `last` of a group of columns, in place.

    `target`: (columns, rows), the values wanted, then those taken. `inverse`: (columns, columns), upper triangular.
    `kept`: (columns, rows), what is not pruned; with `n_m` so many of every so many columns of a row go besides.
    `levels`: (columns, rows), written to where there is a grid.
    """
    columns, rows = shape = target.shape
    if not 0 <= first <= last <= rows:
        raise ValueError(f"there are no rows from {first} to {last} of {rows}")
    pruned, of = n_m if kept is not None else (0, 0)
    if not 0 <= pruned <= of:
        raise ValueError(f"{pruned} of every {of} columns can't be pruned")
    scale = zero = block_of = palette = taken = None
    if grid is not None:
        blocks = len(grid.scale)
        if columns and not 0 <= grid.block_of.min() <= grid.block_of.max() < blocks:
            raise ValueError(f"there are no blocks but the {blocks} that have scales")
        scale, zero = (pointer(part, np.float32, shape=(blocks, rows)) for part in (grid.scale, grid.zero))
        block_of = pointer(grid.block_of, np.int64, shape=(columns,))
        palette = pointer(grid.palette, np.float32) if grid.palette.size else None
        taken = pointer(levels, np.uint8, shape=shape, out=True)
    room = np.zeros(LANES * (columns + of + 1) + columns, np.float32)
    _settle(
        pointer(target, np.float32, out=True), pointer(inverse, np.float32, shape=(columns, columns)),
        None if kept is None else pointer(kept, np.bool_, shape=shape, out=True), pruned, of,
        scale, zero, block_of, grid.top if grid else 0, palette, grid.palette.size if grid else 0, taken,
        columns, rows, first, last, pointer(room),
    )  # fmt: skip


def smallest(values: Floats, k: int) -> np.float32:
    """The element of (n,) numbers, none negative, that sorting would bring to place `k`."""
    if not 0 <= k < values.size < 1 << 32:
        raise ValueError(f"no place {k} among {values.size} numbers, or more than can be counted")
    counts = np.empty(1 << 16, np.uint32)
    bits = _smallest(pointer(values, np.float32, shape=(values.size,)), values.size, k, pointer(counts, out=True))
    found: np.float32 = np.uint32(bits).view(np.float32)
    return found
