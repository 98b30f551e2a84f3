"""SparseGPT: the weights that matter least become zero, and those that follow in their row make up for the loss.

Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot"
(arXiv 2301.00774), Algorithm 1 and section 3.4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from corepress.algorithms.fitted.gptq import best_of, finite, scale_type
from corepress.algorithms.fitted.grid import Grid, numpy_of
from corepress.algorithms.fitted.hessian import Factor, factorize
from corepress.algorithms.fitted.sweep import sweep
from corepress.errors import ConfigError
from corepress.weights.forms import Sparse


def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    *,
    sparsity: float = 0.5,
    n_m_ratio: tuple[int, int] | None = None,
    bits: int | None = None,
    symmetric: bool = True,
    per_tensor: bool = False,
    normal_float: bool = False,
    processing_group_size: int = 128,
    dampening: float = 0.01,
    scale_search: bool = False,
    factor: Factor | None = None,
) -> Sparse:
    """Prune a weight, (rows, columns) of any floating-point type, so that its layer's output changes little.

    `hessian`: (columns, columns) float32, see `hessian.Hessian`. Of a grouped convolution both may have an axis of
    groups before these; the rows of all groups are pruned together, where it costs least. `sparsity`: the fraction of
    zeros in each group of `processing_group_size` columns. `n_m_ratio`: instead, n zeros among every m columns of each
    row. `bits`: what is kept is also rounded, see `gptq` for this and for the other arguments; None leaves it as it is.

    Gives the mask of what was kept, (rows of all groups, columns), with dense float32 values (float16 for a float16
    weight), or with a `Quantized`. Columns whose input was always zero are pruned first. Raises ConfigError if m
    doesn't divide the columns, and CorepressError as `gptq` does.
    """
    original = finite(weight)
    n, m = n_m_ratio or (0, 0)
    if m and weight.shape[-1] % m:
        raise ConfigError(f"groups of {m}, of which {n} are pruned, don't divide its {weight.shape[-1]} input columns")
    values = original.masked_fill((hessian.diagonal(dim1=-2, dim2=-1) == 0)[..., None, :], 0)
    factor = factor or factorize(hessian, dampening)
    size = processing_group_size if not m else max(m, processing_group_size // m * m)

    def make(**how: Any) -> Grid:
        return Grid(
            original.flatten(0, -2),
            bits=bits or 8,
            symmetric=symmetric,
            per_tensor=per_tensor,
            normal_float=normal_float,
            scale_type=scale_type(weight),
            **how,
        )

    def settle(grid: Grid) -> tuple[Tensor, Tensor]:
        return sweep(values, factor, group_size=size, grid=grid, keep=kept)[:2]

    grid = None if bits is None else make()
    found, levels, kept = sweep(values, factor, group_size=size, grid=grid, sparsity=0.0 if m else sparsity, n_m=(n, m))
    if grid and scale_search:
        grid, found, levels = best_of(make, settle, values, hessian, factor)
    # A value that was kept and rounded to zero needs no place among the stored ones.
    mask = numpy_of((kept & (found != 0)).flatten(0, -2))
    found = found.flatten(0, -2).to(scale_type(weight))
    return Sparse(mask, grid.form(levels.flatten(0, -2)) if grid else numpy_of(found))
