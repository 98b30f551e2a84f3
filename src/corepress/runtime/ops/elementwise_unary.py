"""Operations on each element of one tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import operation

Unary = Callable[[Tensor], Tensor]


def _own(name: str, function: Unary) -> Unary:
    """Register a function of PyTorch's own."""

    def apply(x: Tensor) -> Tensor:
        return function(x)

    apply.__name__ = apply.__qualname__ = name
    return operation(apply)


abs_ = _own("abs_", torch.abs)
acos = _own("acos", torch.acos)
asin = _own("asin", torch.asin)
atan = _own("atan", torch.atan)
atanh = _own("atanh", torch.atanh)
ceil = _own("ceil", torch.ceil)
cos = _own("cos", torch.cos)
cosh = _own("cosh", torch.cosh)
erf = _own("erf", torch.erf)
exp = _own("exp", torch.exp)
floor = _own("floor", torch.floor)
logical_not = _own("logical_not", torch.logical_not)
round_ = _own("round_", torch.round)  # halves to even, as MIL
sign = _own("sign", torch.sign)
sin = _own("sin", torch.sin)
sinh = _own("sinh", torch.sinh)
sqrt = _own("sqrt", torch.sqrt)
tan = _own("tan", torch.tan)
tanh = _own("tanh", torch.tanh)


@operation
def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(torch_dtype(dtype))


@operation
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    # The same numbers, and a derivative that takes a fiftieth of the time.
    return F.hardtanh(x, alpha, beta) if x.is_floating_point() and alpha < beta else torch.clamp(x, alpha, beta)


@operation
def exp2(x: Tensor) -> Tensor:
    # torch.exp2 turns integers into floats.
    return torch.exp2(x) if x.is_floating_point() else torch.pow(2, x)


@operation
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operation
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation
def square(x: Tensor) -> Tensor:
    return x * x


@operation
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    # A tensor, not a number: an integer would go through float and lose digits.
    return torch.maximum(x, alpha.to(x.dtype))
