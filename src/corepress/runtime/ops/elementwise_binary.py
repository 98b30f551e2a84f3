"""Operations on the elements of two tensors, with NumPy's broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.limits import Binary, broadcasts
from corepress.runtime.registry import operation


def _own(name: str, function: Binary) -> Binary:
    """Register a function of PyTorch's own."""

    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    apply.__name__ = apply.__qualname__ = name
    return operation(broadcasts(apply))


add = _own("add", torch.add)
sub = _own("sub", torch.sub)
mul = _own("mul", torch.mul)
mod = _own("mod", torch.remainder)  # with the sign of y, as MIL
pow_ = _own("pow_", torch.pow)
maximum = _own("maximum", torch.maximum)
minimum = _own("minimum", torch.minimum)
equal = _own("equal", torch.eq)
not_equal = _own("not_equal", torch.ne)
greater = _own("greater", torch.gt)
greater_equal = _own("greater_equal", torch.ge)
less = _own("less", torch.lt)
less_equal = _own("less_equal", torch.le)
logical_and = _own("logical_and", torch.logical_and)
logical_or = _own("logical_or", torch.logical_or)
logical_xor = _own("logical_xor", torch.logical_xor)


@operation
@broadcasts
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@operation
@broadcasts
def real_div(x: Tensor, y: Tensor) -> Tensor:
    # The output has the type of the inputs, so integers lose their fraction.
    return x / y if x.is_floating_point() else truncated(x, y)


def truncated(x: Tensor, y: Tensor) -> Tensor:
    """The quotient of integers without its fraction."""
    # PyTorch ends the whole process where -2**31 is divided by -1.
    minus = y == -1
    return torch.where(minus, -x, torch.div(x, torch.where(minus, 1, y), rounding_mode="trunc"))
