"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import operation


@operation
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    limits.check(*x.shape[:-1], weight.shape[0])
    if x.dtype == weight.dtype and x.is_floating_point() and (bias is None or bias.dtype == x.dtype):
        return F.linear(x, weight, bias)
    dtype = torch.promote_types(x.dtype, weight.dtype)
    wide, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if dtype.is_floating_point:
        return F.linear(wide, weight, bias).to(x.dtype)
    y = _integer_product(wide, weight.T)
    return y if bias is None else y + bias


@operation
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    if x.dim() > 1 and y.dim() > 1:
        limits.check_broadcast(x[..., :1], y[..., :1, :])
    # Types may differ where one is constant (iOS17).
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(dtype)
    return torch.matmul(x, y) if dtype.is_floating_point else _integer_product(x, y)


@operation
def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    inputs, _, output = equation.replace(" ", "").partition("->")
    parts = list(zip(inputs.split(","), values, strict=True))
    limits.check(*(max(x.shape[part.index(letter)] for part, x in parts if letter in part) for letter in output))
    return torch.einsum(equation, *values)


def _integer_product(x: Tensor, y: Tensor) -> Tensor:
    if not x.is_cuda:
        return torch.matmul(x, y)
    # CUDA multiplies no matrices of integers; float64 is exact up to 2**53.
    return torch.matmul(x.double(), y.double()).long().to(x.dtype)
