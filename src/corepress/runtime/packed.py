"""A weight that stays packed in memory while a program runs, and its product with activations."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from corepress.weights import CompressedWeight, Palettized, Quantized, decompress, pack_bits

# Float32 numbers that are dense at any one time, while a batch is multiplied.
_TILE = 1 << 20
# Codes that the kernels take at a time.
_PIECE = 32


class Packed(nn.Module):
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
        self, weight: Palettized | Quantized, bits: int, codes: Any, tables: Any, scales: Any, offsets: Any,
        dtype: torch.dtype,
    ):  # fmt: skip
        super().__init__()
        self.rows, self.columns = weight.shape
        self.padded = -(-self.columns // _PIECE) * _PIECE
        self.bits, self.dtype = bits, dtype
        padded = np.zeros((self.rows, self.padded), codes.dtype)
        padded[:, : self.columns] = codes
        stored = pack_bits(padded, bits).reshape(self.rows, -1).view(codes.dtype)
        for name, array in (("codes", stored), ("tables", tables), ("scales", scales), ("offsets", offsets)):
            # A copy: what was read may be the memory map of a file.
            self.register_buffer(name, torch.from_numpy(np.array(array, order="C")))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T + bias, computed in float32, in the type that x and the dense weight would give."""
        dtype = torch.promote_types(x.dtype, self.dtype)
        flat = x.reshape(-1, self.columns).float()
        y = self._one(flat) if len(flat) == 1 and flat.device.type == "cpu" else self._many(flat)
        if bias is not None:
            y = y + bias
        return y.to(dtype).reshape(*x.shape[:-1], self.rows)

    def _one(self, x: Tensor) -> Tensor:
        from corepress.runtime import kernels

        wide = F.pad(x[0], (0, self.padded - self.columns)).numpy()
        y = np.empty(self.rows, np.float32)
        parts = self._arrays()
        _share(self.rows, lambda first, last: kernels.multiply(*parts, first, wide, y[first:last]))
        return torch.from_numpy(y)[None]

    def _many(self, x: Tensor) -> Tensor:
        y = torch.empty(len(x), self.rows, device=x.device)
        step = max(1, _TILE // self.columns)
        # One room for all tiles: fresh memory costs more than what is written to it.
        room = torch.zeros(min(step, self.rows), self.padded) if x.device.type == "cpu" else None
        for first in range(0, self.rows, step):
            last = min(first + step, self.rows)
            tile = self.torch_tile(first, last) if room is None else self.tile(first, last, room)
            torch.matmul(x, tile.T, out=y[:, first:last])
        return y

    def tile(self, first: int, last: int, room: Tensor) -> Tensor:
        """Some rows, dense, by numba; in `room`, which started as zeros."""
        from corepress.runtime import kernels

        dense = room.numpy()
        parts = self._arrays()
        _share(last - first, lambda a, b: kernels.spread(*parts, first + a, dense[a:b]))
        return room[: last - first, : self.columns]

    def torch_tile(self, first: int, last: int) -> Tensor:
        """Some rows, dense, by PyTorch, on any device."""
        codes = self.codes[first:last]
        rows = torch.arange(first, last, device=codes.device)
        if not self.tables.numel():
            dense = codes[:, : self.columns].float()
        else:
            # Eight codes fill `bits` bytes.
            octets = codes.reshape(len(rows), -1, 1, self.bits).long()
            word = (octets << (8 * torch.arange(self.bits, device=codes.device))).sum(-1)
            indices = (word >> (self.bits * torch.arange(8, device=codes.device))) & ((1 << self.bits) - 1)
            groups = rows * len(self.tables) // self.rows
            places = indices.reshape(len(rows), -1)[:, : self.columns] + (groups << self.bits)[:, None]
            dense = self.tables.reshape(-1).index_select(0, places.reshape(-1)).reshape(places.shape)
        if not self.scales.numel():
            return dense
        groups = rows * len(self.scales) // self.rows
        blocks = dense.reshape(len(rows), self.scales.shape[1], -1)
        if self.offsets.numel():
            blocks = blocks - self.offsets[groups].float()[..., None]
        return (blocks * self.scales[groups].float()[..., None]).reshape(dense.shape)

    def _arrays(self) -> tuple[Any, ...]:
        from corepress.weights.kernels import as_bits

        tables, scales, offsets = (as_bits(t.numpy()) for t in (self.tables, self.scales, self.offsets))
        return self.codes.numpy(), self.bits, self.columns, tables, scales, offsets


def pack(weight: NDArray[Any] | CompressedWeight, dtype: torch.dtype) -> Packed | None:
    """The packed form of a matrix (out, in); None for a weight of a form that has none."""
    scaled = weight if isinstance(weight, Quantized) else None
    inner = scaled.data if scaled is not None else weight
    empty = np.zeros((0, 0), np.float32)
    scales, offsets = empty, empty
    if scaled is not None:
        scales, offsets = scaled.scale, empty if scaled.offset is None else scaled.offset
    if isinstance(weight, np.ndarray) or len(weight.shape) != 2 or 0 in weight.shape:
        return None
    if isinstance(inner, Palettized):
        if inner.cluster_dim != 1 or inner.lut.shape[1] != 1:
            return None
        tables = decompress(inner.lut).reshape(inner.lut.shape[0], -1).astype(np.float32)
        whole = scaled if scaled is not None else inner
        return Packed(whole, inner.bits, inner.indices, tables, scales, offsets, dtype)
    if scaled is None or not isinstance(inner, np.ndarray) or inner.dtype not in (np.int8, np.uint8):
        return None
    if scaled.bits == 8:
        return Packed(scaled, 8, inner, empty, scales, offsets, dtype)
    # A few bits are looked up, whether signed or not; each code is the two's complement of its number.
    numbers = np.arange(1 << scaled.bits, dtype=np.float32)
    if inner.dtype == np.int8:
        numbers[len(numbers) // 2 :] -= len(numbers)
    codes = inner.view(np.uint8) & np.uint8((1 << scaled.bits) - 1)
    return Packed(scaled, scaled.bits, codes, numbers[None], scales, offsets, dtype)


def product(kind: str, arguments: dict[str, Any]) -> Tensor | None:
    """The result of a `linear` or `matmul` step whose weight is packed; None for any other step."""
    weight = arguments.get("weight" if kind == "linear" else "y")
    if not isinstance(weight, Packed):
        return None
    x = arguments["x"]
    if kind == "linear":
        result: Tensor = weight(x, arguments.get("bias")).to(x.dtype)
        return result
    if arguments.get("transpose_x") and x.dim() > 1:
        x = x.transpose(-1, -2)
    product: Tensor = weight(x)
    return product


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "corepress")


if hasattr(os, "register_at_fork"):  # threads do not live on in a fork
    os.register_at_fork(after_in_child=_workers.cache_clear)


def _share(count: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` on `count` rows, in as many threads as PyTorch uses; the kernels release the GIL."""
    threads = max(1, min(torch.get_num_threads(), os.cpu_count() or 1, count))
    edges = [count * i // threads for i in range(threads + 1)]
    others = [_workers().submit(work, *edges[i : i + 2]) for i in range(1, threads)]
    work(*edges[:2])
    for other in others:
        other.result()
