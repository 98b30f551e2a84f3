"""Dense weight to `Palettized`: look-up tables by k-means, evenly spaced, of all distinct values, or of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.kmeans1d import nearest, quantize_rows, round_to
from corepress.algorithms.kmeans_nd import cluster_vectors, distinct_vectors, nearest_vectors
from corepress.errors import ConfigError, DataError
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.forms import Palettized
from corepress.weights.packing import worded_bits

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Indices = NDArray[np.uint8]
LutFunction = Callable[[Array], tuple[Any, Any]]
Mode = Literal["kmeans", "uniform", "unique", "custom"]

ALLOWED_BITS = (1, 2, 3, 4, 6, 8)


def palettize(
    weight: Array,
    bits: int | None = None,
    mode: Mode = "kmeans",
    *,
    channel_axis: int = 0,
    group_size: int = 0,
    cluster_dim: int = 1,
    lut_function: LutFunction | None = None,
    importance: Array | None = None,
    mask: Mask | None = None,
    allowed_bits: Sequence[int] = ALLOWED_BITS,
    restarts: int = 4,
    binned: bool = False,
) -> Palettized:
    """Replace each element of a weight, or each vector of elements, by an index into a look-up table.

    `weight`: float16, float32, int8, uint8, or any other floating point, which becomes float32; any shape.
    `mode`: "kmeans", the least squared error: exact for scalars, see `kmeans1d`; for vectors see `kmeans_nd`.
    "uniform", 2**bits even steps from the least to the greatest value. "unique", all distinct values, in the fewest
    `allowed_bits` (at least `bits`) that hold those of any group. "custom", what `lut_function` gives: it is called
    with the weight, or with each group of it, and returns the entries and the index of each element (in C order).
    `channel_axis`, `group_size`: each `group_size` channels have a table of their own; 0, one table for all.
    `cluster_dim`: a table's entries are vectors of that many neighbours along `channel_axis`.
    `importance`: of the weight's shape, weighs the squared errors in "kmeans"; that of a vector is its mean.
    `mask`: bool, of the weight's shape; only what is under it shapes the tables, all other indices are 0. A vector
    counts if any of its elements does. A `lut_function` sees the whole weight, with zeros where it was pruned.
    `restarts`: of the search for tables of vectors. `binned`: see `kmeans1d.quantize_rows`.

    Gives uint8 `indices` and a `lut` of the weight's type, each group's entries ascending and zeros after the last
    one in use. Raises ConfigError if the arguments don't fit each other or the weight, or if "unique" finds more
    values than `allowed_bits` can index; CorepressError if the weight holds infinities or NaN.
    """
    if weight.dtype.name not in ("float16", "float32", "int8", "uint8"):
        weight = weight.astype(np.float32)
    cut = _cut(weight.shape, channel_axis, group_size, cluster_dim)
    _check(bits, mode, cluster_dim, lut_function, allowed_bits)
    for name, array in (("importance", importance), ("mask", mask)):
        if array is not None and array.shape != weight.shape:
            raise ConfigError(f"the {name} has the shape {array.shape}, but the weight {weight.shape}")
    if (mode != "kmeans" or cluster_dim > 1) and not np.isfinite(weight).all():
        raise DataError("the weight holds infinities or NaN, which can't be palettized")
    if mode == "custom":
        assert lut_function is not None
        luts, indices = _custom(weight, cut, lut_function, allowed_bits)
        if mask is not None:
            indices *= cut.join(cut.kept(mask))
        return cut.palettized(luts, indices)

    vectors = cut.vectors(weight)
    kept = None if mask is None else cut.kept(mask)
    if mode == "unique":
        luts, rows = _unique(vectors, kept, bits or 0, allowed_bits)
    elif mode == "uniform":
        luts, rows = _uniform(vectors[..., 0], kept, 2 ** (bits or 0))
    else:
        worth = None if importance is None else cut.worth(importance)
        luts, rows = _kmeans(vectors, kept, 2 ** (bits or 0), worth, restarts, binned)
    if kept is not None:
        rows *= kept
    return cut.palettized(luts, cut.join(rows))


def normalize_channels(weight: Array, axis: int, importance: Array | None = None) -> tuple[Array, Array, Array]:
    """Each channel on an axis brought to the range -1..1: the weight, the scale that undoes it, and the importance.

    An error in a channel of large scale weighs more, by the square of the scale. Raises CorepressError if the weight
    holds infinities or NaN.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale: Array = np.abs(weight).max(axis=others, keepdims=True)
    if not np.isfinite(scale).all():
        raise DataError("the weight holds infinities or NaN, which can't be palettized")
    scale[scale == 0] = 1
    weighed = np.square(scale.astype(np.float64)) * (1.0 if importance is None else importance)
    normalized = (weight.astype(np.float32) / scale.astype(np.float32)).astype(weight.dtype)
    return normalized, scale, np.broadcast_to(weighed, weight.shape)


