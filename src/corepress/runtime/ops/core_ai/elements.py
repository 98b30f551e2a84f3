"""Operations on each element."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.limits import broadcasts
from corepress.runtime.registry import core_ai

# Of unsigned integers that PyTorch computes little with, the largest that an int64 holds.
_UNSIGNED = {"uint16": (1 << 16) - 1, "uint32": (1 << 32) - 1, "uint64": (1 << 63) - 1}


@core_ai("acosh")
def acosh(x: Tensor) -> Tensor:
    return torch.acosh(x)


@core_ai("asinh")
def asinh(x: Tensor) -> Tensor:
    return torch.asinh(x)


@core_ai("log")
def log(x: Tensor) -> Tensor:
    return torch.log(x)


@core_ai("rsqrt")
def rsqrt(x: Tensor) -> Tensor:
    return torch.rsqrt(x)


@core_ai("modulo")
@broadcasts
def modulo(x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y)


@core_ai("bitwise_and")
@broadcasts
def bitwise_and(x: Tensor, y: Tensor) -> Tensor:
    return x & y


@core_ai("bitwise_or")
@broadcasts
def bitwise_or(x: Tensor, y: Tensor) -> Tensor:
    return x | y


@core_ai("bitwise_xor")
@broadcasts
def bitwise_xor(x: Tensor, y: Tensor) -> Tensor:
    return x ^ y


@core_ai("gelu")
def gelu(x: Tensor, mode: str = "none") -> Tensor:
    if mode == "sigmoid":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate=mode)


@core_ai("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    if dtype in _UNSIGNED:
        return x.long().clamp(0, _UNSIGNED[dtype])  # as Apple's runtime does
    return x.to(torch_dtype(dtype))
