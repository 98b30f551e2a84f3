"""What `torch.compile` must not look into. Import it on first use: marking a function imports PyTorch's compiler,
which takes seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def uncompiled(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """`function(tensor)`, as Python runs it."""
    return function(tensor)
