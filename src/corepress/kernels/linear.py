"""Linear quantization in blocks, and back. See `c/linear.c`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.half import widen
from corepress.kernels.library import Int, Pointer, kernel, pointer, type_of

Array = NDArray[Any]

_STORED = (np.float16, np.float32)
_quantize_rows = kernel(
    "quantize_rows", Pointer, Int, Int, Int, Int, Int, Int, Int, Int, Pointer, Pointer, Pointer, returns=Int
)
_shift_scale_rows = kernel("shift_scale_rows", Pointer, Int, Int, Int, Pointer, Pointer, Int, Pointer)


def quantize_rows(
    rows: Array, lowest: int, highest: int, *, symmetric: bool, search: bool, scale_type: np.dtype[Any]
) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8]] | None:
    """Integers, scales and zero points of (rows, n) values, each row a block; None if they hold infinities or NaN.

    `rows`: float16 or float32. `lowest`, `highest`: the integers of the type; `symmetric`: without a zero point (with
    that in the middle, if `lowest` is 0). `search`: for the scales that cost outputs least. `scale_type`: float16 or
    float32. Signed integers are given as their bits.
    """
    if search and rows.dtype == np.float16:
        rows = widen(rows)  # once, for it reads each value many times
    count, size = rows.shape
    data, zeros = np.empty(rows.shape, np.uint8), np.empty(count, np.uint8)
    scales = np.empty(count, scale_type)
    given = pointer(rows, *_STORED), type_of(rows), count, size
    plan = lowest, highest, symmetric, search, type_of(scales)
    results = (pointer(data, out=True), pointer(scales, *_STORED, out=True), pointer(zeros, out=True))
    finite = size == 0 or _quantize_rows(*given, *plan, *results)
    return (data, scales, zeros) if finite else None


def shift_scale_rows(data: Array, scale: Array, offset: Array) -> Array:
    """scale * (data - offset), one scale and one offset to a row, each step rounded to the type of `scale`.

    `data`: (rows, n) of integers or floating point; `scale`, `offset`: (rows,), both float16 or both float32.
    """
    if data.dtype not in (np.int8, np.uint8):
        data = data.astype(scale.dtype, copy=False)
    data, scale, offset = map(np.ascontiguousarray, (data, scale, offset))
    dense = np.empty(data.shape, scale.dtype)
    rows, count = data.shape
    given = pointer(data), type_of(data), rows, count
    factors = pointer(scale, *_STORED, shape=(rows,)), pointer(offset, scale.dtype, shape=(rows,))
    _shift_scale_rows(*given, *factors, type_of(scale), pointer(dense, out=True))
    return dense
