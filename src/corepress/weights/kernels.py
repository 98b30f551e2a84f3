"""The loops behind packing and decompression, compiled by numba; imported on first use, since numba loads slowly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from corepress.weights.half import rounded, single, stored

Array = NDArray[Any]


def frozen(array: Array) -> Array:
    """A read-only view, so that numba compiles one version for memory maps and for arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def as_bits(array: Array) -> Array:
    """float16 as its bits in uint16, the form in which kernels take it; anything else as it is."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


def look_up_rows(indices: NDArray[np.uint8], luts: Array) -> Array:
    """(rows, n) indices into (rows, entries, dim) tables -> (rows, n * dim); the indices are not checked."""
    rows, entries, dim = luts.shape
    bits = f"u{luts.dtype.itemsize}"
    dense = np.empty((rows, indices.shape[1] * dim), luts.dtype)
    tables = frozen(np.ascontiguousarray(luts).view(bits))
    if dim == 1:
        _look_up(frozen(indices), tables.reshape(rows, entries), dense.view(bits))
    else:
        _look_up_vectors(frozen(indices), tables, dense.view(bits).reshape(rows, -1, dim))
    return dense


@numba.njit(nogil=True, cache=True)
def _look_up(indices: NDArray[np.uint8], luts: Array, dense: Array) -> None:
    for row in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            dense[row, i] = luts[row, indices[row, i]]


@numba.njit(nogil=True, cache=True)
def _look_up_vectors(indices: NDArray[np.uint8], luts: Array, dense: Array) -> None:
    for row in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            for j in range(luts.shape[2]):
                dense[row, i, j] = luts[row, indices[row, i], j]


def shift_scale_rows(data: Array, scale: Array, offset: Array) -> Array:
    """scale * (data - offset), one scale and one offset to a row, each step rounded to the type of `scale`.

    `data`: (rows, n) of integers or floating point; `scale`, `offset`: (rows,), both float16 or both float32.
    """
    if data.dtype.kind == "f":
        data = data.astype(scale.dtype, copy=False)
    dense = np.empty(data.shape, scale.dtype)
    _shift_scale(frozen(as_bits(data)), frozen(as_bits(scale)), frozen(as_bits(offset)), as_bits(dense))
    return dense


@numba.njit(nogil=True, cache=True)
def _shift_scale(data: Array, scale: Array, offset: Array, dense: Array) -> None:
    for row in range(data.shape[0]):
        factor, shift, like = single(scale[row]), single(offset[row]), scale[row]
        for i in range(data.shape[1]):
            dense[row, i] = stored(factor * rounded(single(data[row, i]) - shift, like), like)


def swap_inner(array: Array) -> Array:
    """A copy of a (a, b, c) array as (a, c, b); NumPy's own copy takes up to ten times as long."""
    outer, rows, columns = array.shape
    bits = f"u{array.dtype.itemsize}"
    swapped = np.empty((outer, columns, rows), array.dtype)
    _swap_inner(frozen(array.view(bits)), swapped.view(bits))
    return swapped


@numba.njit(nogil=True, cache=True)
def _swap_inner(array: Array, swapped: Array) -> None:
    # In tiles of 32 x 32, which stay in the nearest cache while they are read across and written down.
    outer, rows, columns = array.shape
    for o in range(outer):
        for top in range(0, rows, 32):
            for left in range(0, columns, 32):
                for column in range(left, min(left + 32, columns)):
                    for row in range(top, min(top + 32, rows)):
                        swapped[o, column, row] = array[o, row, column]
