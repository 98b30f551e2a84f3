"""Operations on the elements of two tensors, with NumPy's broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.registry import operation


@operation
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@operation
def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


@operation
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@operation
def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


@operation
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


@operation
def less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


@operation
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


@operation
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_and(x, y)


@operation
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_or(x, y)


@operation
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_xor(x, y)


@operation
def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@operation
def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


@operation
def mod(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)  # with the sign of y, as MIL


@operation
def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@operation
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return x != y


@operation
def pow_(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


@operation
def real_div(x: Tensor, y: Tensor) -> Tensor:
    # The output has the type of the inputs, so integers lose their fraction.
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operation
def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y
