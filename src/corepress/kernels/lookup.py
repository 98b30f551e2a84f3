"""Indices into look-up tables, turned into the entries. See `c/lookup.c`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

Array = NDArray[Any]

_look_up = kernel("look_up", Pointer, Int, Int, Pointer, Int, Int, Pointer)


def look_up_rows(indices: NDArray[np.uint8], tables: Array) -> Array:
    """(rows, n) indices into (rows, entries, dim) tables -> (rows, n * dim); the indices are not checked."""
    (rows, count), (_, entries, dim) = indices.shape, tables.shape
    dense = np.empty((rows, count * dim), tables.dtype)
    tables = np.ascontiguousarray(tables)
    given = pointer(tables, shape=(rows, entries, dim)), entries, dim * tables.itemsize
    _look_up(pointer(indices, np.uint8), rows, count, *given, pointer(dense, out=True))
    return dense
