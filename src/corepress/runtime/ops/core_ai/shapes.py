"""Operations that give the elements of a tensor another shape or order, or take some of them."""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.ops import tensor_operation, tensor_transformation
from corepress.runtime.registry import Ints, core_ai


@core_ai("reshape")
def reshape(x: Tensor, shape: Ints) -> Tensor:
    return x.reshape(tuple(shape))


@core_ai("broadcast_to")
def broadcast_to(x: Tensor, shape: Ints) -> Tensor:
    limits.check(*shape)
    return x.expand(tuple(shape))


@core_ai("broadcast_in_dims")
def broadcast_in_dims(x: Tensor, sizes: Ints, axes: Ints) -> Tensor:
    shape = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return broadcast_to(x, shape)


@core_ai("broadcast_shapes")
def broadcast_shapes(x: Ints, y: Ints) -> Tensor:
    pairs = zip_longest(reversed(x), reversed(y), fillvalue=1)
    return torch.tensor([one if two == 1 else two for one, two in pairs][::-1], dtype=torch.int64)


@core_ai("get_shape")
def get_shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64, device=x.device)


@core_ai("slice")
def slice_(x: Tensor, begin: Ints, end: Ints, stride: Ints) -> Tensor:
    return tensor_transformation.slice_by_index(x, begin, _within(x, end), stride)


@core_ai("slice_update")
def slice_update(x: Tensor, begin: Ints, end: Ints, stride: Ints, update: Tensor) -> Tensor:
    return tensor_transformation.slice_update(x, update, begin, _within(x, end), stride)


def _within(x: Tensor, end: Ints) -> list[int]:
    """Ends that lie before the first element are brought to it, so that Apple's runtime never takes it backwards."""
    return [max(last, -size) for last, size in zip(end, x.shape, strict=True)]


@core_ai("split")
def split(x: Tensor, split_sizes: Ints, axis: int) -> Tensor | tuple[Tensor, ...]:
    # One number is the size of all parts but the last.
    parts: tuple[Tensor, ...] = torch.split(x, split_sizes[0] if len(split_sizes) == 1 else list(split_sizes), axis)
    return parts if len(parts) != 1 else parts[0]


@core_ai("pad")
def pad(x: Tensor, pad: Ints, constant_val: float, mode: str = "constant") -> Tensor:
    if mode not in ("symmetric", "circular"):
        return tensor_operation.pad(x, pad, mode, constant_val)
    limits.check(*(size + before + after for size, before, after in zip(x.shape, pad[::2], pad[1::2], strict=True)))
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        size = x.shape[axis]
        source = torch.arange(-before, size + after, device=x.device)
        if mode == "circular":
            source = source % size
        else:
            source = torch.where(source < 0, -1 - source, torch.where(source >= size, 2 * size - 1 - source, source))
        x = x.index_select(axis, source)
    return x


@core_ai("non_zero")
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@core_ai("sort")
def sort(x: Tensor, axis: int, descending: bool = False, stable: bool = False) -> Tensor:
    return torch.sort(x, dim=axis, descending=descending, stable=True).values


@core_ai("argsort")
def argsort(x: Tensor, axis: int, descending: bool = False, stable: bool = False) -> Tensor:
    return torch.argsort(x, dim=axis, descending=descending, stable=True)
