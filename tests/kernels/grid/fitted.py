"""Methods fitted to inputs: the sweep over columns, and tables fitted to outputs.

Where all factors are powers of two, each product is exact, and fused with the addition after it or not, the bits are
the same. Elsewhere they may differ, and one rounding that goes the other way moves all columns after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from corepress.algorithms.fitted import lut_gptq
from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.grid import Grid
from corepress.algorithms.fitted.hessian import Factor
from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian
from corepress.algorithms.fitted.sparsegpt import sparsegpt
from corepress.algorithms.fitted.sweep import settle_in_kernel, sweep
from tests.kernels.grid.cases import Array, Case
from tests.kernels.grid.numbers import bell, heavy, integers, powers

GRIDS: dict[str, dict[str, Any]] = {
    "no grid": {},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4, "symmetric": False},
    "4 bits in blocks": {"bits": 4, "block_size": 8},
    "3 bits for all": {"bits": 3, "per_tensor": True},
    "float of 4 bits": {"bits": 4, "normal_float": True},
    "float of 3 bits": {"bits": 3, "normal_float": True, "block_size": 4},
}


def triangle(seed: int, size: int, exact: bool) -> Array:
    """Upper triangular. Exact: powers of two, of which only neighbours on the diagonal of blocks of two are not 0."""
    if not exact:
        upper = np.triu(bell(seed, (size, size), 2.0**-17), 1) + np.eye(size)
        return (upper * (1 + integers(seed, 0, 7, (size, 1)) / 8)).astype(np.float32)
    return np.triu(powers(seed, -6, -2, (size, size)), 1) + np.diag(np.abs(powers(seed, -1, 1, (size,))))


def settled(size: int, rows: int, how: dict[str, Any], masked: str, exact: bool) -> tuple[tuple[Array, ...], float]:
    """`settle_in_kernel` on one group of columns: what it leaves, and the squared error of the outputs."""
    weight = torch.from_numpy(bell(size + rows, (rows, size)).astype(np.float32))
    grid = Grid(weight, **how) if how else None
    target, inverse = weight.T.contiguous(), triangle(size, size, exact)
    levels = torch.zeros(target.shape if grid else (size, 0), dtype=torch.uint8)
    kept = None if masked == "all" else torch.from_numpy(integers(rows, 0, 3, (size, rows)) > 0)
    n_m = (2, 4) if masked == "2:4" else (0, 0)
    masks = None if kept is None else kept[None]
    settle_in_kernel(target[None], torch.from_numpy(inverse)[None], masks, n_m, grid, slice(0, size), levels[None])
    results = (target.numpy(), levels.numpy(), *(() if kept is None else (kept.numpy(),)))
    change = (weight.T - target).double().numpy()
    # With H = V V^T and U the inverse of V: the error is |V^T d|^2.
    outputs = np.linalg.solve(inverse.T.astype(np.float64), change)
    return results, float((outputs * outputs).sum())


def settling_exactly() -> Iterator[Case]:
    for name, how in GRIDS.items():
        for masked in ("all", "some", "2:4"):
            for size, rows in ((8, 1), (8, 64), (24, 100), (64, 130), (128, 65)):
                results, _ = settled(size, rows, how, masked, exact=True)
                yield Case(f"{name}, {masked}, {size} x {rows}", results)


def settling() -> Iterator[Case]:
    for name, how in GRIDS.items():
        for masked in ("all", "some", "2:4"):
            results, error = settled(64, 320, how, masked, exact=False)
            yield Case(f"{name}, {masked}", results, error)


def sweeping() -> Iterator[Case]:
    """The whole sweep, the columns in an order of their own, with blocks of two that all arithmetic leaves exact."""
    size = 32
    pairs = np.zeros((size, size), np.float32)
    even = np.arange(0, size, 2)
    pairs[even, even + 1] = powers(3, -4, -1, (size // 2,))
    factor = Factor(
        torch.from_numpy(pairs + np.eye(size, dtype=np.float32)), torch.from_numpy(np.arange(size)[::-1].copy())
    )
    for name, how in GRIDS.items():
        weight = torch.from_numpy(bell(4, (50, size)).astype(np.float32))
        for sparsity, n_m in ((0.0, (0, 0)), (0.3, (0, 0)), (0.5, (0, 0)), (0.0, (1, 4))):
            grid = Grid(weight, **how) if how else None
            found = sweep(weight, factor, group_size=8, grid=grid, sparsity=sparsity, n_m=n_m)
            results = found if grid else (found[0], found[2])
            yield Case(f"{name}, {sparsity}, {n_m}", tuple(part.contiguous().numpy() for part in results))


def feedback() -> Iterator[Case]:
    """Indices column by column, exact by powers of two: one block of columns, so that no matrices are multiplied."""
    for dim in (1, 2, 4):
        for groups in (1, 3):
            for entries in (2, 16, 256):
                vectors = bell(dim, (36, dim, 70)).astype(np.float32)
                tables = bell(entries, (groups, entries, dim)).astype(np.float32)
                codes = lut_gptq._feedback(vectors, triangle(5, 70, exact=True), tables)
                yield Case(f"{groups} tables of {entries} vectors of {dim}", (codes,))


def descent() -> Iterator[Case]:
    """One round of coordinate descent. Rows come in pairs with opposite errors: the tables are at their best already,
    and with integers everywhere all sums are exact."""
    size = 24
    hessian = np.triu(powers(7, -3, -1, (size, size)), 1)
    hessian = hessian + hessian.T + 2 * np.eye(size, dtype=np.float32)
    for dim in (1, 2, 4):
        for groups in (1, 3):
            for entries in (2, 16, 256):
                tables = integers(entries, -64, 64, (groups, entries, dim), "float32")
                codes = np.repeat(integers(dim, 0, entries - 1, (18, size), "uint8"), 2, axis=0)
                error = np.repeat(integers(8, -32, 32, (18, dim, size), "float32"), 2, axis=0)
                error[1::2] *= -1
                vectors = lut_gptq._look_up(tables, codes) + error
                found = lut_gptq._descend(vectors, hessian, codes.copy(), tables, 1)
                yield Case(f"{groups} tables of {entries} vectors of {dim}", (vectors, *found))


def hessian_of(size: int) -> Array:
    inputs = heavy(1, (4 * size, size), 2.0**-39) + bell(2, (4 * size, 1), 2.0**-14)
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def whole() -> Iterator[Case]:
    """The methods from end to end, whose matrix products and factors are those of the machine's libraries."""
    size, rows = 96, 128
    hessian, weight = hessian_of(size), bell(3, (rows, size)).astype(np.float32)
    given: Any = (torch.from_numpy(weight), torch.from_numpy(hessian))
    forms = {f"gptq, {name}": gptq(*given, **how) for name, how in GRIDS.items() if how}
    forms["gptq, searched"] = gptq(*given, bits=4, scale_search=True)
    forms["sparsegpt"] = sparsegpt(*given)
    forms["sparsegpt, 2:4, 4 bits"] = sparsegpt(*given, n_m_ratio=(2, 4), bits=4)
    for bits, groups, dim in ((2, 0, 1), (4, 32, 1), (4, 0, 2)):
        forms[f"tables, {bits} bits of {dim}"] = palettize_by_hessian(
            weight, hessian, bits, group_size=groups, cluster_dim=dim
        )
    for name, form in forms.items():
        change = (form.decompress() - weight).astype(np.float64)
        yield Case(
            name, (form,), float(np.einsum("ri,ij,rj->", change, hessian.astype(np.float64), change, optimize=True))
        )


GROUPS = (settling_exactly, settling, sweeping, feedback, descent, whole)
