"""A weight that stays packed: how it is packed, and who multiplies it on which device."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.kernels.products import BITS
from corepress.runtime.packed import cpu
from corepress.runtime.packed.stored import Stored, multiply_tiles
from corepress.weights import CompressedWeight, Palettized, Quantized, decompress


class Packed(Stored):
    """A stored weight that can be called: on any number of activations, on any device."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T + bias, computed in float32, in the type that x and the dense weight would give."""
        dtype = torch.promote_types(x.dtype, self.dtype)
        flat = x.reshape(-1, self.columns)
        if gpu := _gpu_kernels(x.device.type):
            y: Tensor = gpu.multiply(self, flat, dtype)
        elif x.device.type == "cpu":
            y = cpu.multiply(self, flat.float())
        else:
            y = multiply_tiles(self, flat.float(), self.dense)
        if bias is not None:
            y = y + bias
        return y.to(dtype).view(*x.shape[:-1], self.rows)


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
        if inner.cluster_dim != 1 or inner.lut.shape[1] != 1 or inner.bits not in BITS:
            return None
        tables = decompress(inner.lut).reshape(inner.lut.shape[0], -1).astype(np.float32)
        return Packed(weight.shape, inner.bits, inner.indices, tables, scales, offsets, dtype)
    if scaled is None or not isinstance(inner, np.ndarray) or inner.dtype not in (np.int8, np.uint8):
        return None
    if scaled.bits == 8:
        if inner.dtype == np.uint8:  # the kernels know one kind of 8-bit numbers
            below = offsets if offsets.size else np.zeros_like(scales, np.uint8)
            wide = np.float32 if below.dtype.kind == "f" else np.int16
            inner, offsets = (inner ^ 128).view(np.int8), below.astype(wide) - 128
        return Packed(weight.shape, 8, inner, empty, scales, offsets, dtype)
    # A few bits are looked up, whether signed or not; each code is the two's complement of its number.
    numbers = np.arange(1 << scaled.bits, dtype=np.float32)
    if inner.dtype == np.int8:
        numbers[len(numbers) // 2 :] -= len(numbers)
    codes = inner.view(np.uint8) & np.uint8((1 << scaled.bits) - 1)
    return Packed(weight.shape, scaled.bits, codes, numbers[None], scales, offsets, dtype)


def product(kind: str, x: Tensor, **others: Any) -> Tensor:
    """The result of a `linear` or a `matmul`, `kind`, whose weight is packed; its other arguments by their names."""
    if kind == "linear":
        result: Tensor = others["weight"](x, others.get("bias")).to(x.dtype)
        return result
    if others.get("transpose_x") and x.dim() > 1:
        x = x.transpose(-1, -2)
    result = others["y"](x)
    return result


@lru_cache
def _gpu_kernels(device: str) -> ModuleType | None:
    """The module of kernels for a kind of device; None for a CPU, and where Triton is not installed."""
    if device != "cuda":
        return None
    try:
        from corepress.runtime.packed import gpu
    except ImportError:
        return None
    return gpu
