"""One pass over the columns of a weight: each is pruned or rounded, and those after it make up for the error.

The columns go in groups. One matrix product brings the errors of all earlier groups into a group; within it, columns
are settled one by one (arXiv 2210.17323, section 3.3, step 2; `hessian` explains the product). Rows don't know of
each other: on a CPU a kernel takes 64 at a time, so that they and the group's part of the factor stay in the cache.
"""

from __future__ import annotations

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
    """Settle all columns of a weight, (rows, columns) float32, in the order of `factor`.

    `grid`: to round to; None leaves what is kept as it is. `refit`: find its scales anew as its blocks are reached.
    `keep`: bool, of the weight's shape; False for what must be zero. `sparsity`: the fraction of each group of columns
    to prune, those that cost least. `n_m`: prune so many of every so many columns of each row.
    Gives the values (float32), the levels (uint8, of use with a grid only) and what was kept (bool), of the weight's
    shape.
    """
    order = torch.arange(weight.shape[1], device=weight.device) if factor.order is None else factor.order
    original = weight.T[order].contiguous()
    values, difference = torch.empty_like(original), torch.empty_like(original)
    levels = torch.empty(original.shape if grid else (len(original), 0), dtype=torch.uint8, device=weight.device)
    kept = torch.ones_like(original, dtype=torch.bool) if keep is None else keep.T[order].contiguous()
    masked = keep is not None or sparsity > 0 or n_m[1] > 0
    settle_group = settle_in_kernel if weight.device.type == "cpu" else settle_in_torch
    for first in range(0, len(original), group_size):
        stop = min(first + group_size, len(original))
        part, reach = slice(first, stop), max(stop, grid.reach(stop)) if grid and refit else stop
        upper = factor.upper[first:reach, first:reach]
        inverse = torch.linalg.solve_triangular(upper, torch.eye(len(upper), device=upper.device), upper=True)
        target = original[first:reach].clone()
        if first:
            target.addmm_(inverse.T, factor.upper[:first, first:reach].T @ difference[:first])
        if grid and refit:
            grid.refit(first, stop, target)
        target = target[: stop - first]
        if sparsity:
            kept[part] &= _dearest(target, upper.diagonal()[: len(target)], sparsity)
        inverse = inverse[: len(target), : len(target)].contiguous()
        settle_group(target, inverse, kept[part] if masked else None, n_m, grid, part, levels[part])
        values[part] = target
        torch.sub(original[part], target, out=difference[part])
    back = torch.argsort(order)
    return values[back].T, levels[back].T, kept[back].T


def _dearest(target: Tensor, diagonal: Tensor, sparsity: float) -> Tensor:
    """All but the fraction of values whose removal adds least to the error, (w / U_cc)^2 each (arXiv 2301.00774)."""
    cost = (target * diagonal[:, None]).abs_()
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
    """Settle the group `part` of columns, (columns, rows), in place: in `target` its values, `levels` and `kept`.

    `inverse`: the group's block of U.
    """
    pruned, of = n_m
    for i in range(len(target)):
        if kept is not None and of and i % of == 0:
            cost = (target[i : i + of] / inverse.diagonal()[i : i + of, None]).abs_()
            cost.masked_fill_(~kept[i : i + of], -1)
            kept[i : i + of].scatter_(0, cost.topk(pruned, dim=0, largest=False).indices, False)
        wanted = target[i].clone()
        if kept is not None:
            target[i] *= kept[i]
        if grid:
            target[i], levels[i] = grid.round(target[i], int(grid.block_of[part.start + i]))
        target[i + 1 :] -= torch.outer(inverse[i, i + 1 :] / inverse[i, i], wanted - target[i])


def settle_in_kernel(
    target: Tensor, inverse: Tensor, kept: Tensor | None, n_m: tuple[int, int], grid: Grid | None, part: slice,
    levels: Tensor,
) -> None:  # fmt: skip
    """The same on a CPU, in threads."""
    own = None
    if grid is not None:
        fixed = grid.scale.numpy(), grid.zero.numpy(), grid.block_of[part].numpy()
        own = Levels(*fixed, grid.top, grid.palette.numpy())
    mask = None if kept is None else kept.numpy()
    arrays = target.numpy(), inverse.numpy(), mask, n_m, own, levels.numpy()
    over_rows(target.shape[1], torch.get_num_threads(), lambda first, last: settle(*arrays, first, last), LANES)
