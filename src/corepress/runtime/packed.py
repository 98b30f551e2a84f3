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

from corepress.kernels import products
from corepress.weights import CompressedWeight, Palettized, Quantized, decompress, pack_bits

# Float32 numbers that are dense at any one time, while a batch is multiplied.
_TILE = 1 << 20
# Batches of up to so many are multiplied by our kernels, which keep them in the cache; larger ones by PyTorch.
_BATCH = 64
# Multiplications that are worth a thread, and the turns that each thread takes.
_WORTH, _TURNS = 1 << 17, 4
_CORES = os.cpu_count() or 1
# Codes that the kernels take at a time: eight vectors of 16.
_PIECE, _LANES = products.PIECE, 16
_BUFFERS = ("codes", "tables", "scales", "offsets")


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
        if bits < 8:
            padded = padded.reshape(-1, 8, _LANES).transpose(0, 2, 1)
        stored = pack_bits(padded, bits).reshape(self.rows, -1).view(codes.dtype)
        for name, array in zip(_BUFFERS, (stored, tables, scales, offsets), strict=True):
            # A copy: what was read may be the memory map of a file.
            self.register_buffer(name, torch.from_numpy(np.array(array, order="C")))
        self._described: tuple[Any, products.Described] | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T + bias, computed in float32, in the type that x and the dense weight would give."""
        dtype = torch.promote_types(x.dtype, self.dtype)
        flat = x.reshape(-1, self.columns)
        if gpu := _gpu_kernels(x.device.type):
            y: Tensor = gpu.multiply(self, flat, dtype)
        else:
            small = len(flat) <= _BATCH and x.device.type == "cpu"
            y = self._few(flat.float()) if small else self._many(flat.float())
        if bias is not None:
            y = y + bias
        return y.to(dtype).view(*x.shape[:-1], self.rows)

    def _few(self, x: Tensor) -> Tensor:
        if self.padded > self.columns:
            x = F.pad(x, (0, self.padded - self.columns))
        given = x.contiguous().numpy()
        y = np.empty((len(given), self.rows), np.float32)
        parts = self._description(), given, products.together(given), y
        _share(self.rows, given.size, lambda first, last: products.multiply(*parts, first, last))
        return torch.from_numpy(y)

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
        """Some rows, dense, by a kernel; in `room`."""
        dense, own = room.numpy(), self._description()
        _share(last - first, self.padded, lambda a, b: products.spread(own, dense[a:b], first + a, first + b))
        return room[: last - first, : self.columns]

    def torch_tile(self, first: int, last: int) -> Tensor:
        """Some rows, dense, by PyTorch, on any device."""
        codes = self.codes[first:last]
        rows = torch.arange(first, last, device=codes.device)
        if not self.tables.numel():
            dense = codes[:, : self.columns].float()
        else:
            indices = self._indices(codes)
            groups = rows * len(self.tables) // self.rows
            places = indices[:, : self.columns] + (groups * self.tables.shape[1])[:, None]
            dense = self.tables.reshape(-1).index_select(0, places.reshape(-1)).reshape(places.shape)
        if not self.scales.numel():
            return dense
        groups = rows * len(self.scales) // self.rows
        blocks = dense.reshape(len(rows), self.scales.shape[1], -1)
        if self.offsets.numel():
            blocks = blocks - self.offsets[groups].float()[..., None]
        return (blocks * self.scales[groups].float()[..., None]).reshape(dense.shape)

    def _indices(self, codes: Tensor) -> Tensor:
        if self.bits == 8:
            return codes.long()
        # Eight codes fill `bits` bytes: those of one lane in eight vectors.
        octets = codes.reshape(-1, _LANES, 1, self.bits).long()
        words = (octets << (8 * torch.arange(self.bits, device=codes.device))).sum(-1)
        indices = (words >> (self.bits * torch.arange(8, device=codes.device))) & ((1 << self.bits) - 1)
        return indices.transpose(1, 2).reshape(len(codes), -1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_described": None}  # a copy has buffers elsewhere

    def _description(self) -> products.Described:
        """What the kernels are told of the buffers, made anew when one of them is elsewhere, or of another type."""
        buffers = [self._buffers[name] for name in _BUFFERS]
        places = [(buffer.data_ptr(), buffer.dtype) for buffer in buffers if buffer is not None]
        if self._described is None or self._described[0] != places:
            arrays = [buffer.numpy() for buffer in buffers if buffer is not None]
            self._described = places, products.describe(self.columns, self.bits, *arrays)
        return self._described[1]


def pack(weight: NDArray[Any] | CompressedWeight, dtype: torch.dtype) -> Packed | None:
    """The packed form of a matrix (out, in); None for a weight of a form that has none."""
    scaled = weight if isinstance(weight, Quantized) else None
    inner = scaled.data if scaled is not None else weight
    empty: NDArray[Any] = np.zeros((0, 0), np.float32)
    scales, offsets = empty, empty
    if scaled is not None:
        scales, offsets = scaled.scale, empty if scaled.offset is None else scaled.offset
    if isinstance(weight, np.ndarray) or len(weight.shape) != 2 or 0 in weight.shape:
        return None
    if isinstance(inner, Palettized):
        if inner.cluster_dim != 1 or inner.lut.shape[1] != 1 or inner.bits not in products.BITS:
            return None
        tables = decompress(inner.lut).reshape(inner.lut.shape[0], -1).astype(np.float32)
        whole = scaled if scaled is not None else inner
        return Packed(whole, inner.bits, inner.indices, tables, scales, offsets, dtype)
    if scaled is None or not isinstance(inner, np.ndarray) or inner.dtype not in (np.int8, np.uint8):
        return None
    if scaled.bits == 8:
        if inner.dtype == np.uint8:  # the kernels know one kind of 8-bit numbers
            below = offsets if offsets.size else np.zeros_like(scales, np.uint8)
            wide = np.float32 if below.dtype.kind == "f" else np.int16
            inner, offsets = (inner ^ 128).view(np.int8), below.astype(wide) - 128
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


@lru_cache
def _gpu_kernels(device: str) -> Any:
    """The module of kernels for a kind of device; None for a CPU, and where Triton is not installed."""
    if device != "cuda":
        return None
    try:
        from corepress.runtime import triton_kernels
    except ImportError:
        return None
    return triton_kernels


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _CORES - 1), "corepress")


if hasattr(os, "register_at_fork"):  # threads do not live on in a fork
    os.register_at_fork(after_in_child=_workers.cache_clear)


def _share(rows: int, cost: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` on all rows, in as many threads as PyTorch uses; the kernels release the GIL.

    `cost`: multiplications for each row. Threads take the next rows when they are done with theirs, since other work
    may slow one of them.
    """
    threads = max(1, min(torch.get_num_threads(), _CORES, rows * cost // _WORTH))
    size = -(-rows // (threads * _TURNS if threads > 1 else 1))
    size += -size % 12  # the kernels take up to twelve rows at a time
    firsts = iter(range(0, rows, size))

    def take() -> None:
        for first in firsts:
            work(first, min(first + size, rows))

    others = [_workers().submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()
