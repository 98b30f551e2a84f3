"""Pruning by magnitude: which values of a weight to keep.

Magnitudes are compared by their bits without the sign, which order as the values do: integers compare faster than
float16, and one code serves all floating-point types. Weights with infinities or NaN are refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError, DataError
from corepress.kernels.layout import swap_inner
from corepress.kernels.magnitude import above, count_magnitudes, keep_largest
from corepress.weights.forms import Sparse

Array = NDArray[Any]


def sparsity(weight: Array | Sparse) -> float:
    """The share of zeros among the values of a weight."""
    kept = weight.mask if isinstance(weight, Sparse) else _magnitudes(weight)
    return 1.0 - np.count_nonzero(kept) / max(kept.size, 1)


def prune_threshold(weight: Array, threshold: float) -> Sparse:
    """Keep the values of magnitude above `threshold`, which is rounded to the type of the weight.

    `weight`: any floating point, any shape. The mask of the result is True where a value other than zero stays, and
    its values are the weight itself.
    """
    with np.errstate(over="ignore"):
        limit = np.array(max(threshold, 0.0)).astype(weight.dtype)
    return Sparse(_above(weight, limit), weight)


def prune_sparsity(
    weight: Array, target_sparsity: float, block_size: int | None = None, dim: int | None = None
) -> Sparse:
    """Keep the largest values, so that the share `target_sparsity` of all is zero.

    `weight`: any floating point; any shape, with blocks of rank 2 to 5.
    `block_size`, `dim`: keep or prune whole blocks of `block_size` neighbours along axis `dim` (0 or 1), by their
    Euclidean norm in float32; the last block may be shorter.

    Prunes what is not above the percentile `target_sparsity` of the magnitudes (of the norms, each counted once for
    each value of its block), interpolated as `numpy.percentile` does in the type of the weight; so of equal values at
    the threshold all go. Raises ConfigError for a sparsity outside 0 to 1 or a block of more than half its axis.
    """
    if not 0 <= target_sparsity <= 1:
        raise ConfigError(f"a target sparsity lies between 0 and 1, not at {target_sparsity}")
    if block_size is not None:
        _check_run("block_size", block_size, weight.shape, dim)
    nonzero = np.zeros((), weight.dtype)
    if target_sparsity in (0, 1):
        return Sparse(_above(weight, nonzero) & (target_sparsity == 0), weight)
    if block_size is not None:
        assert dim is not None
        nonzeros = _above(weight, nonzero)
        return Sparse(_large_blocks(weight, target_sparsity, block_size, dim) & nonzeros, weight)
    position = _position(weight.size, target_sparsity)
    lower, upper = _neighbours(weight, int(position))
    return Sparse(_above(weight, _between(lower, upper, position % 1)), weight)


def prune_n_m(weight: Array, n: int, m: int, dim: int) -> Sparse:
    """Of each `m` neighbours along axis `dim` (0 or 1) prune the `n` smallest; of equal ones the first.

    `weight`: any floating point of rank 2 to 5. The last neighbours are filled up with zeros where `m` does not divide
    the axis. Raises ConfigError for `n` outside 0 to `m` or `m` of more than half the axis.
    """
    if not 0 <= n <= m:
        raise ConfigError(f"n:m sparsity prunes n of m values, so {n}:{m} is impossible")
    _check_run("m", m, weight.shape, dim)
    keys = _magnitudes(weight)
    _check_finite(keys.max(initial=0), weight)
    keys = _along(keys, dim, m)
    outer, channels, inner = keys.shape
    # The members of a group one below the other: then a comparison serves many groups at once.
    members = keys.reshape(-1, m, inner)
    members = swap_inner(members.reshape(1, -1, m))[0] if inner == 1 else members.transpose(1, 0, 2)
    if members.itemsize == 1 or m > np.iinfo(members.dtype).max:  # the kernel counts them in their own type
        members = members.astype(np.uint16 if m <= np.iinfo(np.uint16).max else np.uint32)
    kept = keep_largest(np.ascontiguousarray(members).reshape(m, -1), n)
    keep = kept.reshape(m, -1, inner).transpose(1, 0, 2).reshape(outer, channels, inner)
    return Sparse(np.ascontiguousarray(keep[:, : weight.shape[dim]]).reshape(weight.shape), weight)


def _check_run(name: str, length: int, shape: tuple[int, ...], dim: int | None) -> None:
    if dim not in (0, 1) or not 2 <= len(shape) <= 5:
        raise ConfigError(f"{name} runs along axis 0 or 1 of a weight of rank 2 to 5, not along {dim} of {shape}")
    if not 1 <= length <= shape[dim] / 2:
        raise ConfigError(f"{name} is {length}, but may be at most half of axis {dim}, which has {shape[dim]} channels")


def _bits(weight: Array) -> Array:
    """The bits of a weight: unsigned integers of the same size."""
    return np.ascontiguousarray(weight).view(f"u{weight.dtype.itemsize}").reshape(weight.shape)


def _magnitudes(weight: Array) -> Array:
    """The bits of |weight|."""
    bits = _bits(weight)
    magnitudes: Array = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return magnitudes


def _above(weight: Array, limit: Array) -> NDArray[np.bool_]:
    """|weight| > |limit|, of one type; a CorepressError for infinities and NaN."""
    mask, largest = above(_bits(weight), int(_magnitudes(limit)))
    _check_finite(largest, weight)
    return mask


def _check_finite(largest: int, weight: Array) -> None:
    """A CorepressError if the largest magnitude of a weight is that of an infinity or NaN, whose bits come last."""
    if largest >= _magnitudes(np.array(np.inf, weight.dtype)):
        raise DataError("the weight holds infinities or NaN, so it is left dense")


def _along(array: Array, dim: int, run: int) -> Array:
    """(before, channels, after) around the axis `dim`, padded by zeros to a multiple of `run` channels."""
    channels = array.shape[dim]
    array = array.reshape(math.prod(array.shape[:dim]), channels, -1)
    return np.pad(array, ((0, 0), (0, -channels % run), (0, 0))) if channels % run else array


def _large_blocks(weight: Array, target_sparsity: float, block_size: int, dim: int) -> NDArray[np.bool_]:
    """True where the norm of the block is above the percentile."""
    # float16 would overflow at a norm of 256.
    values = weight.astype(np.promote_types(weight.dtype, np.float32), copy=False)
    channels, padded = weight.shape[dim], _along(values, dim, block_size)
    outer, _, inner = padded.shape
    blocks = padded.reshape(outer, -1, block_size, inner)
    norms = np.sqrt(np.sum(blocks * blocks, axis=2))

    sizes = np.full(norms.shape, block_size)
    sizes[:, -1] -= -channels % block_size
    order = np.argsort(norms, axis=None)
    ends = np.cumsum(sizes.reshape(-1)[order])
    position = _position(weight.size, target_sparsity)
    below, above = norms.reshape(-1)[order[np.searchsorted(ends, [int(position), int(position) + 1], side="right")]]
    keep = norms > _between(below, above, position % 1)
    return np.repeat(keep, block_size, axis=1)[:, :channels].reshape(weight.shape)


def _position(count: int, target_sparsity: float) -> float:
    """Where a percentile lies among `count` sorted values, with the roundings of a percentage in `numpy.percentile`."""
    return (count - 1) * (target_sparsity * 100 / 100)


def _between(below: Any, above: Any, fraction: float) -> Any:
    """Linear interpolation in the type of its ends, from the nearer one as NumPy does it."""
    if below == above:
        return below
    kind = below.dtype.type
    with np.errstate(invalid="ignore"):  # between infinities, which are refused after this
        if fraction < 0.5:
            return below + (above - below) * kind(fraction)
        return above - (above - below) * kind(1 - fraction)


def _neighbours(weight: Array, index: int) -> Array:
    """The magnitudes at `index` and `index + 1` once sorted (the last value has itself for neighbour)."""
    following = min(index + 1, weight.size - 1)
    if weight.itemsize == 2:
        ends = np.cumsum(count_magnitudes(_bits(weight)), dtype=np.int64)
        found = np.searchsorted(ends, [index, following], side="right").astype(np.uint16)
    else:
        ordered = np.partition(_magnitudes(weight).reshape(-1), index)
        found = np.array([ordered[index], ordered[following:].min()])
    return found.view(weight.dtype)
