"""A stored weight as something that learns: a module whose call gives the dense value, and that can be stored again.

The modules mirror the forms of `corepress.weights`, one inside another as those are, and what comes out of `stored()`
has the form, the types and the shapes of what went in. A parameter counts steps: of a look-up table or of integers the
distance between neighbours, of a scale its own size, of other numbers their mean size. So the same learning rate suits
all. At the start each module gives exactly the value that was stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.algorithms.learned.straight import assigned, cast, rounded, taken
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress

Array = NDArray[Any]

# How far a latent number may start on the way to where its neighbour begins.
_INSIDE = 0.5
_FLOATS = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Learned(nn.Module, ABC):
    """What is learnt of a stored value.

    `latent`: the parameters by which indices or integers move; the others are continuous.
    """

    @property
    @abstractmethod
    def latent(self) -> list[nn.Parameter]:
        """The parameters whose rounding is stored."""

    @abstractmethod
    def forward(self) -> Tensor:
        """The dense value, float32, as what would be stored decompresses to."""

    @abstractmethod
    def stored(self) -> Array | CompressedWeight:
        """What is to be stored now: of the same form, types and shapes as before."""


def learned(value: Array | CompressedWeight, original: Array | None = None) -> Learned:
    """The module of a stored value. `original`: the dense value that it stands for, of the same shape: the rounding of
    a number that lay near the edge to its neighbour changes first."""
    if isinstance(value, Palettized):
        return LearnedTables(value, original)
    if isinstance(value, Quantized):
        return LearnedIntegers(value, original)
    if isinstance(value, Sparse):
        return LearnedSparse(value, original)
    return LearnedNumbers(value)


class LearnedNumbers(Learned):
    """Numbers that are stored as they are: floating-point ones, or the integers of a table.

    `step`: what one step of a parameter is; by default the mean size of the numbers that are not zero.
    """

    def __init__(self, value: Array, step: Tensor | None = None):
        super().__init__()
        self.dtype = value.dtype
        start = _tensor(value)
        self.start: Tensor
        self.step: Tensor
        self.register_buffer("start", start)
        self.register_buffer("step", step if step is not None else _size(start))
        self.steps = nn.Parameter(torch.zeros_like(start))

    @property
    def latent(self) -> list[nn.Parameter]:
        return []

    def forward(self) -> Tensor:
        numbers = self.start + self.steps * self.step
        if self.dtype.kind in "iu":
            low, high = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
            return rounded(numbers, low, high)
        return cast(numbers, _FLOATS[self.dtype.name])

    @torch.no_grad()
    def stored(self) -> Array:
        found: Array = self().cpu().numpy().astype(self.dtype)
        return found


class Kept(Learned):
    """Numbers that stay as they are, such as scales that are powers of two: a step of one doubles a block."""

    def __init__(self, value: Array):
        super().__init__()
        self.value = value
        self.numbers: Tensor
        self.register_buffer("numbers", _tensor(value))

    @property
    def latent(self) -> list[nn.Parameter]:
        return []

    def forward(self) -> Tensor:
        return self.numbers

    def stored(self) -> Array:
        return self.value


class LearnedLevels(Learned):
    """Floating point of 4 or 8 bits: its numbers lie the closer the smaller they are, so that places among them learn.

    `wanted`: the numbers that stand behind those that are stored.
    """

    def __init__(self, value: Array, wanted: Array | None):
        super().__init__()
        self.dtype = value.dtype
        found = np.arange(1 << 8 if value.dtype.name.startswith("float8") else 1 << 4, dtype=np.uint8).view(value.dtype)
        levels = np.unique(found.astype(np.float32))
        levels = levels[np.isfinite(levels)]
        self.levels: Tensor
        self.gaps: Tensor
        self.register_buffer("levels", torch.from_numpy(levels))
        self.register_buffer("gaps", torch.from_numpy(np.gradient(levels)))
        start = np.searchsorted(levels, value.astype(np.float32)).astype(np.float32)
        if wanted is not None:
            places = np.interp(wanted, levels, np.arange(len(levels))).astype(np.float32)
            start += (places - start).clip(-_INSIDE / 2, _INSIDE / 2)
        self.places = nn.Parameter(torch.from_numpy(start))

    @property
    def latent(self) -> list[nn.Parameter]:
        return [self.places]

    def forward(self) -> Tensor:
        taken = self._taken()
        # No other value, but its derivative: a step leads to the next number.
        return self.levels[taken] + (self.places - self.places.detach()) * self.gaps[taken]

    def stored(self) -> Array:
        found: Array = self.levels[self._taken()].cpu().numpy().astype(self.dtype)
        return found

    def _taken(self) -> Tensor:
        return self.places.detach().round().long().clamp(0, len(self.levels) - 1)


class LearnedTables(Learned):
    """Indices into look-up tables: each vector of the weight takes the entry that its latent vector is nearest to."""

    def __init__(self, value: Palettized, original: Array | None):
        super().__init__()
        self.value = value
        codes = _rows(torch.from_numpy(value.indices.astype(np.int64)), value.lut.shape[:-2])
        table = _tensor(decompress(value.lut)).reshape(len(codes), *value.lut.shape[-2:])
        step = _gap(table)
        if isinstance(value.lut, Quantized):
            self.table: Learned = LearnedIntegers(value.lut, None)
        else:
            self.table = LearnedNumbers(value.lut, step.reshape(*value.lut.shape[:-2], 1, 1))
        start = table.gather(1, codes[..., None].expand(*codes.shape, table.shape[-1]))
        if original is not None:
            start = _inside(start, self._vectors(_tensor(original)), table)
        self.step: Tensor
        self.register_buffer("step", step)
        self.points = nn.Parameter(start / step)

    @property
    def latent(self) -> list[nn.Parameter]:
        return [self.points, *self.table.latent]

    def forward(self) -> Tensor:
        return self._dense(assigned(self.points, self.step, self._table()))

    def _table(self) -> Tensor:
        table: Tensor = self.table()
        return table.reshape(len(self.step), *table.shape[-2:])

    @torch.no_grad()
    def stored(self) -> Palettized:
        value = self.value
        codes = taken(self.points, self.step, self._table())[0]
        indices = _from_rows(codes, value.indices.shape, value.lut.shape[:-2])
        table = self.table.stored()
        assert not isinstance(table, (Palettized, Sparse))
        return Palettized(indices.cpu().numpy().astype(np.uint8), table, value.vector_axis)

    def _vectors(self, dense: Tensor) -> Tensor:
        """The vectors of a dense weight by group: (groups, n, d)."""
        value, dim = self.value, self.value.cluster_dim
        if dim > 1:
            axis = _axis(value)
            shape = (*value.indices.shape[: axis + 1], dim, *value.indices.shape[axis + 1 :])
            dense = dense.reshape(shape).movedim(axis + 1, -1)
        else:
            dense = dense[..., None]
        return _rows(dense, (*value.lut.shape[:-2], 1)).reshape(math.prod(value.lut.shape[:-2]), -1, dim)

    def _dense(self, vectors: Tensor) -> Tensor:
        value, dim = self.value, self.value.cluster_dim
        dense = _from_rows(vectors, (*value.indices.shape, dim), (*value.lut.shape[:-2], 1))
        if dim == 1:
            return dense.squeeze(-1)  # not `[..., 0]`, whose derivative is filled with zeros first
        return dense.movedim(-1, _axis(value) + 1).reshape(value.shape)


class LearnedIntegers(Learned):
    """Integers with a scale for each block, and the entries of a table that have one."""

    def __init__(self, value: Quantized, original: Array | None):
        super().__init__()
        self.value = value
        scale = _tensor(value.scale)
        # In steps of each scale itself.
        steps = scale.abs().clamp_min(1e-12)
        self.scale: Learned = Kept(value.scale) if value.exponents else LearnedNumbers(value.scale, steps)
        floating = value.offset is not None and value.offset.dtype.kind == "f"
        self.offset = LearnedNumbers(value.offset, torch.ones(())) if floating and value.offset is not None else None
        zero = torch.zeros(()) if value.offset is None else _tensor(value.offset)
        self.zero: Tensor
        self.register_buffer("zero", zero)
        wanted = None
        if original is not None:
            wanted = _by_block(_tensor(original), scale, torch.div) if scale.all() else None
            wanted = None if wanted is None else _by_block(wanted, zero.expand(scale.shape), torch.add)
        if isinstance(value.data, Palettized):
            self.inner: Learned | None = LearnedTables(value.data, None if wanted is None else wanted.numpy())
            return
        if value.data.dtype.kind not in "iu":
            self.inner = LearnedLevels(value.data, None if wanted is None else wanted.numpy())
            return
        self.inner = None
        start = _tensor(value.data)
        if wanted is not None:
            start = start + (wanted - start).clamp(-_INSIDE / 2, _INSIDE / 2)
        self.numbers = nn.Parameter(start)
        signed = value.data.dtype.kind == "i"
        self.low, self.high = (
            (-(1 << value.bits - 1), (1 << value.bits - 1) - 1) if signed else (0, (1 << value.bits) - 1)
        )

    @property
    def latent(self) -> list[nn.Parameter]:
        return self.inner.latent if self.inner is not None else [self.numbers]

    def forward(self) -> Tensor:
        data = self.inner() if self.inner is not None else rounded(self.numbers, self.low, self.high)
        scale = self.scale()
        zero = self.offset() if self.offset is not None else self.zero.expand(scale.shape)
        dtype = _FLOATS[self.value.dtype.name]
        return cast(_by_block(cast(_by_block(data, zero, torch.sub), dtype), scale, torch.mul), dtype)

    @torch.no_grad()
    def stored(self) -> Quantized:
        value = self.value
        data: Any = self.inner.stored() if self.inner is not None else (
            rounded(self.numbers, self.low, self.high).cpu().numpy().astype(value.data.dtype)  # type: ignore[union-attr]
        )  # fmt: skip
        offset = value.offset if self.offset is None else self.offset.stored()
        scale: Any = self.scale.stored()
        return Quantized(data, scale, offset, value.bits, value.exponents)


class LearnedSparse(Learned):
    """The values under a mask; what lies outside stays zero, and the mask as it is."""

    def __init__(self, value: Sparse, original: Array | None):
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", torch.from_numpy(value.mask.copy()))
        self.values = learned(value.values, original)

    @property
    def latent(self) -> list[nn.Parameter]:
        return self.values.latent

    def forward(self) -> Tensor:
        dense: Tensor = self.values()
        return torch.where(self.mask, dense, dense.new_zeros(()))

    def stored(self) -> Sparse:
        values: Any = self.values.stored()
        return Sparse(self.mask.cpu().numpy(), values)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _size(numbers: Tensor) -> Tensor:
    """The mean size of those that are not zero; 1 where all are."""
    sizes = numbers[numbers != 0].abs()
    return sizes.mean() if len(sizes) else torch.ones(())


def _axis(value: Palettized) -> int:
    assert value.vector_axis is not None
    return value.vector_axis % value.indices.ndim


def _rows(tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
    """One row to each block, as `weights.blocks.to_rows` lays them out."""
    grid, order = _grid(tuple(tensor.shape), counts)
    return tensor.reshape(grid).permute(order).reshape(math.prod(counts), -1)


def _from_rows(rows: Tensor, shape: tuple[int, ...], counts: tuple[int, ...]) -> Tensor:
    grid, order = _grid(shape, counts)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return rows.reshape([grid[axis] for axis in order]).permute(inverse).reshape(shape)


def _grid(shape: tuple[int, ...], counts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    grid = [part for size, count in zip(shape, counts, strict=True) for part in (count, size // count)]
    return grid, [*range(0, len(grid), 2), *range(1, len(grid), 2)]


def _by_block(data: Tensor, block: Tensor, operation: Any) -> Tensor:
    """An operation of each number with that of its block; `block` has the rank of `data`, or one number for all."""
    grid, _ = _grid(tuple(data.shape), tuple(block.shape))
    apart = [size for count in block.shape for size in (count, 1)]
    found: Tensor = operation(data.reshape(grid), block.reshape(apart)).reshape(data.shape)
    return found


def _gap(table: Tensor) -> Tensor:
    """The distance between neighbours of entries that lie evenly with the same spread: (groups, entries, d) to (groups,
    1, 1)."""
    spread = table.var(dim=1, correction=0).mean(-1).sqrt() * math.sqrt(12)
    gap = spread / table.shape[1] ** (1 / table.shape[2])
    # A table of equal entries has nothing to choose from.
    return torch.where(gap > 0, gap, torch.ones_like(gap))[:, None, None]


def _inside(start: Tensor, wanted: Tensor, table: Tensor) -> Tensor:
    """Points on the way from an entry to what is wanted that still have this entry as the nearest.

    At part t of the way the point is as near to entry e as to its own, q, where t = |e - q|^2 / 2 (w - q).(e - q).
    """
    way = wanted - start
    part = torch.ones(start.shape[:2])
    for entry in table.unbind(1):
        away = entry[:, None] - start
        along = 2 * (way * away).sum(-1)
        part = torch.where(along > 0, torch.minimum(part, _INSIDE * (away * away).sum(-1) / along), part)
    return start + part[..., None] * way
