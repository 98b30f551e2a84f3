"""The values that a weight may take: scales and zero points of blocks of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import ConfigError
from corepress.weights.forms import Palettized, Quantized
from corepress.weights.lattice import steps_of

# Quantiles of the normal distribution, scaled to -1..1: 4 bits from QLoRA (arXiv 2305.14314, appendix E), 3 bits as
# coremltools and bitsandbytes have them.
NORMAL_FLOAT = {
    3: (-1.0, -0.4786292, -0.21714179, 0.0, 0.1609302, 0.33791524, 0.562617, 1.0),
    4: (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
}  # fmt: skip
# A range lies so many times its own width off 0 at most if its zero point has a fraction: then a float16 holds this.
_FAR = 128.0
_TRIES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4)


class Grid:
    """scale * (level - zero), or scale * palette[level], for the columns of each block and each row.

    `scale`, `zero`: (blocks, rows) float32. `block_of`: (columns,) int64, the block of each column, in the order in
    which the columns are settled; (groups, columns) where groups of equally many rows each have an order of their own.
    `palette`: ascending, empty for evenly spaced levels 0..`top`.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        bits: int,
        symmetric: bool = True,
        float_zero: bool = False,
        per_tensor: bool = False,
        block_size: int | None = None,
        normal_float: bool = False,
        importance: Tensor | None = None,
        share: float = 1.0,
        scale_type: torch.dtype = torch.float32,
    ):
        """The range of each block of `weight`, (rows, columns) float32.

        `float_zero`: zero points have a fraction, and ranges need not hold 0. `block_size`: columns to a block, None
        for all. `per_tensor`: all rows share the scales. `share`: so much of the range is taken, the rest is clipped.
        `importance`: (columns,) or (rows, columns), look for the scales of least squared error, weighed by it, instead.
        `scale_type`: float16 or float32, to which scales, and zero points with a fraction, are rounded.
        Raises ConfigError if blocks don't divide the columns, or for a normal float of other than 3 or 4 bits.
        """
        if normal_float and bits not in NORMAL_FLOAT:
            raise ConfigError(f"a normal float has 3 or 4 bits, not {bits}")
        rows, columns = weight.shape
        size = block_size or columns
        if columns % size:
            raise ConfigError(f"blocks of {size} don't divide its {columns} input columns")
        self.bits, self.top, self.symmetric, self.per_tensor, self.size = bits, 2**bits - 1, symmetric, per_tensor, size
        self.palette = weight.new_tensor(NORMAL_FLOAT[bits] if normal_float else ())
        self.importance, self.share, self.scale_type, self.float_zero = importance, share, scale_type, float_zero
        self.scale, self.zero = self._fit(weight.reshape(rows, -1, size), importance)
        self.block_of = torch.arange(columns, device=weight.device) // size

    def refit(self, first: int, stop: int, target: Tensor) -> None:
        """Scales anew for the blocks that begin in the columns `first` to `stop`.

        `target`: (columns, rows), the values to be rounded, from column `first` to `reach(stop)` at least.
        """
        begin, end = -(-first // self.size), -(-stop // self.size)
        if begin < end:
            columns = slice(begin * self.size - first, end * self.size - first)
            blocks = target[columns].T.reshape(target.shape[1], end - begin, self.size)
            weighed = None if self.importance is None else self.importance[..., begin * self.size : end * self.size]
            self.scale[begin:end], self.zero[begin:end] = self._fit(blocks, weighed)

    def adopt(self, other: Grid, rows: Tensor) -> None:
        """Take the scales and zero points of some rows, (rows,) bool, from another grid of the same blocks."""
        self.scale = torch.where(rows, other.scale, self.scale)
        self.zero = torch.where(rows, other.zero, self.zero)

    def reach(self, stop: int) -> int:
        """Where the last block ends that begins before column `stop`."""
        return -(-stop // self.size) * self.size

    def round(self, values: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest values of the grid, and their levels, of one column: (groups, rows of a group).

        `block`: that of the column, or for each group its own.
        """
        scale, zero = (part.reshape(len(part), *values.shape) for part in (self.scale, self.zero))
        if block.dim():
            groups = torch.arange(len(block), device=block.device)
            return self._round(values, scale[block, groups], zero[block, groups])
        return self._round(values, scale[block], zero[block])

    def _round(self, values: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.palette):
            middles = (self.palette[1:] + self.palette[:-1]) / 2
            level = torch.bucketize((values / scale).contiguous(), middles)
            return scale * self.palette[level], level
        whole = torch.round(zero)
        level = torch.clamp(torch.round(values / scale + (zero - whole)) + whole, 0, self.top)
        return scale * (level - zero), level

    def _fit(self, blocks: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        """(rows, blocks, columns of a block) -> scales and zero points: (blocks, rows)."""
        low, high = self._ends(blocks.amin(2), blocks.amax(2))
        if importance is None:
            scale, zero = self._scale(*self._shrunk(low, high, self.share), self._known(blocks))
        else:
            scale, zero = self._search(blocks, low, high, importance.reshape(-1, *blocks.shape[1:]))
        return scale.T.contiguous(), zero.T.contiguous()

    def _ends(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Of the ranges that are taken: with 0 in them, but where zero points have a fraction and no other limits."""
        if self.per_tensor:
            low, high = low.amin(0).expand_as(low), high.amax(0).expand_as(high)
        held = low.clamp(max=0), high.clamp(min=0)
        if not self.float_zero:
            return held
        near = torch.maximum(low.abs(), high.abs()) <= _FAR * (high - low)
        return torch.where(near, low, held[0]), torch.where(near, high, held[1])

    def _shrunk(self, low: Tensor, high: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
        """So much of a range, around 0, or around its middle where zero points have a fraction."""
        if not self.float_zero:
            return low * share, high * share
        clipped = (high - low) * (1 - share) / 2
        return low + clipped, high - clipped

    def _known(self, blocks: Tensor) -> Tensor | None:
        """The steps that blocks lie on already, as they were quantized before, (rows, blocks); 0 where unknown."""
        if not self.float_zero or self.per_tensor or self.share != 1:
            return None
        stored = np.dtype(np.float16 if self.scale_type is torch.float16 else np.float32)
        steps = steps_of(numpy_of(blocks.flatten(0, 1)), stored, self.top)
        return None if steps is None else torch.from_numpy(steps).to(blocks.device).reshape(blocks.shape[:2])

    def _scale(self, low: Tensor, high: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # coremltools takes half the scale for a symmetric block without negative values, and clips its upper half.
        peak = torch.maximum(-low, high)
        flat = peak == 0
        if len(self.palette):
            scale = peak.masked_fill(flat, 1)
        else:
            span = 2 * peak if self.symmetric else high - low
            scale = span.masked_fill(flat, 2) / self.top
            scale = scale if known is None else torch.where(known > 0, known, scale)
        if self.scale_type is torch.float16:
            scale = scale.half().clamp(min=2.0**-24, max=65504).float()
        middle = torch.full_like(scale, (self.top + 1) / 2)
        if self.symmetric or len(self.palette):
            return scale, middle
        if self.float_zero:
            return scale, torch.where(flat, middle.floor(), -low / scale).to(self.scale_type).float()
        return scale, torch.where(flat, middle.floor(), torch.round(-low / scale)).clamp(0, self.top)

    def _search(self, blocks: Tensor, low: Tensor, high: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Of ranges shrunk more and more, the one of least squared error; then those on either side of it."""
        best, factor = torch.full_like(low, torch.inf), torch.ones_like(low)
        tries = [torch.full_like(low, share) for share in _TRIES]
        for step in (0, 0.025, -0.025):
            for share in [factor + step] if step else tries:
                scale, zero = self._scale(*self._shrunk(low, high, share))
                rounded, _ = self._round(blocks, scale[..., None], zero[..., None])
                error = ((rounded - blocks).square_() * importance).sum(2)
                error = error.sum(0).expand_as(error) if self.per_tensor else error
                better = error < best
                best, factor = torch.where(better, error, best), torch.where(better, share, factor)
        return self._scale(*self._shrunk(low, high, factor))

    def form(self, levels: Tensor) -> Quantized:
        """The compressed weight of these levels: (rows, columns) uint8."""
        data, scale = numpy_of(levels), numpy_of(self.scale.T.to(self.scale_type))
        if len(self.palette):
            lut = numpy_of(self.palette.to(self.scale_type)).reshape(1, 1, -1, 1)
            return Quantized(Palettized(data, lut), scale)
        zero = numpy_of(self.zero.T.to(self.scale_type)) if self.float_zero else numpy_of(self.zero.T).astype(np.uint8)
        # Three bits are stored in four: Core ML has no integers of three.
        return Quantized(data, scale, zero, bits=4 if self.bits <= 4 else 8)


def numpy_of(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
