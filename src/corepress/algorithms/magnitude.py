"""Pruning by magnitude: which values of a weight to keep."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.weights.forms import Sparse
from corepress.weights.kernels import frozen

Array = NDArray[Any]


def sparsity(weight: Array) -> float:
    """The share of a weight's values that are zero."""
    return 1.0 - np.count_nonzero(_bits(weight)) / weight.size if weight.size else 0.0


def prune_threshold(weight: Array, threshold: float) -> Sparse:
    """Keep the values of magnitude above `threshold`, which is rounded to the weight's type.

    `weight`: float16, float32 or any other floating point, any shape; NaN is kept. The mask of the result is True
    where a non-zero value stays; its values are the weight itself.
    """
    with np.errstate(over="ignore"):
        limit = weight.dtype.type(max(threshold, 0.0))
    return Sparse(_magnitude_bits(weight) > _magnitude_bits(np.array(limit)), weight)


def prune_sparsity(
    weight: Array, target_sparsity: float, block_size: int | None = None, dim: int | None = None
) -> Sparse:
    """Keep the largest values, `target_sparsity` (0 to 1) of all being zero afterwards.

    `block_size`, `dim`: prune whole blocks of `block_size` neighbours along axis `dim` (0 or 1) by their Euclidean
    norm; the last block may be shorter. Values as small as the threshold go too, so ties may prune more.

    The threshold is the percentile as `numpy.percentile` interpolates it in the weight's type; norms and theirs are
    computed in float32. Raises ConfigError if a block is more than half of its axis.
    """
    if not 0 <= target_sparsity <= 1:
        raise ConfigError(f"a sparsity is between 0 and 1, not {target_sparsity}")
    if target_sparsity == 0:
        return Sparse(_bits(weight) != 0, weight)
    if target_sparsity == 1:
        return Sparse(np.zeros(weight.shape, np.bool_), weight)
    if block_size is not None:
        return Sparse(_largest_blocks(weight, target_sparsity, block_size, dim), weight)
    return prune_threshold(weight, float(percentile(weight, target_sparsity)))


def percentile(weight: Array, quantile: float) -> np.floating[Any]:
    """`numpy.percentile(abs(weight), 100 * quantile)`, in the arithmetic of the weight's type; NaN comes last."""
    ...
