"""Operations on each element of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import operation


@operation
def abs_(x: Tensor) -> Tensor:
    return torch.abs(x)


@operation
def acos(x: Tensor) -> Tensor:
    return torch.acos(x)


@operation
def asin(x: Tensor) -> Tensor:
    return torch.asin(x)


@operation
def atan(x: Tensor) -> Tensor:
    return torch.atan(x)


@operation
def atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


@operation
def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(torch_dtype(dtype))


@operation
def ceil(x: Tensor) -> Tensor:
    return torch.ceil(x)


@operation
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(x, alpha, beta)


@operation
def cos(x: Tensor) -> Tensor:
    return torch.cos(x)


@operation
def cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


@operation
def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


@operation
def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


@operation
def exp2(x: Tensor) -> Tensor:
    # torch.exp2 turns integers into floats.
    return torch.exp2(x) if x.is_floating_point() else torch.pow(2, x)


@operation
def floor(x: Tensor) -> Tensor:
    return torch.floor(x)


@operation
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operation
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operation
def round_(x: Tensor) -> Tensor:
    return torch.round(x)  # halves to even, as MIL


@operation
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation
def sign(x: Tensor) -> Tensor:
    return torch.sign(x)


@operation
def sin(x: Tensor) -> Tensor:
    return torch.sin(x)


@operation
def sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


@operation
def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


@operation
def square(x: Tensor) -> Tensor:
    return x * x


@operation
def tan(x: Tensor) -> Tensor:
    return torch.tan(x)


@operation
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@operation
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    # A tensor, not a number: an integer would go through float and lose digits.
    return torch.maximum(x, alpha.to(x.dtype))
