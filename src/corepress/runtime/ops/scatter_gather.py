"""Operations that read or write elements at computed indices.

Up to iOS16 negative indices count from the end. As of iOS17 they are out of bounds, and what happens to an index out
of bounds is left open unless the program asks for `validate_indices`; so one rule serves all: indices wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.ops.elementwise_binary import truncated
from corepress.runtime.ops.tensor_transformation import like, signed
from corepress.runtime.registry import operation


@operation
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    axis %= x.ndim
    index = _wrap(indices, x.shape[axis], validate_indices)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    shape = (*before, *index.shape[batch_dims:], *after)
    limits.check(*shape)
    if batch_dims == 0:
        # Where samples are taken together, `index_select` makes a copy of a table for each of them; on other axes than
        # the first it is twice as fast.
        taken = signed(x)[index.flatten()] if axis == 0 else signed(x).index_select(axis, index.flatten())
        return like(taken, x).reshape(shape)
    batches = math.prod(x.shape[:batch_dims])
    rows = x.reshape(batches, math.prod(x.shape[batch_dims:axis]), x.shape[axis], math.prod(after))
    batch = torch.arange(batches, device=x.device)[:, None]
    taken = rows[batch, :, index.reshape(batches, math.prod(index.shape[batch_dims:]))]
    return taken.transpose(1, 2).reshape(shape)


@operation
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    return like(signed(x).gather(axis, _wrap(indices, x.shape[axis], validate_indices)), x)


@operation
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    end = batch_dims + indices.shape[-1]
    sizes = x.shape[batch_dims:end]
    rows = x.reshape(*x.shape[:batch_dims], math.prod(sizes), *x.shape[end:])
    return gather(rows, _row(indices, sizes, validate_indices), batch_dims, batch_dims)


@operation
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    axis %= data.ndim
    before, after = data.shape[:axis], data.shape[axis + 1 :]
    index = _wrap(indices, data.shape[axis], validate_indices).flatten()
    shape = (*before, len(index), *after)
    index = index.reshape(len(index), *[1] * len(after)).expand(shape)
    return _combine(data, axis, index, updates.reshape(shape), mode)


@operation
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    return _combine(data, axis, _wrap(indices, data.shape[axis], validate_indices), updates, mode)


@operation
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    depth = indices.shape[-1]
    sizes, after = data.shape[:depth], data.shape[depth:]
    row = _row(indices, sizes, validate_indices).flatten()
    rows = data.reshape(math.prod(sizes), *after)
    return scatter(rows, row, updates.reshape(len(row), *after), 0, mode).reshape(data.shape)


def _wrap(indices: Tensor, size: int, validate: bool) -> Tensor:
    """Indices in the form that PyTorch wants, always within an axis of that size."""
    index = indices.long()
    if validate:
        outside = index[(index < 0) | (index >= size)]
        if len(outside):
            raise ValueError(f"index {int(outside[0])} is out of bounds: it must lie from 0 to {size - 1}")
    return index % size


def _row(indices: Tensor, sizes: Sequence[int], validate: bool) -> Tensor:
    """The index vectors on the last axis as indices into an axis that replaces those of these sizes."""
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for index, size in zip(indices.unbind(-1), sizes, strict=True):
        row = row * size + _wrap(index, size, validate)
    return row


def _combine(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, index, updates if mode == "add" else -updates)
    if mode == "div":
        return _divide(data, axis, index, updates)
    reductions = {"mul": "prod", "min": "amin", "max": "amax"}
    if mode not in reductions:
        raise ValueError(f'mode must be "update", "add", "sub", "mul", "div", "min" or "max", not {mode!r}')
    return data.scatter_reduce(axis, index, updates, reductions[mode])


def _divide(data: Tensor, axis: int, index: Tensor, updates: Tensor) -> Tensor:
    # Several divisors of one element are multiplied first, in a type in which that does not overflow.
    real = data.is_floating_point()
    wide = torch.float32 if real else torch.int64
    divisor = torch.ones_like(data, dtype=wide).scatter_reduce(axis, index, updates.to(wide), "prod")
    return (data / divisor if real else truncated(data, divisor)).to(data.dtype)
