"""GPTQ: the columns of a weight are rounded one after another, and those that follow make up for the error.

Frantar, Ashkboos, Hoefler, Alistarh 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (arXiv 2210.17323), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress.algorithms.fitted.grid import Grid
from corepress.algorithms.fitted.hessian import Factor, factorize
from corepress.algorithms.fitted.sweep import sweep
from corepress.errors import DataError
from corepress.weights.forms import Quantized, Sparse

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int = 8,
    symmetric: bool = True,
    float_zero: bool = False,
    per_tensor: bool = False,
    block_size: int | None = None,
    normal_float: bool = False,
    by_activation: bool = False,
    static_blocks: bool | None = None,
    processing_group_size: int = 128,
    dampening: float = 0.01,
    scale_search: bool = False,
    keep: Tensor | None = None,
    factor: Factor | None = None,
) -> Quantized:
    """Round a weight, (rows, columns) of any floating-point type, so that its layer's output changes little.

    `hessian`: (columns, columns) float32, see `hessian.Hessian`. Of a grouped convolution both may have an axis of
    groups before these, and what is said of a tensor is so of all groups together. `bits`: 1 to 8. `symmetric`: the
    zero point is the middle level, else wherever the range of a block wants it; with `float_zero` between levels, too.
    `per_tensor`: all rows have the same scale, which is stored for each. `block_size`: so many columns share a scale;
    None, all. `normal_float`: the levels are quantiles of the normal distribution instead of evenly spaced, 3 or 4
    bits. `by_activation`: the columns of the largest inputs first. `static_blocks`: take the scales of blocks from the
    weight as given, not as it is when a block is reached; by default with `by_activation`, which needs it.
    `scale_search`: of several scales those of least error in each row, see `best_of`; six times the work. `keep`: bool,
    of the weight's shape, False for what is and stays zero. `factor`: of this Hessian, if it is known already.

    Gives uint8 levels (rows of all groups, columns) with scale and zero point (rows, blocks), or for a normal float
    indices into one palette under a scale; scales in float16 for a float16 weight, else in float32. Columns whose input
    was always zero are rounded to nearest. Raises ConfigError if blocks don't divide the columns, CorepressError if the
    weight or the Hessian holds infinities or NaN, or if the Hessian can't be factorized.
    """
    values = finite(weight)
    factor = factor or factorize(hessian, dampening, by_activation)
    refit = block_size is not None and factor.order is None and not static_blocks

    def make(**how: Any) -> Grid:
        grid = Grid(
            values.flatten(0, -2),
            bits=bits,
            symmetric=symmetric,
            float_zero=float_zero,
            per_tensor=per_tensor,
            block_size=block_size,
            normal_float=normal_float,
            scale_type=scale_type(weight),
            **how,
        )
        if factor.order is not None:
            grid.block_of = grid.block_of[factor.order]
        return grid

    def settle(grid: Grid) -> tuple[Tensor, Tensor]:
        return sweep(values, factor, group_size=processing_group_size, grid=grid, refit=refit, keep=keep)[:2]

    if scale_search:
        grid, _, levels = best_of(make, settle, values, hessian, factor)
    else:
        grid = make()
        levels = settle(grid)[1]
    return grid.form(levels.flatten(0, -2))


def best_of(
    make: Callable[..., Grid],
    settle: Callable[[Grid], tuple[Tensor, Tensor]],
    weight: Tensor,
    hessian: Tensor,
    factor: Factor,
) -> tuple[Grid, Tensor, Tensor]:
    """The grid, values and levels with the least output error in each row, of several shares of the range and of the
    scales whose squared error, weighed by the Hessian's diagonal, is least.

    `settle`: gives values and levels on a grid. Rows don't know of each other, so that each takes its own; with
    one scale for the tensor all take the same. The whole range is among the tries: no row gets worse by the search.
    """
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    live = (diagonal != 0)[..., None, :]
    importance = diagonal if weight.dim() == 2 else diagonal.repeat_interleave(weight.shape[1], 0)
    best, least = make(), torch.full_like(weight[..., 0], torch.inf)
    best_values, best_levels = weight, torch.zeros_like(weight, dtype=torch.uint8)
    for how in [{"share": share} for share in _SHARES] + [{"importance": importance}]:
        grid = make(**how)
        values, levels = settle(grid)
        change = (values - weight) * live
        if factor.order is not None:
            change = change.gather(-1, factor.order[..., None, :].expand_as(change))
        error = (change @ factor.upper).square().sum(-1)
        error = error.sum().expand_as(error) if grid.per_tensor else error
        better = error < least
        best.adopt(grid, better.flatten())
        best_values, best_levels = (
            torch.where(better[..., None], *pair) for pair in ((values, best_values), (levels, best_levels))
        )
        least = torch.minimum(error, least)
    return best, best_values, best_levels


def finite(weight: Tensor) -> Tensor:
    """A weight in float32; CorepressError if it holds infinities or NaN."""
    values = weight.detach().float()
    if not torch.isfinite(values).all():
        raise DataError("the weight holds infinities or NaN")
    return values


def scale_type(weight: Tensor) -> torch.dtype:
    return torch.float16 if weight.dtype is torch.float16 else torch.float32


def integers(form: Any, *, signed: bool, symmetric: bool, one_scale: bool) -> Any:
    """The levels of `gptq`, 0 to 2**bits - 1, as Core ML has them; `form`: `Quantized`, or a `Sparse` of it.

    `signed`: around zero, whose offset is left out if `symmetric`. `one_scale`: all rows have the same, which is stored
    once.
    """
    if isinstance(form, Sparse):
        return Sparse(form.mask, integers(form.values, signed=signed, symmetric=symmetric, one_scale=one_scale))
    first = (slice(0, 1),) * form.data.ndim if one_scale else ...
    data, scale, offset = form.data, form.scale[first], form.offset[first]
    if signed:
        middle = 2 ** (form.bits - 1)
        data = (data.astype(np.int16) - middle).astype(np.int8)
        whole = offset.dtype.kind == "u"
        offset = (offset.astype(np.int16) - middle).astype(np.int8) if whole else offset - offset.dtype.type(middle)
    return Quantized(data, scale, None if signed and symmetric else offset, bits=form.bits)
