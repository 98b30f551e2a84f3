"""One pass over the columns of a weight: each is pruned or rounded, and those after it make up for the error.

The columns go in groups. One matrix product brings the errors of all earlier groups into a group; within it, columns
are settled one by one (arXiv 2210.17323, section 3.3, step 2; `hessian` explains the product). Rows don't know of
each other: on a CPU a kernel takes 64 at a time, so that they and the group's part of the factor stay in the cache.

A grouped convolution has a factor for each of its groups. Where these have fewer rows than the kernel takes at a time,
as those of a depthwise one, PyTorch settles a column of all groups at once.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from corepress.algorithms.fitted.grid import Grid
from corepress.algorithms.fitted.hessian import Factor
from corepress.kernels.sweep import LANES, Levels, settle, smallest
from corepress.threads import over_rows


def sweep(
    weight: Tensor,
    factor: Factor,
    *,
    group_size: int,
    grid: Grid | None = None,
    refit: bool = False,
    keep: Tensor | None = None,
    sparsity: float = 0.0,
    n_m: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Settle all columns of a weight, (rows, columns) float32, in the order of `factor`; or (groups, rows, columns) by
    the factors of all groups.

    `grid`: to round to, for the rows of all groups; None leaves what is kept as it is. `refit`: find its scales anew as
    its blocks are reached. `keep`: bool, of the weight's shape; False for what must be zero. `sparsity`: the fraction
    of each group of columns to prune, those that cost least in any row. `n_m`: prune so many of every so many columns
    of each row. Gives the values (float32), the levels (uint8, of use with a grid only) and what was kept (bool), of
    the weight's shape.
    """
    if weight.dim() == 2:
        one = Factor(factor.upper[None], None if factor.order is None else factor.order[None])
        how = {"group_size": group_size, "grid": grid, "refit": refit, "sparsity": sparsity, "n_m": n_m}
        found = sweep(weight[None], one, keep=None if keep is None else keep[None], **how)  # type: ignore[arg-type]
        return found[0][0], found[1][0], found[2][0]
    groups, rows, columns = weight.shape
    order = torch.arange(columns, device=weight.device) if factor.order is None else factor.order
    original = _reordered(weight.mT, order).contiguous()
    values, difference = torch.empty_like(original), torch.empty_like(original)
    levels = torch.empty((groups, columns if grid else 0, rows), dtype=torch.uint8, device=weight.device)
    kept = torch.ones_like(original, dtype=torch.bool) if keep is None else _reordered(keep.mT, order).contiguous()
    masked = keep is not None or sparsity > 0 or n_m[1] > 0
    many = groups == 1 or rows >= LANES
    settle_group = settle_in_kernel if weight.device.type == "cpu" and many else settle_in_torch
    for first in range(0, columns, group_size):
        stop = min(first + group_size, columns)
        part, reach = slice(first, stop), max(stop, grid.reach(stop)) if grid and refit else stop
        upper = factor.upper[:, first:reach, first:reach]
        inverse = torch.linalg.solve_triangular(upper, torch.eye(reach - first, device=upper.device), upper=True)
        target = original[:, first:reach].clone()
        if first:
            target.baddbmm_(inverse.mT, factor.upper[:, :first, first:reach].mT @ difference[:, :first])
        if grid and refit:
            grid.refit(first, stop, target.transpose(0, 1).reshape(reach - first, -1))
        target = target[:, : stop - first].contiguous()
        if sparsity:
            kept[:, part] &= _dearest(target, factor.diagonal[:, part], sparsity)
        inverse = inverse[:, : stop - first, : stop - first].contiguous()
        own_kept, own_levels = kept[:, part].contiguous(), levels[:, part].contiguous()
        settle_group(target, inverse, own_kept if masked else None, n_m, grid, part, own_levels)
        values[:, part], kept[:, part], levels[:, part] = target, own_kept, own_levels
        torch.sub(original[:, part], target, out=difference[:, part])
    back = torch.argsort(order, dim=-1)
    if grid:
        levels = _reordered(levels, back)
    return _reordered(values, back).mT, levels.mT, _reordered(kept, back).mT


def _reordered(matrices: Tensor, order: Tensor) -> Tensor:
    """(groups, columns, rows), in an order of the columns that all groups have, or each its own."""
    if order.dim() == 1:
        return matrices[:, order]
    return matrices.gather(1, order[..., None].expand_as(matrices))


def _dearest(target: Tensor, diagonal: Tensor, sparsity: float) -> Tensor:
    """All but the fraction of values whose removal adds least to the error, (w / U_cc)^2 each (arXiv 2301.00774)."""
    cost = (target * diagonal[..., None]).abs_()
    pruned = min(int(cost.numel() * sparsity), cost.numel() - 1)
    if cost.device.type == "cpu":
        limit = float(smallest(cost.numpy().reshape(-1), pruned))
    else:
        limit = float(cost.flatten().kthvalue(pruned + 1).values)
    # The one at the limit goes too, as with the authors and coremltools.
    return cost > limit


def settle_in_torch(
    target: Tensor, inverse: Tensor, kept: Tensor | None, n_m: tuple[int, int], grid: Grid | None, part: slice,
    levels: Tensor,
) -> None:  # fmt: skip
    """Settle the columns `part`, (groups, columns, rows), in place: in `target` their values, `levels` and `kept`.

    `inverse`: the part's block of U of each group, (groups, columns, columns).
    """
    pruned, of = n_m
    pivots = inverse.diagonal(dim1=1, dim2=2)
    for i in range(target.shape[1]):
        if kept is not None and of and i % of == 0:
            cost = (target[:, i : i + of] / pivots[:, i : i + of, None]).abs_()
            cost.masked_fill_(~kept[:, i : i + of], -1)
            kept[:, i : i + of].scatter_(1, cost.topk(pruned, dim=1, largest=False).indices, False)
        wanted = target[:, i].clone()
        if kept is not None:
            target[:, i] *= kept[:, i]
        if grid:
            target[:, i], levels[:, i] = grid.round(target[:, i], grid.block_of[..., part.start + i])
        share = inverse[:, i, i + 1 :] / pivots[:, i, None]
        target[:, i + 1 :] -= share[..., None] * (wanted - target[:, i])[:, None]


def settle_in_kernel(
    target: Tensor, inverse: Tensor, kept: Tensor | None, n_m: tuple[int, int], grid: Grid | None, part: slice,
    levels: Tensor,
) -> None:  # fmt: skip
    """The same on a CPU, group by group, its rows in threads."""
    rows = target.shape[2]
    for group in range(len(target)):
        own = None
        if grid is not None:
            of_group = slice(group * rows, (group + 1) * rows)
            fixed = (grid.scale[:, of_group].contiguous().numpy(), grid.zero[:, of_group].contiguous().numpy())
            blocks = grid.block_of[part] if grid.block_of.dim() == 1 else grid.block_of[group, part]
            own = Levels(*fixed, blocks.numpy(), grid.top, grid.palette.numpy())
        mask = None if kept is None else kept[group].numpy()
        arrays = target[group].numpy(), inverse[group].numpy(), mask, n_m, own, levels[group].numpy()
        over_rows(rows, torch.get_num_threads(), partial(settle, *arrays), LANES)
