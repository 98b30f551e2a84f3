"""One pass over the columns of a weight: each is pruned or rounded, and those after it make up for the error.

The columns go in groups. One matrix product brings the errors of all earlier groups into a group; within it, columns
are settled one by one (arXiv 2210.17323, section 3.3, step 2; `hessian` explains the product). Rows don't know of
each other: on a CPU a kernel takes 64 at a time, so that they and the group's part of the factor stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import corepress.weights.cache  # noqa: F401  (before anything is compiled)
from corepress.algorithms.grid import Grid
from corepress.algorithms.hessian import Factor
from corepress.algorithms.threads import over_rows

LANES = 64
Array = NDArray[Any]


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
    settle = settle_in_kernel if weight.device.type == "cpu" else settle_in_torch
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
        settle(target, inverse, kept[part] if masked else None, n_m, grid, part, levels[part])
        values[part] = target
        torch.sub(original[part], target, out=difference[part])
    back = torch.argsort(order)
    return values[back].T, levels[back].T, kept[back].T


def _dearest(target: Tensor, diagonal: Tensor, sparsity: float) -> Tensor:
    """All but the fraction of values whose removal adds least to the error, (w / U_cc)^2 each (arXiv 2301.00774)."""
    cost = (target * diagonal[:, None]).abs_()
    pruned = min(int(cost.numel() * sparsity), cost.numel() - 1)
    if cost.device.type == "cpu":
        limit = float(np.uint32(_smallest(cost.numpy().reshape(-1).view(np.uint32), pruned)).view(np.float32))
    else:
        limit = float(cost.flatten().kthvalue(pruned + 1).values)
    # The one at the limit goes too, as with the authors and coremltools.
    return cost > limit


@numba.njit(nogil=True, cache=True)
def _smallest(bits: NDArray[np.uint32], k: int) -> np.uint32:
    """The element that sorting would bring to place `k`: bits of floats >= 0 are ordered as these are."""
    found, left = np.uint32(0), k
    for shift in (np.uint32(16), np.uint32(0)):
        counts = np.zeros(1 << 16, np.int64)
        for value in bits:
            if shift == 16 or value >> np.uint32(16) == found >> np.uint32(16):
                counts[(value >> shift) & np.uint32(0xFFFF)] += 1
        half = 0
        while counts[half] <= left:
            left -= counts[half]
            half += 1
        found |= np.uint32(half) << shift
    return found


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
    rows = target.shape[1]
    nothing = np.empty((0, 0), np.float32)
    mask = np.empty((0, 0), np.bool_) if kept is None else kept.numpy()
    if grid is None:
        scale, zero, block_of, top, palette = nothing, nothing, np.empty(0, np.int64), 0, nothing.reshape(-1)
    else:
        scale, zero, block_of = grid.scale.numpy(), grid.zero.numpy(), grid.block_of[part].numpy()
        top, palette = grid.top, grid.palette.numpy()
    fixed = (
        target.numpy(), inverse.numpy(), mask, *n_m,
        scale, zero, block_of, np.float32(top), palette, levels.numpy(),
    )  # fmt: skip

    def work(first: int, last: int) -> None:
        _settle(*fixed, first, last)  # type: ignore[call-arg, arg-type]

    over_rows(rows, torch.get_num_threads(), work, LANES)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _settle(
    target: Array, inverse: Array, kept: Array, pruned: int, of: int, scale: Array, zero: Array, block_of: Array,
    top: np.float32, palette: Array, levels: Array, start: int, stop: int,
) -> None:  # fmt: skip
    columns = target.shape[0]
    tile = np.empty((columns, LANES), np.float32)
    error = np.empty(LANES, np.float32)
    for first in range(start, stop, LANES):
        lanes = min(LANES, stop - first)
        # Row by row in the tile: in the weight, rows of a power of two would share a few lines of the cache.
        for i in range(columns):
            for lane in range(lanes):
                tile[i, lane] = target[i, first + lane]
        for i in range(columns):
            if of > 0 and i % of == 0:
                _prune(tile, inverse, kept, pruned, i, min(i + of, columns), first, lanes)
            value = tile[i]
            for lane in range(lanes):
                error[lane] = value[lane]
            if kept.size > 0:
                for lane in range(lanes):
                    value[lane] *= np.float32(kept[i, first + lane])
            if block_of.size > 0:
                block = block_of[i]
                if palette.size > 0:
                    _look_up(value, scale[block], palette, levels[i], first, lanes)
                else:
                    _round(value, scale[block], zero[block], top, levels[i], first, lanes)
            for lane in range(lanes):
                error[lane] -= value[lane]
            for j in range(i + 1, columns):
                share = inverse[i, j] / inverse[i, i]
                for lane in range(lanes):
                    tile[j, lane] -= error[lane] * share
        for i in range(columns):
            for lane in range(lanes):
                target[i, first + lane] = tile[i, lane]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _round(value: Array, scale: Array, zero: Array, top: np.float32, levels: Array, first: int, lanes: int) -> None:
    for lane in range(lanes):
        size, shift = scale[first + lane], zero[first + lane]
        level = min(max(np.rint(value[lane] / size) + shift, np.float32(0)), top)
        value[lane] = size * (level - shift)
        levels[first + lane] = np.uint8(np.int32(level))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _look_up(value: Array, scale: Array, palette: Array, levels: Array, first: int, lanes: int) -> None:
    for lane in range(lanes):
        ratio, level = value[lane] / scale[first + lane], 0
        for k in range(palette.size - 1):
            level += ratio > (palette[k] + palette[k + 1]) / np.float32(2)
        value[lane] = scale[first + lane] * palette[level]
        levels[first + lane] = np.uint8(level)


@numba.njit(nogil=True, cache=True)
def _prune(tile: Array, inverse: Array, kept: Array, pruned: int, begin: int, end: int, first: int, lanes: int) -> None:
    """Of the columns `begin` to `end` of each row, give up the cheapest; those that are zero already count."""
    cost = np.empty(end - begin, np.float32)
    for lane in range(lanes):
        for i in range(begin, end):
            cost[i - begin] = abs(tile[i, lane] / inverse[i, i]) if kept[i, first + lane] else np.float32(-1)
        for _ in range(min(pruned, end - begin)):
            cheapest = cost.argmin()
            cost[cheapest] = np.inf
            kept[begin + cheapest, first + lane] = False
