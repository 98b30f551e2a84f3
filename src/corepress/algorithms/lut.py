"""Look-up tables that are stored as 8-bit integers, or that take up a scale of the weight."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.floats import quantize_to_floats
from corepress.algorithms.kmeans1d import nearest
from corepress.algorithms.linear import quantize
from corepress.weights import Palettized, Quantized, decompress
from corepress.weights.blocks import from_rows, to_rows


def quantize_lut(
    palettized: Palettized,
    weight: NDArray[Any] | None,
    dtype: Literal["int8", "uint8", "fp8_e4m3fn", "fp8_e5m2"],
    *,
    mask: NDArray[np.bool_] | None = None,
) -> Palettized:
    """Store the entries of each LUT as "int8" (symmetric), "uint8" (with an offset) or floating point of 8 bits, with
    one scale a LUT.

    `weight`: what was palettized; with scalar entries each of its elements gets the nearest of the new entries, which
    undoes part of the rounding; None keeps the indices as they are. `mask`: as it was for `palettize`. Raises
    CorepressError for a LUT that is not finite.
    """
    lut = decompress(palettized.lut)
    counts = lut.shape[:-2]
    blocks = [1] * len(counts) + [0, 0]
    if dtype == "int8" or dtype == "uint8":
        mode: Any = "linear_symmetric" if dtype == "int8" else "linear"
        quantized = quantize(lut, dtype=dtype, mode=mode, block_sizes=blocks)
    else:
        quantized = quantize_to_floats(lut, dtype=dtype, block_sizes=blocks)
    indices = palettized.indices
    if palettized.cluster_dim == 1 and weight is not None:
        old = to_rows(indices, counts)
        used = old.max(axis=1).astype(np.int32) + 1  # what follows is padding
        table = quantized.decompress().reshape(len(old), -1)
        indices = from_rows(nearest(to_rows(weight, counts), table, used), indices.shape, counts)
        if mask is not None:
            indices = indices * mask
    return Palettized(indices, quantized, palettized.vector_axis)


def scale_into_lut(weight: Quantized) -> Palettized | Quantized:
    """A scaled `Palettized`, with the scale moved into its LUT: the values stay the same, bit for bit.

    Core ML wants it there. coremltools reorders the two before iOS26 (pass `canonicalize_quantized_lut_pattern`), and
    the Neural Engine refuses a scale over floating-point data (coremltools, pull request 2688). Where the scale is
    finer than the groups of the LUT, the LUT is repeated. A weight that can't be arranged so comes back as it is.
    """
    inner = weight.data
    if not isinstance(inner, Palettized) or not isinstance(inner.lut, np.ndarray):
        return weight
    scale = _per_entry(weight.scale, inner)
    offset = None if weight.offset is None else _per_entry(weight.offset, inner)
    if scale is None:
        return weight
    lut = inner.lut
    for axis in range(inner.indices.ndim):
        scales, tables = scale.shape[axis], lut.shape[axis]
        if max(scales, tables) % min(scales, tables):
            return weight
        lut = np.repeat(lut, max(scales // tables, 1), axis)
    scaled = Quantized(lut, scale, offset, weight.bits)
    return Palettized(inner.indices, scaled if lut.dtype.kind in "iu" else scaled.decompress(), inner.vector_axis)


def _per_entry(scale: NDArray[Any], inner: Palettized) -> NDArray[Any] | None:
    """A scale over the weight as one over its LUT: (blocks on each axis..., 1, 1 or the numbers of an entry)."""
    axis, dim = inner.vector_axis, inner.cluster_dim
    if axis is None or scale.shape[axis] == 1:
        return scale.reshape(*scale.shape, 1, 1)
    if scale.shape[axis] != inner.shape[axis]:
        return None
    split = scale.reshape(*scale.shape[:axis], -1, dim, *scale.shape[axis + 1 :])
    return np.moveaxis(split, axis + 1, -1)[..., None, :]
