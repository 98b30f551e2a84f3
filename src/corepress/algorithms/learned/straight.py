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

from corepress.kernels.lookup import take_entries
from corepress.kernels.lut import sum_by_code

# Distances from points to entries that are in memory at once.
_DISTANCES = 1 << 24


def taken(points: Tensor, step: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """For each point the number of its nearest entry, int64 (groups, n), and that entry, (groups, n, d).

    `points`: (groups, n, d), in units of `step`, (groups, 1, 1). `table`: (groups, entries, d). Of entries that are
    equally near, the first of those with the smallest number, or for scalars the smaller.
    """
    if table.shape[-1] > 1:
        codes = _nearest_vectors(points * step, table)
        return codes, table.gather(1, codes[..., None].expand(*codes.shape, table.shape[-1]))
    codes, dense, order = _take(points, step, table)
    return order.gather(1, codes.long()), dense


def _nearest_vectors(points: Tensor, table: Tensor) -> Tensor:
    squares = (table * table).sum(-1)[:, None]
    rows = max(1, _DISTANCES // (len(table) * table.shape[1]))
    parts = [torch.baddbmm(squares, part, table.mT, alpha=-2).argmin(-1) for part in torch.split(points, rows, 1)]
    return torch.cat(parts, 1)


def _take(points: Tensor, step: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of scalars the number of the nearest entry among those in ascending order, the entry, and that order."""
    ordered, order = table[..., 0].sort(dim=-1, stable=True)
    edges = (ordered[:, 1:] + ordered[:, :-1]) / (2 * step[..., 0])
    if points.device.type != "cpu":
        found = torch.searchsorted(edges.contiguous(), points[..., 0].contiguous())
        return found, ordered.gather(1, found)[..., None], order
    arrays = (tensor.detach().contiguous().numpy() for tensor in (points[..., 0], edges, ordered))
    codes, dense = (torch.from_numpy(found) for found in take_entries(*arrays))
    return codes, dense[..., None], order


class _Assigned(Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, step: Tensor, table: Tensor) -> Tensor:
        if table.shape[-1] > 1:
            codes, dense = taken(points, step, table)
            order = None
        else:
            codes, dense, order = _take(points, step, table)
        ctx.codes, ctx.order, ctx.step = codes.to(torch.uint8) if table.shape[1] <= 256 else codes, order, step
        ctx.entries = table.shape[1]
        return dense

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        sums = _sums(gradient, ctx.codes, ctx.entries)
        if ctx.order is not None:
            sums = torch.empty_like(sums).scatter_(1, ctx.order[..., None], sums)
        return gradient * ctx.step, None, sums


def _sums(values: Tensor, codes: Tensor, entries: int) -> Tensor:
    """The sum of the values (groups, n, d) of each code: (groups, entries, d)."""
    groups, count, dim = values.shape
    if values.device.type != "cpu" or dim > 1 or not count:
        places = codes.long()[..., None].expand(values.shape)
        return values.new_zeros(groups, entries, dim).scatter_add_(1, places, values)
    rows = values.reshape(groups, 1, count).contiguous().numpy()
    return torch.from_numpy(sum_by_code(rows, codes.numpy(), (groups, entries, 1))).to(values.dtype)


def assigned(points: Tensor, step: Tensor, table: Tensor) -> Tensor:
    """Each point's nearest entry (see `taken`), with gradients for the points and the table."""
    return _Assigned.apply(points, step, table)  # type: ignore[no-any-return, no-untyped-call]


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
