"""Linear quantization of a weight to floating-point numbers of 4 or 8 bits, with a scale for each block.

The types are those of the OCP specifications "8-bit Floating Point" (OFP8: E4M3 up to 448, E5M2 up to 57344) and
"Microscaling Formats" (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6). Scales bring the largest magnitude of a block to the largest
number of the type; rounding is to the nearest, ties to even.
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
TYPES = {"fp8_e4m3fn": (8, 448.0), "fp8_e5m2": (8, 57344.0), "fp4_e2m1fn": (4, 6.0)}


def quantize_to_floats(weight: NDArray[Any], *, dtype: FloatType, block_sizes: Sequence[int]) -> Quantized:
    """Round a weight to `scale * number`, with numbers of a type of 4 or 8 bits.

    `weight`: floating point, of any shape. `block_sizes`: for each axis the elements that share a scale; 0 for all.
    `data` of what it gives is an array of the type of ml_dtypes. Raises ConfigError if blocks don't divide the weight,
    DataError if it holds infinities or NaN.
    """
    import ml_dtypes

    bits, largest = TYPES[dtype]
    counts = block_counts(weight.shape, block_sizes)
    rows = to_rows(weight.astype(np.float32), counts)
    if not np.isfinite(rows).all():
        raise DataError("the weight holds infinities or NaN, which can't be quantized")
    peaks = np.abs(rows).max(axis=1)
    scale = (np.where(peaks > 0, peaks, largest) / largest).astype(scale_type(weight, None))
    # Scales that are too small for their type would be zero.
    scale = np.maximum(scale, np.finfo(scale.dtype).smallest_subnormal)
    numbers = np.clip(rows / scale[:, None].astype(np.float32), -largest, largest)
    stored = numbers.astype(getattr(ml_dtypes, dtype.replace("fp", "float", 1)))
    data = from_rows(stored.view(np.uint8), weight.shape, counts).view(stored.dtype)
    return Quantized(data, scale.reshape(counts), None, bits)
