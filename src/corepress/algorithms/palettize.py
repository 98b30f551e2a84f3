"""A weight as indices into look-up tables: one table, or one for each group of channels; scalars or vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.kmeans1d import histogram, nearest, quantize_rows, round_to
from corepress.algorithms.kmeans_nd import cluster_vectors, nearest_vectors
from corepress.algorithms.linear import quantize
from corepress.errors import ConfigError, CorepressError
from corepress.weights import Palettized, decompress

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Indices = NDArray[np.uint8]
Mode = Literal["kmeans", "uniform", "unique", "custom"]
# Takes a group of a weight; returns its LUT, (n,) or (n, cluster_dim), and one index for each entry's use, in C order.
LutFunction = Callable[[Array], tuple[Any, Any]]

BITS = (1, 2, 3, 4, 6, 8)


def palettize(
    weight: Array,
    bits: int | None,
    mode: str = "kmeans",
    *,
    channel_axis: int = 0,
    group_size: int = 0,
    cluster_dim: int = 1,
    lut_function: LutFunction | None = None,
    allowed_bits: Sequence[int] = BITS,
    importance: Array | None = None,
    mask: Mask | None = None,
    restarts: int = 4,
) -> Palettized:
    """Palettize a weight of any rank.

    `bits`: of an index; None for the modes "unique" and "custom", which find it among `allowed_bits`.
    `group_size`: channels along `channel_axis` that share a LUT; 0 for one LUT. With `cluster_dim` > 1 entries are
    vectors along that axis. `importance`: of the weight's shape, weighs squared errors ("kmeans" only). `mask`: only
    the elements under it count. `restarts`: of the search for vector LUTs.

    The LUT has the weight's type and the shape (1, .., groups at channel_axis, .., 1, 2**bits, cluster_dim). Scalar
    k-means is optimal (see `kmeans1d`), vector k-means a local optimum. Raises ConfigError where the sizes do not
    divide or no width fits, CorepressError for infinities and NaN.
    """
    axis = channel_axis % weight.ndim
    groups = _groups(weight, axis, group_size, cluster_dim, importance, mask)
    if mode == "custom":
        assert lut_function is not None
        luts, indices = _custom(groups, lut_function, allowed_bits)
    elif mode == "unique":
        luts, indices = _unique(groups, allowed_bits)
    else:
        assert bits is not None
        if mode == "uniform":
            luts, indices = _uniform(groups, bits)
        else:
            luts, indices = _kmeans(groups, bits, restarts)
    return groups.join(luts, indices)


def quantize_lut(palettized: Palettized, weight: Array, dtype: str, *, mask: Mask | None = None) -> Palettized:
    """Store the LUT itself as "int8" (symmetric) or "uint8" (with offset), a scale for each LUT.

    Every element of `weight` gets the nearest entry of the new LUT.
    """
    lut = decompress(palettized.lut)
    blocks = [1] * (lut.ndim - 2) + [0, 0]
    mode = "linear_symmetric" if dtype == "int8" else "linear"
    quantized = quantize(lut, dtype=dtype, mode=mode, block_sizes=blocks)
    axis = next((i for i, count in enumerate(lut.shape[:-2]) if count > 1), palettized.vector_axis or 0)
    count = lut.shape[axis]
    groups = _groups(weight, axis, weight.shape[axis] // count, palettized.cluster_dim, None, mask)
    luts = quantized.decompress().reshape(count, *lut.shape[-2:])
    old = _groups(palettized.indices, axis, palettized.indices.shape[axis] // count, 1, None, None)
    used = old.rows.reshape(count, -1).max(axis=1).astype(np.int32) + 1  # entries after these are padding
    indices = groups.assign(luts, used)
    return Palettized(groups.join(luts, indices).indices, quantized, palettized.vector_axis)


class _groups:
    """A weight cut into groups of channels: `rows` is (groups, m), or (groups, m, cluster_dim) with vectors."""

    def __init__(
        self, weight: Array, axis: int, group_size: int, dim: int, importance: Array | None, mask: Mask | None
    ):
        channels = weight.shape[axis]
        size = group_size or channels
        if channels % size:
            raise ConfigError(f"its {channels} channels on axis {axis} do not divide into groups of {size}")
        if size % dim:
            raise ConfigError(f"groups of {size} channels on axis {axis} are not a multiple of cluster_dim {dim}")
        self.axis, self.dim, self.count = axis, dim, channels // size
        # With one group of scalars the order of the elements does not matter: no axis has to move, nothing is copied.
        self.moves = axis != 0 and (self.count > 1 or dim > 1)
        self.shape, self.dtype = weight.shape, weight.dtype
        self.rows = self._cut(weight)
        if mask is not None and not mask.all():
            importance = mask.astype(np.float64) if importance is None else importance * mask
        self.importance = None if importance is None else self._cut(importance)
        if dim > 1 and self.importance is not None:
            self.importance = self.importance.mean(axis=2)

    def _cut(self, array: Array) -> Array:
        if self.moves:
            array = np.ascontiguousarray(np.moveaxis(array, self.axis, 0))
        if self.dim == 1:
            return array.reshape(self.count, -1)
        vectors = array.reshape(self.count, -1, self.dim, math.prod(array.shape[1:]))
        return np.ascontiguousarray(vectors.swapaxes(2, 3)).reshape(self.count, -1, self.dim)

    def assign(self, luts: Array, used: NDArray[np.int32]) -> Indices:
        """The nearest of the first `used` entries of its group's LUT for each element: (groups, m)."""
        if self.dim == 1:
            return nearest(self.rows, luts[..., 0], used)
        pairs = zip(self.rows, luts, used, strict=True)
        return np.stack([nearest_vectors(points.astype(np.float32), lut[:n].astype(np.float32)) for points, lut, n in pairs])

    def join(self, luts: Array, indices: Indices) -> Palettized:
        """(groups, entries, dim) and (groups, m) as a palettized weight."""
        rank = len(self.shape)
        lut_shape = [1] * rank + [luts.shape[1], self.dim]
        lut_shape[self.axis] = self.count
        index_shape = list(self.shape)
        index_shape[self.axis] //= self.dim
        if self.moves:
            first = index_shape.pop(self.axis)
            indices = np.ascontiguousarray(np.moveaxis(indices.reshape(first, *index_shape), 0, self.axis))
        else:
            indices = indices.reshape(index_shape)
        return Palettized(indices, luts.reshape(lut_shape), self.axis if self.dim > 1 else None)


