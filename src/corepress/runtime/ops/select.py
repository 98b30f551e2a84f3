"""A choice for each element."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.registry import operation


@operation
def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    # Without values to choose from, the documentation wants the places where the condition holds.
    return cond.nonzero().int() if a is None or b is None else torch.where(cond, a, b)
