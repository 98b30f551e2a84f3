"""Indices into look-up tables, turned into the entries, and numbers turned into indices. See `c/lookup.c`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

Array = NDArray[Any]
Floats = NDArray[np.float32]

_look_up = kernel("look_up", Pointer, Int, Int, Pointer, Int, Int, Pointer)
_take_entries = kernel("take_entries", Pointer, Int, Int, Pointer, Pointer, Int, Pointer, Pointer)


def look_up_rows(indices: NDArray[np.uint8], tables: Array) -> Array:
    """(rows, n) indices into (rows, entries, dim) tables -> (rows, n * dim); the indices are not checked."""
    (rows, count), (_, entries, dim) = indices.shape, tables.shape
    dense = np.empty((rows, count * dim), tables.dtype)
    tables = np.ascontiguousarray(tables)
    given = pointer(tables, shape=(rows, entries, dim)), entries, dim * tables.itemsize
    _look_up(pointer(indices, np.uint8), rows, count, *given, pointer(dense, out=True))
    return dense


def take_entries(points: Floats, edges: Floats, tables: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Of each of the points (rows, n) the code of an entry, and the entry. `tables`: (rows, up to 256 entries),
    ascending. `edges`: (rows, entries - 1), from where on, itself not included, the next entry is taken."""
    (rows, count), entries = points.shape, tables.shape[1]
    if not 1 <= entries <= 256:
        raise ValueError(f"tables have 1 to 256 entries, not {entries}")
    codes, dense = np.empty((rows, count), np.uint8), np.empty((rows, count), np.float32)
    _take_entries(
        pointer(points, np.float32), rows, count, pointer(edges, np.float32, shape=(rows, entries - 1)),
        pointer(tables, np.float32, shape=(rows, entries)), entries, pointer(codes, out=True), pointer(dense, out=True),
    )  # fmt: skip
    return codes, dense
