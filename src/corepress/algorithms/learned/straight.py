"""Straight-through rounding: forward what is stored, backward as if nothing had been rounded.

Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons" (arXiv 1308.3432); for look-up
tables Malinovskii et al. 2024, "PV-Tuning" (arXiv 2405.14852): an element's gradient goes to the latent number whose
nearest entry it takes, and, summed over all elements that take the same entry, to that entry.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Distances from points to entries that are in memory at once.
_DISTANCES = 1 << 24


def nearest(points: Tensor, table: Tensor) -> Tensor:
    """For each point the number of its nearest entry: points (groups, n, d), table (groups, entries, d), to (groups, n)
    of int64. Of entries that are equally near, the first of those with the smallest number, or for scalars the smaller.
    """
    if table.shape[-1] == 1:
        ordered, order = table[..., 0].sort(dim=-1, stable=True)
        edges = (ordered[:, 1:] + ordered[:, :-1]) / 2
        return order.gather(1, torch.searchsorted(edges.contiguous(), points[..., 0].contiguous()))
    squares = (table * table).sum(-1)[:, None]
    rows = max(1, _DISTANCES // (len(table) * table.shape[1]))
    parts = [torch.baddbmm(squares, part, table.mT, alpha=-2).argmin(-1) for part in torch.split(points, rows, 1)]
    return torch.cat(parts, 1)


def look_up(table: Tensor, codes: Tensor) -> Tensor:
    """The entries with these numbers: table (groups, entries, d), codes (groups, n), to (groups, n, d)."""
    return table.gather(1, codes[..., None].expand(*codes.shape, table.shape[-1]))


class _Assigned(Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor) -> Tensor:
        codes = nearest(points, table)
        ctx.codes, ctx.entries = codes.to(torch.uint8) if table.shape[1] <= 256 else codes, table.shape[1]
        return look_up(table, codes)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        groups, _, dim = gradient.shape
        places = ctx.codes.long()[..., None].expand(gradient.shape)
        return gradient, gradient.new_zeros(groups, ctx.entries, dim).scatter_add_(1, places, gradient)


def assigned(points: Tensor, table: Tensor) -> Tensor:
    """Each point's nearest entry, with gradients for both: points (groups, n, d), table (groups, entries, d)."""
    return _Assigned.apply(points, table)  # type: ignore[no-any-return, no-untyped-call]


class _Rounded(Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((numbers > low - 0.5) & (numbers < high + 0.5))
        return numbers.round().clamp(low, high)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


def rounded(numbers: Tensor, low: float, high: float) -> Tensor:
    """Whole numbers from `low` to `high`. Where a number is cut off at an end it has no gradient."""
    return _Rounded.apply(numbers, low, high)  # type: ignore[no-any-return, no-untyped-call]


class _Cast(Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return numbers.to(dtype).to(numbers.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def cast(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """What numbers are when they are stored in a type of fewer bits."""
    return _Cast.apply(numbers, dtype)  # type: ignore[no-any-return, no-untyped-call]
