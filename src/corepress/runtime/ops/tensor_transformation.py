"""Operations that give the elements of a tensor another order or shape, or take some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import Bools, Ints, operation


@operation
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    # The axes are those of the result.
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operation
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operation
def reshape(x: Tensor, shape: Ints) -> Tensor:
    if 0 not in shape:
        return x.reshape(tuple(shape))
    # A 0 takes over the size of x, counted from the right as of iOS17; before, both had to have the same rank anyway.
    sizes = [1] * (len(shape) - x.ndim) + list(x.shape[max(x.ndim - len(shape), 0) :])
    return x.reshape([size or known for size, known in zip(shape, sizes, strict=True)])


@operation
def reshape_like(x: Tensor, ref_tensors: Sequence[Tensor], begins: Ints, ends: Ints, end_masks: Bools) -> Tensor:
    parts = zip(ref_tensors, begins, ends, end_masks, strict=True)
    return x.reshape(
        [size for like, begin, end, to_end in parts for size in like.shape[begin : None if to_end else end]]
    )


@operation
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(tuple(perm))


@operation
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return _flip(x, range(x.ndim) if axes is None else axes)


def _flip(x: Tensor, axes: Ints) -> Tensor:
    return like(signed(x).flip(tuple(axes)), x) if axes else x


def signed(x: Tensor) -> Tensor:
    """x, or for uint16 the same bits as int16: PyTorch can move those about, and not always the former."""
    return x.view(torch.int16) if x.dtype == torch.uint16 else x


def like(moved: Tensor, x: Tensor) -> Tensor:
    """What became of `signed(x)`, in the type of x. A view has no derivative, so that there is none without need."""
    return moved if moved.dtype == x.dtype else moved.view(x.dtype)


@operation
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    def along(axis: int, values: Tensor) -> Tensor:
        return values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])

    position = along(seq_axis, torch.arange(x.shape[seq_axis], device=x.device))
    length = along(batch_axis, lengths.long())
    source = torch.where(position < length, length - 1 - position, position)
    return like(signed(x).gather(seq_axis, source.expand(x.shape)), x)


@operation
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    index, reversed_axes = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return _flip(x[index], reversed_axes)


@operation
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    index, reversed_axes = _index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone()
    target = result[index]
    target.copy_(_flip(update.reshape(target.shape), reversed_axes))
    return result


def _index(
    shape: Sequence[int],
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[tuple[slice | int, ...], list[int]]:
    """A slice for PyTorch, which knows no negative strides, and the axes of its result that remain to be reversed."""
    index: list[slice | int] = []
    reversed_axes = []
    result_axis = 0
    for i, size in enumerate(shape):
        first = None if begin_mask and begin_mask[i] else begin[i]
        if squeeze_mask and squeeze_mask[i]:
            index.append(first or 0)
            continue
        last = None if end_mask and end_mask[i] else end[i]
        step = stride[i] if stride else 1
        if step > 0:
            index.append(slice(first, last, step))
        else:
            taken = range(*slice(first, last, step).indices(size))[::-1]
            reversed_axes.append(result_axis)
            index.append(slice(taken[0], taken[-1] + 1, taken.step) if taken else slice(0, 0))
        result_axis += 1
    return tuple(index), reversed_axes


@operation
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@operation
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    axis %= x.ndim
    windows = x.unfold(axis, size, stride).movedim(-1, axis + 1)
    limits.check(*windows.shape)  # a view as yet, but not for long
    return windows


@operation
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    # The place within a block is the slowest part of a channel's number; in pixel_shuffle it is the fastest.
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@operation
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@operation
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@operation
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


@operation
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    top, bottom, left, right = paddings
    limits.check(*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    x = F.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    high, wide = block_shape
    blocks = x.reshape(n, c, h // high, high, w // wide, wide).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(n * high * wide, c, h // high, w // wide)


@operation
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    n, c, h, w = x.shape
    high, wide = block_shape
    n //= high * wide
    full = x.reshape(high, wide, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * high, w * wide)
    top, bottom, left, right = crops
    limits.check(n, c, h * high - top - bottom, w * wide - left - right)
    return F.pad(full, (-left, -right, -top, -bottom))
