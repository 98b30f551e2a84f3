"""Linear quantization of a weight in blocks: integers, one scale and maybe one zero point to a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from corepress.errors import ConfigError, DataError
from corepress.kernels.linear import quantize_rows
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.forms import Quantized, Sparse

Array = NDArray[Any]
IntegerType = Literal["int2", "uint2", "int4", "uint4", "int8", "uint8"]
Mode = Literal["linear_symmetric", "linear"]

RANGES = {"int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}


def quantize(
    weight: Array,
    *,
    dtype: IntegerType = "int8",
    mode: Mode = "linear_symmetric",
    block_sizes: Sequence[int],
    scale_dtype: DTypeLike | None = None,
    scale_search: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Quantized:
    """Round a weight to `scale * (integer - offset)` with the least squared error that its scales allow.

    `weight`: float16, float32, or any other floating point, which is computed in float32; any shape.
    `mode`: "linear_symmetric" spreads the integers from -max|w| to max|w|, the one that has no opposite left
    out; "linear" from min(w, 0) to max(w, 0), with a zero point, `offset`, of its own for each block.
    `block_sizes`: for each axis the elements that share a scale; 0 for all.
    `scale_dtype`: float16 or float32; by default that of the weight, else float32.
    `scale_search`: for each block also try scales that clip its largest values, and all integers of the type, also
    spread from -max|w| to max|w| as coreai-opt does, and take what costs the layer's outputs least: errors e of
    values w |e|^2 + (sum e)^2 / 10 + 5 (e w)^2 / |w|^2. The second is for inputs whose mean is not zero, as behind a
    relu, and the third for outputs that are large because inputs are like the weights: by the squared error alone
    all of these become smaller.
    `mask`: bool, of the weight's shape; the integers are 0 where it is False (`Sparse` ignores them).

    Gives `data` int8 or uint8 of the weight's shape, `scale` and `offset` (of the type of `data`, or None) with
    the count of blocks on each axis. A block of zeros gets the scale 1. Raises ConfigError if blocks don't divide
    the weight, CorepressError if the weight holds infinities or NaN.

    The scales and zero points are those of coremltools wherever its float16 arithmetic is finite.
    """
    stored_type = scale_type(weight, scale_dtype)
    counts = block_counts(weight.shape, block_sizes)
    if weight.dtype != np.float16:
        weight = weight.astype(np.float32, copy=False)
    if mask is not None:
        # Zeros move neither range, since both hold 0, nor error, since 0 is always exact.
        weight = Sparse(mask, weight).decompress()
    signed, symmetric = not dtype.startswith("u"), mode == "linear_symmetric"
    integer_type = np.dtype(np.int8 if signed else np.uint8)

    lowest, highest = RANGES[dtype]
    found = quantize_rows(
        to_rows(weight, counts), lowest, highest, symmetric=symmetric, search=scale_search, scale_type=stored_type
    )
    if found is None:
        raise DataError("the weight holds infinities or NaN, which can't be quantized")
    data, scale, offset = found

    integers = from_rows(data, weight.shape, counts).view(integer_type)
    if mask is not None:
        integers *= mask
    return Quantized(
        integers,
        scale.reshape(counts),
        None if symmetric and signed else offset.view(integer_type).reshape(counts),
        bits=int(dtype[-1]),
    )


def block_counts(shape: Sequence[int], block_sizes: Sequence[int]) -> tuple[int, ...]:
    """The number of blocks on each axis, a block size of 0 being the whole axis; ConfigError if they don't fit."""
    if len(block_sizes) != len(shape) or min(block_sizes, default=0) < 0:
        raise ConfigError(f"block sizes {tuple(block_sizes)} don't name one block size for each axis of {tuple(shape)}")
    if math.prod(shape) == 0:
        raise ConfigError(f"a weight of shape {tuple(shape)} holds nothing to compress")
    for axis, (size, block) in enumerate(zip(shape, block_sizes, strict=True)):
        if block and size % block:
            raise ConfigError(f"blocks of {block} don't divide axis {axis} of the weight, which has {size} elements")
    return tuple(size // block if block else 1 for size, block in zip(shape, block_sizes, strict=True))


def scale_type(weight: Array, scale_dtype: DTypeLike | None) -> np.dtype[Any]:
    storable = (np.dtype(np.float16), np.dtype(np.float32))
    if scale_dtype is None:
        return weight.dtype if weight.dtype in storable else np.dtype(np.float32)
    if np.dtype(scale_dtype) not in storable:
        raise ConfigError(f"a scale is stored as float16 or float32, not as {np.dtype(scale_dtype)}")
    return np.dtype(scale_dtype)
