"""Operations on the elements of two tensors, with NumPy's broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.limits import broadcasts
from corepress.runtime.registry import operation


@operation
@broadcasts
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@operation
@broadcasts
def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


@operation
@broadcasts
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@operation
@broadcasts
def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


@operation
@broadcasts
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


@operation
@broadcasts
def less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


@operation
@broadcasts
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


@operation
@broadcasts
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_and(x, y)


@operation
@broadcasts
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_or(x, y)


@operation
@broadcasts
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_xor(x, y)


@operation
@broadcasts
def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@operation
@broadcasts
def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


@operation
@broadcasts
def mod(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)  # with the sign of y, as MIL


@operation
@broadcasts
def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@operation
@broadcasts
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return x != y


@operation
@broadcasts
def pow_(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


@operation
@broadcasts
def real_div(x: Tensor, y: Tensor) -> Tensor:
    # The output has the type of the inputs, so integers lose their fraction.
    return x / y if x.is_floating_point() else truncated(x, y)


@operation
@broadcasts
def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def truncated(x: Tensor, y: Tensor) -> Tensor:
    """The quotient of integers without its fraction."""
    # PyTorch ends the whole process where -2**31 is divided by -1.
    minus = y == -1
    return torch.where(minus, -x, torch.div(x, torch.where(minus, 1, y), rounding_mode="trunc"))
