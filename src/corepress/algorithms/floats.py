"""Linear quantization of a weight to floating-point numbers of 4 or 8 bits, with a scale for each block.

The types are those of the OCP specifications "8-bit Floating Point" (OFP8: E4M3 up to 448, E5M2 up to 57344) and
"Microscaling Formats" (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6). Scales bring the largest magnitude of a block to the largest
number of the type; rounding is to the nearest, ties to even. The latter specification also has scales that are powers
of two (E8M0), for integers of 8 bits, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.linear import block_counts, scale_type
from corepress.errors import DataError
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.forms import Quantized

FloatType = Literal["fp8_e4m3fn", "fp8_e5m2", "fp4_e2m1fn"]
# The bits of each, and its largest number.
TYPES = {"fp8_e4m3fn": (8, 448.0), "fp8_e5m2": (8, 57344.0), "fp4_e2m1fn": (4, 6.0), "int8": (8, 127.0)}
Rows = NDArray[np.float32]
# Of rows that are rounded at a time, so that three roundings of a large weight take no memory.
_AT_ONCE = 1 << 20


def quantize_to_floats(
    weight: NDArray[Any],
    *,
    dtype: FloatType | Literal["int8"],
    block_sizes: Sequence[int],
    exponents: bool = False,
) -> Quantized:
    """Round a weight to `scale * number`, with numbers of a type of 4 or 8 bits.

    `weight`: floating point, of any shape. `block_sizes`: for each axis the elements that share a scale; 0 for all.
    `exponents`: scales are powers of two (E8M0), and of those next to the specification's choice for a block that with
    the least squared error is taken.
    `data` of what it gives is an array of the type of ml_dtypes. Raises ConfigError if blocks don't divide the weight,
    DataError if it holds infinities or NaN.
    """
    bits, _ = TYPES[dtype]
    counts = block_counts(weight.shape, block_sizes)
    rows = to_rows(weight.astype(np.float32), counts)
    if not np.isfinite(rows).all():
        raise DataError("the weight holds infinities or NaN, which can't be quantized")
    find = _powers_of_two if exponents else _to_the_largest
    scale = find(rows, dtype, scale_type(weight, None))
    stored = _rounded(rows, scale, dtype)
    data = from_rows(stored.view(np.uint8), weight.shape, counts).view(stored.dtype)
    return Quantized(data, scale.reshape(counts), None, bits, exponents)


def _rounded(rows: Rows, scale: NDArray[Any], dtype: str) -> NDArray[Any]:
    import ml_dtypes

    _, largest = TYPES[dtype]
    numbers = np.clip(rows / scale[:, None].astype(np.float32), -largest, largest)
    if dtype == "int8":
        return np.rint(numbers).astype(np.int8)
    stored: NDArray[Any] = numbers.astype(getattr(ml_dtypes, dtype.replace("fp", "float", 1)))
    return stored


def _to_the_largest(rows: Rows, dtype: str, kind: np.dtype[Any]) -> NDArray[Any]:
    _, largest = TYPES[dtype]
    peaks = np.abs(rows).max(axis=1)
    scale = (np.where(peaks > 0, peaks, largest) / largest).astype(kind)
    # Scales that are too small for their type would be zero.
    held: NDArray[Any] = np.maximum(scale, np.finfo(kind).smallest_subnormal)
    return held


def _powers_of_two(rows: Rows, dtype: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """For each row the best of three: that of the specification (section 6.3), which brings the power of two in the
    largest magnitude to that in the largest number, half of it, which cuts more off, and twice, which may cut nothing.

    The runtime has them in the type of the weight, so that they must be numbers of that.
    """
    _, largest = TYPES[dtype]
    peaks = np.abs(rows).max(axis=1)
    given = np.where(peaks > 0, np.frexp(peaks)[1] - np.frexp(largest)[1], 0)
    limits = np.finfo(kind)
    # 2**-126 is the least that all have in float32 who take subnormal numbers for zero.
    low = max(int(np.log2(float(limits.smallest_subnormal))), -126)
    high = int(limits.maxexp) - 1
    best, least = np.clip(given, low, high), np.full(len(rows), np.inf)
    step = max(_AT_ONCE // rows.shape[1], 1)
    for shift in (0, -1, 1):
        exponent = np.clip(given + shift, low, high)
        for begin in range(0, len(rows), step):
            part = slice(begin, begin + step)
            scale = np.ldexp(np.float32(1), exponent[part])
            dense = _rounded(rows[part], scale, dtype).astype(np.float32) * scale[:, None]
            errors = np.square(dense - rows[part], dtype=np.float64).sum(axis=1)
            better = errors < least[part]
            best[part][better], least[part][better] = exponent[part][better], errors[better]
    found: NDArray[Any] = np.ldexp(np.float32(1), best).astype(kind)
    return found