def indices_into(weight: Array, lut: Array, vector_axis: int | None = None) -> Indices:
    """The index of the nearest entry for each element of a weight, or each vector: uint8.

    `lut`: (groups on each axis..., entries, dim), in any order, as in `Palettized`.
    """
    counts, (entries, dim) = lut.shape[:-2], lut.shape[-2:]
    tables = lut.reshape(-1, entries, dim)
    if dim == 1:
        order = tables[..., 0].argsort(axis=1)
        rows = to_rows(weight, counts)
        found = nearest(rows, np.take_along_axis(tables[..., 0], order, axis=1))
        return from_rows(
            np.take_along_axis(order, found.astype(np.intp), axis=1).astype(np.uint8), weight.shape, counts
        )
    axis = (vector_axis or 0) % weight.ndim
    cut = _Cut(weight.shape, axis, 1, dim)
    vectors = cut.vectors(weight).reshape(*cut.index_shape, dim)
    groups = to_rows(vectors, [*counts, 1]).reshape(len(tables), -1, dim)
    found = np.stack([nearest_vectors(points, table) for points, table in zip(groups, tables, strict=True)])
    return from_rows(found, cut.index_shape, counts)


class _Cut(NamedTuple):
    """How a weight falls into groups of channels, and these into vectors."""

    shape: tuple[int, ...]
    axis: int
    groups: int
    dim: int

    @property
    def index_shape(self) -> tuple[int, ...]:
        return (*self.shape[: self.axis], self.shape[self.axis] // self.dim, *self.shape[self.axis + 1 :])

    @property
    def counts(self) -> list[int]:
        return [self.groups if axis == self.axis else 1 for axis in range(len(self.shape))]

    def vectors(self, array: Array) -> Array:
        """Of the weight's shape -> (groups, vectors of a group, dim)."""
        if self.dim == 1:
            return to_rows(array, self.counts)[..., None]
        split = array.reshape(*self.index_shape[: self.axis + 1], self.dim, *self.index_shape[self.axis + 1 :])
        rows = to_rows(np.moveaxis(split, self.axis + 1, -1), [*self.counts, 1])
        return rows.reshape(self.groups, -1, self.dim)

    def kept(self, mask: Mask) -> Mask:
        """(groups, vectors of a group): does any element of the vector count?"""
        vectors = self.vectors(mask)
        kept: Mask = vectors[..., 0] if self.dim == 1 else vectors.max(axis=-1)
        return kept

    def worth(self, importance: Array) -> Array:
        """(groups, vectors of a group): the mean importance of the elements of a vector."""
        vectors = self.vectors(importance)
        worth: Array = vectors[..., 0] if self.dim == 1 else vectors.mean(axis=-1, dtype=np.float64)
        return worth

    def join(self, rows: Array) -> Array:
        """(groups, vectors of a group) -> of the shape of the indices."""
        return from_rows(rows, self.index_shape, self.counts)

    def palettized(self, luts: Array, indices: Indices) -> Palettized:
        """`luts`: (groups, entries, dim)."""
        return Palettized(
            indices, luts.reshape(*self.counts, *luts.shape[1:]), vector_axis=self.axis if self.dim > 1 else None
        )


def _cut(shape: tuple[int, ...], channel_axis: int, group_size: int, cluster_dim: int) -> _Cut:
    if math.prod(shape) == 0 or not shape:
        raise ConfigError(f"a weight of shape {shape} holds nothing to palettize")
    if not -len(shape) <= channel_axis < len(shape):
        raise ConfigError(f"there is no channel axis {channel_axis} in a weight of shape {shape}")
    axis = channel_axis % len(shape)
    size = group_size or shape[axis]
    if group_size < 0 or shape[axis] % size:
        raise ConfigError(f"groups of {group_size} don't divide axis {axis} of the weight, which has {shape[axis]}")
    if cluster_dim < 1 or size % cluster_dim:
        raise ConfigError(f"vectors of {cluster_dim} don't divide a group of {size} channels")
    return _Cut(shape, axis, shape[axis] // size, cluster_dim)


def _check(
    bits: int | None, mode: str, cluster_dim: int, lut_function: LutFunction | None, allowed: Sequence[int]
) -> None:
    if mode not in ("kmeans", "uniform", "unique", "custom"):
        raise ConfigError(f'mode must be "kmeans", "uniform", "unique" or "custom", not {mode!r}')
    if bits is None and mode in ("kmeans", "uniform"):
        raise ConfigError(f'mode "{mode}" needs a number of bits')
    if bits is not None and (bits not in allowed or mode == "custom"):
        what = "takes them from the table's length" if mode == "custom" else f"allows {tuple(allowed)}"
        raise ConfigError(f'mode "{mode}" can\'t have {worded_bits(bits)}: it {what}')
    if (lut_function is not None) != (mode == "custom"):
        raise ConfigError('mode "custom" needs a lut_function, and no other mode takes one')
    if mode == "uniform" and cluster_dim > 1:
        raise ConfigError('mode "uniform" has no tables of vectors')


def _fewest_bits(entries: int, at_least: int, allowed: Sequence[int]) -> int:
    for bits in sorted(allowed):
        if bits >= at_least and entries <= 2**bits:
            return bits
    raise ConfigError(f"no table of {max(allowed)} bits holds {entries if entries <= 256 else 'more than 256'} values")


def _kmeans(
    vectors: Array, kept: Mask | None, k: int, importance: Array | None, restarts: int, binned: bool
) -> tuple[Array, Indices]:
    if vectors.shape[-1] == 1:
        if kept is not None:
            importance = kept * (1.0 if importance is None else importance)
        lut, rows = quantize_rows(vectors[..., 0], k, importance, binned=binned)
        return lut[..., None], rows
    luts = np.zeros((len(vectors), k, vectors.shape[-1]), vectors.dtype)
    rows = np.zeros(vectors.shape[:-1], np.uint8)
    for group, points in enumerate(vectors):
        under = slice(None) if kept is None else kept[group]
        if len(points[under]):
            worth = None if importance is None else importance[group][under]
            centroids, _, _ = cluster_vectors(points[under], k, worth, restarts)
            luts[group] = round_to(centroids, vectors.dtype)
            rows[group, under] = nearest_vectors(points[under], luts[group])
    return luts, rows


def _uniform(rows: Array, kept: Mask | None, k: int) -> tuple[Array, Indices]:
    if kept is not None:
        first = np.take_along_axis(rows, kept.argmax(axis=1)[:, None], axis=1)
        rows = np.where(kept, rows, first)
    wide = rows.astype(np.float32)  # NumPy finds the extremes of float16 ten times slower
    low = wide.min(axis=1, keepdims=True).astype(np.float64)
    high = wide.max(axis=1, keepdims=True).astype(np.float64)
    lut = round_to(low + (high - low) * (np.arange(k) / (k - 1)), rows.dtype)
    return lut[..., None], nearest(rows, lut)


def _unique(vectors: Array, kept: Mask | None, at_least: int, allowed: Sequence[int]) -> tuple[Array, Indices]:
    found = []
    for group, points in enumerate(vectors):
        distinct = distinct_vectors(points if kept is None else points[kept[group]], 256)
        if distinct is None:
            raise ConfigError(f"no table of {max(allowed)} bits holds more than 256 values")
        found.append(distinct)
    bits = _fewest_bits(max(len(entries) for entries, _ in found), at_least, allowed)
    luts = np.zeros((len(vectors), 2**bits, vectors.shape[-1]), vectors.dtype)
    rows = np.zeros(vectors.shape[:-1], np.uint8)
    for group, (entries, labels) in enumerate(found):
        luts[group, : len(entries)] = entries
        rows[group, slice(None) if kept is None else kept[group]] = labels
    return luts, rows


def _custom(weight: Array, cut: _Cut, lut_function: LutFunction, allowed: Sequence[int]) -> tuple[Array, Indices]:
    """The tables (groups, entries, dim), and the indices in their final shape."""
    tables, parts = [], []
    for part in np.split(weight, cut.groups, axis=cut.axis):
        shape = (*part.shape[: cut.axis], part.shape[cut.axis] // cut.dim, *part.shape[cut.axis + 1 :])
        table, indices = _called(lut_function, part.copy(), cut.dim)
        if indices.size != math.prod(shape):
            raise ConfigError(f"lut_function gave {indices.size} indices for {math.prod(shape)} entries")
        if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= len(table):
            raise ConfigError(f"lut_function gave indices that are not integers from 0 to {len(table) - 1}")
        tables.append(table)
        parts.append(indices.reshape(shape).astype(np.uint8))
    bits = _fewest_bits(max(len(table) for table in tables), 0, allowed)
    luts = np.zeros((cut.groups, 2**bits, cut.dim), weight.dtype)
    for group, table in enumerate(tables):
        luts[group, : len(table)] = table
    return luts, np.concatenate(parts, axis=cut.axis)


def _called(lut_function: LutFunction, part: Array, dim: int) -> tuple[Array, Array]:
    """The table (entries, dim) in the type of `part`, and the indices as they came."""
    try:
        lut, indices = lut_function(part)
        with np.errstate(over="ignore"):
            table = round_to(np.asarray(lut, np.float64), part.dtype)
        indices = np.asarray(indices)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lut_function did not give a table of numbers and indices: {error}") from error
    if table.size == 0 or table.size % dim or not np.isfinite(table).all():
        raise ConfigError(f"lut_function gave a table that is not of finite {part.dtype} entries of {dim} each")
    return table.reshape(-1, dim), indices
