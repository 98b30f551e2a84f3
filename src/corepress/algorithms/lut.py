"""Look-up tables that are themselves stored as 8-bit integers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.kmeans1d import nearest
from corepress.algorithms.linear import quantize
from corepress.weights import Palettized, decompress
from corepress.weights.blocks import from_rows, to_rows


def quantize_lut(
    palettized: Palettized,
    weight: NDArray[Any],
    dtype: Literal["int8", "uint8"],
    *,
    mask: NDArray[np.bool_] | None = None,
) -> Palettized:
    """Store the entries of each LUT as "int8" (symmetric) or "uint8" (with an offset), with one scale a LUT.

    `weight`: what was palettized; with scalar entries each of its elements gets the nearest of the new entries, which
    undoes part of the rounding. `mask`: as it was for `palettize`. Raises CorepressError for a LUT that is not finite.
    """
    lut = decompress(palettized.lut)
    counts = lut.shape[:-2]
    blocks = [1] * len(counts) + [0, 0]
    quantized = quantize(lut, dtype=dtype, mode="linear_symmetric" if dtype == "int8" else "linear", block_sizes=blocks)
    indices = palettized.indices
    if palettized.cluster_dim == 1:
        old = to_rows(indices, counts)
        used = old.max(axis=1).astype(np.int32) + 1  # what follows is padding
        table = quantized.decompress().reshape(len(old), -1)
        indices = from_rows(nearest(to_rows(weight, counts), table, used), indices.shape, counts)
        if mask is not None:
            indices = indices * mask
    return Palettized(indices, quantized, palettized.vector_axis)
