"""Look-up tables fitted to the inputs of a layer: GPTQ on a grid that is a LUT, then descent to a local optimum.

With H = X X^T of a layer's inputs X, the squared error of its outputs is the sum over rows of (w - q)^T H (w - q).
Tables and indices come in four stages, of which the last two never increase this error and are repeated:

1. the tables: exact k-means, each column weighed by what an error costs once the columns after it make up for it;
2. the indices: column by column as in GPTQ (Frantar et al. 2022, arXiv 2210.17323), the rest absorbing each error;
3. the tables again, for given indices: a linear least-squares problem, by conjugate gradients;
4. the indices again, for given tables: each in turn takes its best entry while all others stay (coordinate descent).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from corepress.algorithms.fitted.hessian import factorize
from corepress.algorithms.lut import quantize_lut
from corepress.algorithms.palettize import palettize
from corepress.errors import ConfigError, DataError
from corepress.kernels.lut import descend, entries_of, feedback, sum_by_code
from corepress.threads import CORES, over_rows
from corepress.weights import Palettized

Array = NDArray[Any]
Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_BLOCK = 128
# A round that gains less than this fraction of the error is the last.
_ENOUGH = 2e-3
_CONJUGATE_STEPS = 2


def palettize_by_hessian(
    weight: Array,
    hessian: Array,
    bits: int,
    *,
    group_size: int = 0,
    cluster_dim: int = 1,
    lut_dtype: Literal["int8", "uint8"] | None = None,
    dampening: float = 0.01,
    rounds: int = 10,
) -> Palettized:
    """The `Palettized` form of a weight (rows, columns) of small squared error of the layer's outputs.

    `hessian`: (columns, columns), X X^T of the inputs up to a factor; symmetric, positive semidefinite. Of a grouped
    convolution (groups, columns, columns), each for equally many rows in turn, all by one factor. `group_size`: so
    many rows share a table; 0, all. `cluster_dim`: entries are vectors of that many neighbouring rows. `lut_dtype`:
    as which the entries are stored; None, as the weight's own type. `dampening`: this fraction of the mean of its
    diagonal is added to it, against fitting noise. `rounds`: of stages 3 and 4, at most.
    Raises ConfigError where groups or vectors don't divide the rows, CorepressError for infinities or NaN.
    """
    rows, columns = weight.shape
    size = group_size or rows
    if rows % size or size % cluster_dim:
        raise ConfigError(f"groups of {size} and vectors of {cluster_dim} don't divide the {rows} rows of the weight")
    if hessian.shape[-2:] != (columns, columns) or not np.isfinite(hessian).all():
        raise DataError(f"the statistics of the inputs are not a finite matrix of {columns} x {columns}")
    if hessian.ndim != 2 and (hessian.ndim != 3 or rows % (len(hessian) * cluster_dim)):
        raise ConfigError(f"inputs of {len(hessian)} groups and vectors of {cluster_dim} don't divide its {rows} rows")
    # Columns of great weight come first, while most others are left to make up for their errors.
    factor = factorize(torch.from_numpy(np.ascontiguousarray(hessian, np.float32)), dampening, by_activation=True)
    assert factor.order is not None
    order, unit, diagonal = (part.numpy() for part in (factor.order, factor.unit, factor.diagonal))
    values = np.ascontiguousarray(_ordered(weight, order), np.float32)

    importance = _for_each_row(np.square(diagonal.astype(np.float64)), rows)
    start = palettize(values, bits, group_size=group_size, cluster_dim=cluster_dim, importance=importance)
    tables = np.ascontiguousarray(start.lut, np.float32).reshape(rows // size, 2**bits, cluster_dim)
    vectors = values.reshape(-1, cluster_dim, columns)
    codes = _feedback(vectors, np.ascontiguousarray(unit), tables)
    damped = np.take_along_axis(_damped(hessian, dampening), order[..., None], -2)
    damped = np.ascontiguousarray(np.take_along_axis(damped, order[..., None, :], -1))
    codes, tables = _descend(vectors, damped, codes, tables, rounds)
    lut = tables.astype(weight.dtype if weight.dtype == np.float16 else np.float32)
    form = Palettized(_ordered(codes, np.argsort(order, axis=-1)), lut.reshape(start.lut.shape), start.vector_axis)
    return form if lut_dtype is None else quantize_lut(form, None, lut_dtype)


def _damped(hessian: Array, dampening: float) -> Floats:
    """As `factorize` does it."""
    damped = np.array(hessian, np.float32)
    diagonal = np.einsum("...ii->...i", damped)
    diagonal[diagonal == 0] = 1
    diagonal += dampening * diagonal.mean(-1, keepdims=True)
    return damped


def _for_each_row(values: Array, rows: int) -> Array:
    """(columns,) or (groups, columns), each for equally many rows in turn, as (rows, columns)."""
    if values.ndim == 1:
        return np.broadcast_to(values, (rows, len(values)))
    return np.repeat(values, rows // len(values), axis=0)


def _ordered(values: Array, order: Array) -> Array:
    """(rows, columns), in another order of the columns: one for all rows, or that of each group."""
    if order.ndim == 1:
        return values[:, order]
    return np.take_along_axis(values, _for_each_row(order, len(values)), 1)


def _feedback(vectors: Floats, unit: Floats, tables: Floats) -> Codes:
    """Stage 2. `vectors`: (n, dim, columns); `unit`: as in `hessian.Factor`. The indices: (n, columns)."""
    columns = vectors.shape[2]
    codes = np.empty((len(vectors), columns), np.uint8)
    errors = np.empty_like(vectors)
    for first in range(0, columns, _BLOCK):
        part = slice(first, min(first + _BLOCK, columns))
        target = vectors[..., part] + _times(errors[..., :first], unit[..., :first, part])
        errors[..., part] = vectors[..., part]
        own = np.ascontiguousarray(unit[..., part, part])
        _over_rows(len(vectors), partial(feedback, target, own, tables, codes, errors, first))
    return codes


def _descend(vectors: Floats, hessian: Floats, codes: Codes, tables: Floats, rounds: int) -> tuple[Codes, Floats]:
    """Stages 3 and 4, until they gain little."""
    # (w - q) H for the present q, kept up to date.
    pull = _times(vectors - _look_up(tables, codes), hessian)
    before = np.inf
    for _ in range(rounds):
        tables, pull = _fit_tables(pull, hessian, codes, tables)
        _over_rows(len(vectors), partial(descend, pull, hessian, tables, codes))
        error = float(np.vdot(vectors - _look_up(tables, codes), pull))
        if error > (1 - _ENOUGH) * before:
            break
        before = error
    return codes, tables


def _fit_tables(pull: Floats, hessian: Floats, codes: Codes, tables: Floats) -> tuple[Floats, Floats]:
    """Better tables, and their pull: a few conjugate gradients on A t = b, with A the sum of S^T H S, where S t looks
    up.

    Of their products, which are most of the work, the first gain nearly all: the next round goes on from there.
    """
    shape, rows = tables.shape, len(codes) // len(tables)
    residual = sum_by_code(pull, codes, shape)
    direction, square = residual, _per_table(residual, residual)
    for _ in range(_CONJUGATE_STEPS):
        along = direction.astype(np.float32)
        changed = _times(_look_up(along, codes), hessian)
        image = sum_by_code(changed, codes, shape)
        alpha = _ratio(square, _per_table(direction, image)).astype(np.float32)
        tables = tables + alpha * along
        pull = pull - np.repeat(alpha, rows, axis=0) * changed
        residual = residual - alpha * image
        previous, square = square, _per_table(residual, residual)
        direction = residual + _ratio(square, previous) * direction
    return tables, pull


def _per_table(one: Array, other: Array) -> Array:
    sums: Array = np.einsum("gkd,gkd->g", one, other)
    return sums[:, None, None]


def _ratio(one: Array, other: Array) -> Array:
    """One by the other, 0 where a table has come to its end."""
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)


def _times(vectors: Floats, matrix: Floats) -> Floats:
    """One product of matrices, or one for each group; NumPy would make one for each vector, and its last digits depend
    on its threads."""
    count, dim, columns = vectors.shape
    each = matrix.shape[:-2]
    rows = torch.from_numpy(vectors.reshape(*each, count * dim // math.prod(each), columns))
    product: Floats = (rows @ torch.from_numpy(matrix)).numpy()
    return product.reshape(count, dim, matrix.shape[-1])


def _look_up(tables: Floats, codes: Codes) -> Floats:
    """(n, dim, columns)"""
    found = np.empty((len(codes), tables.shape[2], codes.shape[1]), np.float32)
    _over_rows(len(codes), partial(entries_of, found, tables, codes))
    return found


def _over_rows(count: int, work: Callable[[int, int], None]) -> None:
    over_rows(count, min(CORES, max(1, count // 16)), work)