def _kmeans(groups: _groups, bits: int, restarts: int) -> tuple[Array, Indices]:
    if groups.dim == 1:
        luts, indices = quantize_rows(groups.rows, 1 << bits, groups.importance)
        return luts[..., np.newaxis], indices
    luts = np.zeros((groups.count, 1 << bits, groups.dim), groups.dtype)
    labels = []
    for number, points in enumerate(groups.rows):
        weights = None if groups.importance is None else groups.importance[number]
        centroids, nearest_ones, _ = cluster_vectors(points, 1 << bits, weights, restarts)
        luts[number, : len(centroids)] = round_to(centroids, groups.dtype)
        labels.append(nearest_ones)
    return luts, np.stack(labels)


def _uniform(groups: _groups, bits: int) -> tuple[Array, Indices]:
    if groups.dim > 1:
        raise ConfigError("mode uniform has no vector LUTs: use kmeans, or cluster_dim 1")
    steps = np.arange(1 << bits) / ((1 << bits) - 1)
    luts = np.empty((groups.count, 1 << bits), groups.dtype)
    for number, (low, high) in enumerate(map(_range, *_under_mask(groups))):
        luts[number] = round_to(low + steps * (high - low), groups.dtype)
    return luts[..., np.newaxis], groups.assign(luts[..., np.newaxis], np.full(groups.count, 1 << bits, np.int32))


def _under_mask(groups: _groups) -> tuple[Array, Sequence[Array | None]]:
    return groups.rows, [None] * groups.count if groups.importance is None else list(groups.importance)


def _range(row: Array, importance: Array | None) -> tuple[float, float]:
    kept = row if importance is None or not importance.any() else row[importance > 0]
    low, high = float(kept.min()), float(kept.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CorepressError("the weight holds infinities or NaN, which can't be palettized")
    return low, high


def _unique(groups: _groups, allowed_bits: Sequence[int]) -> tuple[Array, Indices]:
    if groups.dim == 1:
        tables = [histogram(row, weights)[0][:, np.newaxis] for row, weights in zip(*_under_mask(groups), strict=True)]
    else:
        tables = [np.unique(points, axis=0) for points in groups.rows]
    used = np.array([len(table) for table in tables], np.int32)
    bits = _width(int(used.max()), allowed_bits, "its distinct values")
    luts = np.zeros((groups.count, 1 << bits, groups.dim), groups.dtype)
    for lut, table in zip(luts, tables, strict=True):
        lut[: len(table)] = table
    return luts, groups.assign(luts, used)


def _width(entries: int, allowed_bits: Sequence[int], what: str) -> int:
    for bits in sorted(allowed_bits):
        if entries <= 1 << bits:
            return bits
    raise ConfigError(f"{what} are {entries}, more than the {1 << max(allowed_bits)} that a LUT can hold")


def _custom(groups: _groups, function: LutFunction, allowed_bits: Sequence[int]) -> tuple[Array, Indices]:
    results = [_called(function, group, groups) for group in _whole(groups)]
    bits = _width(max(len(lut) for lut, _ in results), allowed_bits, "the entries of lut_function")
    luts = np.zeros((groups.count, 1 << bits, groups.dim), groups.dtype)
    for padded, (lut, _) in zip(luts, results, strict=True):
        padded[: len(lut)] = lut
    return luts, np.stack([indices for _, indices in results])


def _whole(groups: _groups) -> list[Array]:
    """Each group as an array of the weight's rank, the channel axis first where it had to move; the user's to keep."""
    shape = list(groups.shape)
    if groups.moves:
        shape.insert(0, shape.pop(groups.axis))
    if groups.dim == 1:
        parts = groups.rows.reshape(shape) if not groups.moves else groups.rows.reshape(shape)
        return [np.array(part) for part in np.split(parts, groups.count, axis=0 if groups.moves else groups.axis)]
    blocks = groups.rows.reshape(shape[0] // groups.dim, -1, groups.dim).swapaxes(1, 2).reshape(shape)
    return [np.array(part) for part in np.split(blocks, groups.count, axis=0)]


def _called(function: LutFunction, group: Array, groups: _groups) -> tuple[Array, Indices]:
    lut, indices = function(group)
    table = np.asarray(lut).astype(groups.dtype).reshape(-1, groups.dim)
    numbers = np.asarray(indices).reshape(-1)
    if numbers.size != group.size // groups.dim:
        raise ConfigError(f"lut_function gave {numbers.size} indices for {group.size // groups.dim} elements")
    if len(table) == 0 or (numbers.size and not 0 <= numbers.min() <= numbers.max() < len(table)):
        raise ConfigError(f"lut_function gave an index outside its LUT of {len(table)} entries")
    return table, numbers.astype(np.uint8)
