"""Operations of PyTorch that coreai-torch does not know, made of those that it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from corepress.errors import importing

aten = torch.ops.aten


def _remainder(x: Tensor, divisor: float) -> Tensor:
    found: Tensor = aten.remainder.Tensor(x, torch.full_like(x, divisor))
    return found


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    below = torch.expm1(x * input_scale) * (alpha * scale)
    return torch.where(x > 0, x * scale, below)


def _scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    found: Tensor = aten.scatter.reduce(x, dim, index, source, reduce="add")
    return found


# By the operation; each takes its arguments.
OWN: dict[Any, Callable[..., Any]] = {
    aten.remainder.Scalar: _remainder,
    aten.elu.default: _elu,
    aten.scatter_add.default: _scatter_add,
}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `ExportedProgram.run_decompositions`."""
    with importing("a migration to Core AI"):
        import coreai_torch

    return {**coreai_torch.get_decomp_table(), **OWN}
