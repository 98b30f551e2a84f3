"""A layer as GPTQ sees it: its weight as matrices, and its inputs as the vectors that these multiply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

_LARGEST_UNFOLDED = 1 << 20  # numbers that are copied at a time: windows overlap, and a cache holds so many


@dataclass(frozen=True)
class Layout:
    """A weight of `shape` as `groups` matrices of `rows` x `columns`, each with `elements` columns an input channel.

    `transposed`: the weight is (in, out) instead of (out, in, places of a kernel...).
    """

    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def rows(self) -> int:
        return self.shape[1] if self.transposed else self.shape[0] // self.groups

    @property
    def columns(self) -> int:
        return self.shape[0] if self.transposed else math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape[2:])

    def matrices(self, weight: Any) -> Any:
        """A tensor or array of the weight's shape as (groups, rows, columns)."""
        return (weight.T if self.transposed else weight).reshape(self.groups, self.rows, self.columns)

    def weight(self, matrices: Tensor) -> Tensor:
        """The weight of which `matrices` gives these."""
        whole = matrices.reshape(-1, self.columns)
        return (whole.T if self.transposed else whole).reshape(self.shape)

    def vectors(self, inputs: Tensor) -> Tensor:
        """The inputs of a layer without windows, (..., columns), as (1, vectors, columns)."""
        return inputs.reshape(1, -1, self.columns)

    def windows(self, padded: Tensor, strides: Sequence[int], dilations: Sequence[int]) -> Iterator[Tensor]:
        """What a convolution reads at all positions of its padded input, (batch, channels, 1 or 2 dimensions): in parts
        of bounded size, (groups, vectors, columns).
        """
        kernel = self.shape[2:]
        if len(kernel) == 1:
            padded, kernel, strides, dilations = padded[:, :, None], (1, *kernel), (1, *strides), (1, *dilations)
        extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        # A view: (batch, channels, positions high and wide, places of the kernel high and wide).
        places = padded.unfold(2, extents[0], strides[0]).unfold(3, extents[1], strides[1])
        places = places[..., :: dilations[0], :: dilations[1]]
        height, line = places.shape[2], padded.shape[1] * places.shape[3] * self.elements  # of numbers
        images = max(1, _LARGEST_UNFOLDED // max(line * height, 1))
        lines = max(1, _LARGEST_UNFOLDED // max(line, 1)) if images == 1 else height
        for some in torch.split(places, images):
            for part in torch.split(some, lines, dim=2):
                # Columns come first in memory, as in an image: those of a kernel of one place are not even copied.
                columns = part.permute(1, 4, 5, 0, 2, 3).reshape(self.groups, self.columns, -1)
                yield columns.mT

    def fitted(
        self,
        weight: Any,
        fit: Callable[[Tensor, Tensor | None], CompressedWeight],
        keep: Tensor | None = None,
    ) -> CompressedWeight:
        """The compressed form of a weight: a tensor, an array or sparse.

        `fit`: takes the matrices (groups, rows, columns), and False for those of their elements that were pruned
        before, or None; it gives the form of (rows of all groups, columns). `keep`: where a tensor was not pruned.
        """
        if isinstance(weight, Sparse):
            weight, keep = weight.values, torch.from_numpy(weight.mask)
        matrices = self.matrices(torch.from_numpy(np.array(weight)) if isinstance(weight, np.ndarray) else weight)
        form: CompressedWeight = self.form(fit(matrices, None if keep is None else self.matrices(keep)))
        return form if keep is None or isinstance(form, Sparse) else Sparse(keep.cpu().numpy(), form)

    def form(self, form: Any) -> Any:
        """A compressed matrix, (rows of all groups, columns), as a weight of the layer's shape."""
        if isinstance(form, Sparse):
            return Sparse(self._laid_out(form.mask), self.form(form.values))
        if isinstance(form, Quantized):
            offset = None if form.offset is None else self._laid_out(form.offset)
            return Quantized(self.form(form.data), self._laid_out(form.scale), offset, bits=form.bits)
        if isinstance(form, Palettized):
            axis = 1 if self.transposed and form.vector_axis == 0 else form.vector_axis
            return Palettized(self._laid_out(form.indices), self._table(form.lut), axis)
        return self._laid_out(form)

    def _table(self, lut: Any) -> Any:
        if isinstance(lut, Quantized):
            offset = None if lut.offset is None else self._table(lut.offset)
            return Quantized(self._table(lut.data), self._table(lut.scale), offset, bits=lut.bits)
        lut = lut.swapaxes(0, 1) if self.transposed else lut
        return lut.reshape(*lut.shape[:2], *[1] * (len(self.shape) - 2), *lut.shape[2:])

    def _laid_out(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.transposed:
            return np.ascontiguousarray(array.T)
        # An array with a number for every column has them for all places of the kernel; scales of blocks for none.
        places = self.shape[2:] if array.shape[1] == self.columns else (1,) * (len(self.shape) - 2)
        return array.reshape(len(array), -1, *places)
