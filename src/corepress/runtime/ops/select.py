"""A choice for each element."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.registry import operation


@operation
def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    if a is None or b is None:
        # The documentation wants the places where the condition holds.
        return cond.nonzero().int()
    limits.check_broadcast(cond, a, b)
    return torch.where(cond, a, b)
