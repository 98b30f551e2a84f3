"""What a packed weight keeps in memory, and its rows made dense by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.kernels import products
from corepress.weights import pack_bits

Array = NDArray[Any]

# Codes that the kernels take at a time: eight vectors of 16.
LANES = 16
# Float32 numbers that are dense at any one time, while a batch is multiplied.
_TILE = 1 << 20
_BUFFERS = ("codes", "tables", "scales", "offsets")


class Stored(nn.Module):
    """scale * (table[code] - offset), of shape (rows, columns); its buffers are all that it keeps.

    `codes`: packed as in a file, each row filled up to whole pieces. `tables`: one for each group of rows, or none
    where the codes are 8-bit integers. `scales`, `offsets`: (groups of rows, blocks of columns), or none.
    `dtype`: the type of the dense weight, for what a product with it returns.
    """

    codes: Tensor
    tables: Tensor
    scales: Tensor
    offsets: Tensor

    def __init__(
        self, shape: tuple[int, ...], bits: int, codes: Array, tables: Array, scales: Array, offsets: Array,
        dtype: torch.dtype,
    ):  # fmt: skip
        super().__init__()
        self.rows, self.columns = shape
        self.padded = -(-self.columns // products.PIECE) * products.PIECE
        self.bits, self.dtype = bits, dtype
        padded: Array = np.zeros((self.rows, self.padded), codes.dtype)
        padded[:, : self.columns] = codes
        if bits < 8:
            padded = padded.reshape(-1, 8, LANES).transpose(0, 2, 1)
        stored = pack_bits(padded, bits).reshape(self.rows, -1).view(codes.dtype)
        for name, array in zip(_BUFFERS, (stored, tables, scales, offsets), strict=True):
            # A copy: what was read may be the memory map of a file.
            self.register_buffer(name, torch.from_numpy(np.array(array, order="C")))
        self._described: tuple[Any, products.Described] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_described": None}  # a copy has buffers elsewhere

    def described(self) -> products.Described:
        """What the kernels are told of the buffers, made anew when one of them is elsewhere, or of another type."""
        buffers: list[Tensor] = [getattr(self, name) for name in _BUFFERS]
        places = [(buffer.data_ptr(), buffer.dtype) for buffer in buffers]
        if self._described is None or self._described[0] != places:
            arrays = [buffer.numpy() for buffer in buffers]
            self._described = places, products.describe(self.columns, self.bits, *arrays)
        return self._described[1]

    def dense(self, first: int, last: int) -> Tensor:
        """Some rows in float32, on any device."""
        codes = self.codes[first:last]
        rows = torch.arange(first, last, device=codes.device)
        if not self.tables.numel():
            numbers = codes[:, : self.columns].float()
        else:
            indices = self._indices(codes)
            groups = rows * len(self.tables) // self.rows
            places = indices[:, : self.columns] + (groups * self.tables.shape[1])[:, None]
            numbers = self.tables.reshape(-1).index_select(0, places.reshape(-1)).reshape(places.shape)
        if not self.scales.numel():
            return numbers
        groups = rows * len(self.scales) // self.rows
        blocks = numbers.reshape(len(rows), self.scales.shape[1], -1)
        if self.offsets.numel():
            blocks = blocks - self.offsets[groups].float()[..., None]
        return (blocks * self.scales[groups].float()[..., None]).reshape(numbers.shape)

    def _indices(self, codes: Tensor) -> Tensor:
        if self.bits == 8:
            return codes.long()
        # Eight codes fill `bits` bytes: those of one lane in eight vectors.
        octets = codes.reshape(-1, LANES, 1, self.bits).long()
        words = (octets << (8 * torch.arange(self.bits, device=codes.device))).sum(-1)
        indices = (words >> (self.bits * torch.arange(8, device=codes.device))) & ((1 << self.bits) - 1)
        return indices.transpose(1, 2).reshape(len(codes), -1)


def multiply_tiles(weight: Stored, x: Tensor, dense: Callable[[int, int], Tensor]) -> Tensor:
    """x (batch, columns) @ weight.T in float32, some rows of the weight after the others: `dense(first, last)`."""
    y = torch.empty(len(x), weight.rows, device=x.device)
    step = tile_rows(weight)
    for first in range(0, weight.rows, step):
        last = min(first + step, weight.rows)
        torch.matmul(x, dense(first, last).T, out=y[:, first:last])
    return y


def tile_rows(weight: Stored) -> int:
    """How many rows of a weight are dense at any one time."""
    return max(1, min(_TILE // weight.columns, weight.rows))
