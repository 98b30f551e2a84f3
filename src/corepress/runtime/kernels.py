"""The loops behind packed weights on a CPU, compiled by numba; imported on first use, since numba loads slowly.

For one token, codes become numbers in registers and are multiplied there. For more, four rows at a time, a span of
columns that stays in the cache is made dense, then multiplied.

`form`: see `decode`. `codes`, `tables`, `scales`, `offsets`: those of a `Packed`, with float16 as its bits.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from corepress.runtime.intrinsics import MANY, PIECE, decode, dot, products, to_single

Array = NDArray[Any]
# Columns of four rows that are dense at a time: 16 KB.
_SPAN = 1024


@numba.njit(nogil=True, cache=True)
def multiply(
    form: Any, columns: int, codes: Array, tables: Array, scales: Array, offsets: Array, first: int, x: Array, y: Array
) -> None:
    """y[t, i] = row `first + i` of the weight times x[t], which is zero beyond `columns`."""
    if len(x) == 1 and _whole(columns, scales, 32):
        _multiply_one(form, columns, codes, tables, scales, offsets, first, x, y)
        return
    padded, bits, whole = x.shape[1], len(form) if len(form) else 8, _whole(columns, scales, 16)
    factors, shifts = np.ones((4, padded // 16), np.float32), np.zeros((4, padded // 16), np.float32)
    places = np.zeros(4, np.uintp)
    dense, sums = _aligned(4, _SPAN), np.empty((4, 4), np.float32)
    y[:] = 0
    for i in range(0, y.shape[1], 4):
        height = min(4, y.shape[1] - i)
        _parameters(first + i, height, len(codes), columns, scales, offsets, factors, shifts)
        _tables(first + i, height, len(codes), tables, places)
        for start in range(0, padded, _SPAN):
            width = min(_SPAN, padded - start)
            for r in range(height):
                parameter = 4 * (r * factors.shape[1] + start // 16)
                decode(
                    form, codes.ctypes.data + (first + i + r) * codes.shape[1] + start // 8 * bits, places[r],
                    factors.ctypes.data + parameter, shifts.ctypes.data + parameter,
                    dense.ctypes.data + 4 * r * _SPAN, width // PIECE,
                )  # fmt: skip
            if not whole:
                _scale(first + i, height, len(codes), columns, scales, offsets, start, dense)
            t = 0
            while t < len(x):
                taken = len(MANY) if len(x) - t >= len(MANY) else 1
                rows, place = dense.ctypes.data, x.ctypes.data + 4 * (t * padded + start)
                if taken == len(MANY):
                    products(MANY, rows, 4 * _SPAN, place, 4 * padded, width // 16, sums.ctypes.data)
                else:
                    products((0,), rows, 4 * _SPAN, place, 4 * padded, width // 16, sums.ctypes.data)
                for j in range(taken):
                    for r in range(height):
                        y[t + j, i + r] += sums[j, r]
                t += taken


@numba.njit(nogil=True, cache=True)
def _multiply_one(
    form: Any, columns: int, codes: Array, tables: Array, scales: Array, offsets: Array, first: int, x: Array, y: Array
) -> None:
    """`multiply` for one token, and scales that change only after a multiple of 32 columns."""
    pieces, places = x.shape[1] // PIECE, np.zeros(1, np.uintp)
    factors, shifts = np.ones((1, 4 * pieces), np.float32), np.zeros((1, 4 * pieces), np.float32)
    factor, shift, given = factors.ctypes.data, shifts.ctypes.data, x.ctypes.data
    for i in range(y.shape[1]):
        row, group = codes.ctypes.data + (first + i) * codes.shape[1], (first + i) * len(scales) // len(codes)
        _tables(first + i, 1, len(codes), tables, places)
        if offsets.size:
            _repeat(scales, group, columns, 32, factors, 0)
            _repeat(offsets, group, columns, 32, shifts, 0)
            y[0, i] = dot(form, (0, 0), row, places[0], factor, shift, given, pieces)
        elif scales.shape[1] > 1:
            _repeat(scales, group, columns, 32, factors, 0)
            y[0, i] = dot(form, (0,), row, places[0], factor, shift, given, pieces)
        else:
            total = dot(form, (), row, places[0], factor, shift, given, pieces)
            y[0, i] = total * to_single(scales[group, 0]) if scales.size else total


@numba.njit(nogil=True, cache=True)
def spread(
    form: Any, columns: int, codes: Array, tables: Array, scales: Array, offsets: Array, first: int, dense: Array
) -> None:
    """The rows of the weight from `first` on, as many as `dense` has."""
    padded = dense.shape[1]
    factors, shifts = np.ones((1, padded // 16), np.float32), np.zeros((1, padded // 16), np.float32)
    places = np.zeros(1, np.uintp)
    for i in range(len(dense)):
        _parameters(first + i, 1, len(codes), columns, scales, offsets, factors, shifts)
        _tables(first + i, 1, len(codes), tables, places)
        decode(
            form, codes.ctypes.data + (first + i) * codes.shape[1], places[0],
            factors.ctypes.data, shifts.ctypes.data, dense.ctypes.data + 4 * i * padded, padded // PIECE,
        )  # fmt: skip
    if not _whole(columns, scales, 16):
        _scale(first, len(dense), len(codes), columns, scales, offsets, 0, dense)


@numba.njit(nogil=True, cache=True)
def _aligned(rows: int, columns: int) -> Array:
    """Rows that start with a line of the cache: a vector across two lines is slow."""
    room = np.zeros(rows * columns + 16, np.float32)
    first = (16 - room.ctypes.data // 4 % 16) % 16
    return room[first : first + rows * columns].reshape(rows, columns)


@numba.njit(nogil=True, cache=True)
def _whole(columns: int, scales: Array, unit: int) -> bool:
    """Whether the scale changes only after a multiple of `unit` columns."""
    return bool(scales.shape[1] <= 1 or columns // scales.shape[1] % unit == 0)


@numba.njit(nogil=True, cache=True)
def _tables(first: int, height: int, rows: int, tables: Array, places: Array) -> None:
    """Where the tables of some of the `rows` start."""
    for r in range(height):
        places[r] = tables.ctypes.data + 4 * tables.shape[1] * ((first + r) * len(tables) // rows)


@numba.njit(nogil=True, cache=True)
def _parameters(
    first: int, height: int, rows: int, columns: int, scales: Array, offsets: Array, factors: Array, shifts: Array
) -> None:
    """Scales and offsets of some of the `rows`, for each 16 columns; where there are none, what was there stays."""
    if scales.size and _whole(columns, scales, 16):
        for r in range(height):
            group = (first + r) * len(scales) // rows
            _repeat(scales, group, columns, 16, factors, r)
            if offsets.size:
                _repeat(offsets, group, columns, 16, shifts, r)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _repeat(values: Array, group: int, columns: int, unit: int, out: Array, r: int) -> None:
    """The values of a group of rows, one for each `unit` of columns."""
    blocks = values.shape[1]
    times = columns // blocks // unit
    if blocks == 1:
        out[r] = to_single(values[group, 0])
    elif times == 1:  # the usual ones, as constants, which lets the loops vectorise
        for i in range(blocks):
            out[r, i] = to_single(values[group, i])
    elif times == 2:
        for i in range(blocks):
            out[r, 2 * i] = out[r, 2 * i + 1] = to_single(values[group, i])
    else:
        for i in range(blocks):
            out[r, i * times : (i + 1) * times] = to_single(values[group, i])


@numba.njit(nogil=True, cache=True)
def _scale(
    first: int, height: int, rows: int, columns: int, scales: Array, offsets: Array, start: int, dense: Array
) -> None:
    """Scale what `dense` holds of some of the `rows`, the columns from `start` on; for blocks of any size."""
    size = columns // scales.shape[1]
    for r in range(height):
        group = (first + r) * len(scales) // rows
        for i in range(min(dense.shape[1], columns - start)):
            block = (start + i) // size
            shift = to_single(offsets[group, block]) if offsets.size else np.float32(0)
            dense[r, i] = (dense[r, i] - shift) * to_single(scales[group, block])
