"""Operations that make, order, join, split and pad tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.boxes import survivors
from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import Ints, operation


@operation
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    # Stable, here and in topk: equal elements come in the same order on every device.
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(torch.int32)


@operation
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    if lower >= 0:
        x = torch.triu(x, -lower)
    return torch.tril(x, upper) if upper >= 0 else x


@operation
def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    limits.check(sum(value.numel() for value in values))
    if values[0].dim() == 0:
        return torch.stack(list(values))
    if not interleave:
        return torch.cat(list(values), axis)
    axis %= values[0].dim()
    return torch.stack(list(values), axis + 1).flatten(axis, axis + 1)


@operation
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        # Shift by one: a zero comes in, the last element goes.
        behind = x.dim() - 1 - axis % x.dim()
        x = F.pad(x, [0, 0] * behind + [1, -1])
    x = torch.cumsum(x, axis, dtype=x.dtype)
    return x.flip(axis) if reverse else x


@operation
def fill(shape: Ints, value: Tensor | None = None) -> Tensor:
    limits.check(*shape)
    return (torch.tensor(0.0) if value is None else value).expand(list(shape)).contiguous()


@operation
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(ref_tensor.shape, torch.tensor(0.0, device=ref_tensor.device) if value is None else value)


@operation
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operation
def identity(x: Tensor) -> Tensor:
    return x


@operation
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
    score_threshold: float | None = None,
) -> tuple[Tensor, ...]:
    # Up to iOS 16 there is a score threshold, and the last dimension of the inputs is not that of the boxes.
    if score_threshold is None:
        by_box = non_maximum_suppression(
            boxes.mT, scores.mT, iou_threshold, max_boxes, per_class_suppression, -math.inf
        )
        return by_box[0].mT, by_box[1].mT, by_box[2]
    images, _, classes = scores.shape
    limits.check(images, max_boxes, max(classes, 4))
    kept_boxes = boxes.new_zeros(images, max_boxes, 4)
    kept_scores = scores.new_zeros(images, max_boxes, classes)
    indices = torch.full((images, max_boxes), -1, dtype=torch.int32, device=boxes.device)
    counts = torch.zeros(images, dtype=torch.int32, device=boxes.device)
    for i in range(images):
        best, group = scores[i].max(-1)
        group = group if per_class_suppression else torch.zeros_like(group)
        order = torch.argsort(best, descending=True, stable=True)
        good = order[best[order] >= score_threshold]
        candidates = good if len(good) else order[:1]  # the best box is kept, however low its score
        # In float32: the area of a box in pixels is beyond fp16.
        chosen = survivors(boxes[i].float(), group, candidates, iou_threshold, max_boxes)
        count = len(chosen)
        kept_boxes[i, :count], kept_scores[i, :count] = boxes[i, chosen], scores[i, chosen]
        indices[i, :count], counts[i] = chosen.to(torch.int32), count
    return kept_boxes, kept_scores, indices, counts


@operation
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).to(torch.int32)


@operation
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    limits.check(indices.numel(), one_hot_vector_size)
    given = on_value if on_value is not None else off_value
    off = torch.zeros((), dtype=torch.int32 if given is None else given.dtype, device=indices.device)
    on = torch.ones_like(off) if on_value is None else on_value
    off = off if off_value is None else off_value
    hot = indices.unsqueeze(-1) == torch.arange(one_hot_vector_size, device=indices.device)
    return torch.where(hot, on, off).movedim(-1, axis)


@operation
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    first = x.dim() - len(pad) // 2
    sides = [(first + i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    limits.check(*x.shape[:first], *(x.shape[dim] + before + after for dim, before, after in sides))
    if mode == "constant":
        value = int(constant_val) if not x.is_floating_point() else constant_val
        return F.pad(x, [n for _, before, after in reversed(sides) for n in (before, after)], value=value)
    # F.pad knows the other modes for some ranks only.
    for dim, before, after in sides:
        if before or after:
            last = x.shape[dim] - 1
            source = torch.arange(-before, last + 1 + after, device=x.device)
            if mode == "reflect":
                source = last - (last - source.abs()).abs()
            elif mode == "replicate":
                source = source.clamp(0, last)
            else:
                raise ValueError(f"mode {mode!r} is unknown")
            x = x.index_select(dim, source)
    return x


@operation
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    first, limit, stride = start.item(), end.item(), step.item()
    count = max(0, math.ceil((limit - first) / stride))
    limits.check(count)
    # Not torch.arange(first, ...), which refuses an empty range.
    return (first + stride * torch.arange(count, device=start.device)).to(start.dtype)


@operation
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32, device=x.device)


@operation
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> Tensor | tuple[Tensor, ...]:
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits or num_splits > max(x.shape[axis], 1):
            raise ValueError(f"{x.shape[axis]} elements can't be split into {num_splits} equal parts")
        split_sizes = [x.shape[axis] // num_splits] * num_splits
    parts: tuple[Tensor, ...] = torch.split(x, list(split_sizes), axis)
    return parts if len(parts) != 1 else parts[0]


@operation
def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    limits.check(sum(value.numel() for value in values))
    return torch.stack(list(values), axis)


@operation
def tile(x: Tensor, reps: Ints) -> Tensor:
    limits.check(x.numel(), *reps)
    return torch.tile(x, list(reps))


@operation
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    # Always sorted, which is also right where `sort` does not ask for it. In int32: uint16 can't be sorted everywhere.
    sortable = x.int() if x.dtype == torch.uint16 else x
    ordered, order = torch.sort(sortable, dim=axis, descending=not ascending, stable=True)
    count = x.shape[axis] if k == -1 else k
    values = ordered.narrow(axis, 0, count).to(x.dtype)
    return (values, order.narrow(axis, 0, count).to(torch_dtype(output_indices_dtype))) if return_indices else values
