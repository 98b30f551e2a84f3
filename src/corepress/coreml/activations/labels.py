"""Labels: for each number of a value the channel that it belongs to, from 1; 0 for a zero that belongs to none.

They go where the numbers go. An operation that takes several numbers together can pass their factors on only where they
have one label: `Stuck` says that they don't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from corepress.runtime.plan import Step


class Stuck(Exception):
    """Factors can't go on here."""


def along(labels: Tensor, axis: int) -> Tensor:
    """The label of each index of an axis, where each has only one."""
    rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
    most = rows.amax(1)
    if bool(((rows != most[:, None]) & (rows != 0)).any()):
        raise Stuck
    return most


def spread(channels: Tensor, axis: int, size: Sequence[int]) -> Tensor:
    """Labels of an axis, for all numbers of a value of this size."""
    shape = [1] * len(size)
    shape[axis] = len(channels)
    full = list(size)
    full[axis] = len(channels)
    return channels.reshape(shape).expand(full)


def spread_over(labels: Tensor, axis: int, size: Sequence[int]) -> Tensor:
    """Labels that are the same along an axis, over a result that is a sum over it."""
    most = labels.amax(axis, keepdim=True)
    if bool(((labels != most) & (labels != 0)).any()):
        raise Stuck
    return most.broadcast_to(size)


def reduced(step: Step, labels: Tensor, size: Sequence[int]) -> Tensor:
    axes = step.constant.get("axes") or range(labels.dim())
    for axis in axes:
        labels = spread_over(labels, axis, labels.shape)
    kept = labels.amax(tuple(axis % labels.dim() for axis in axes), keepdim=True)
    return kept.reshape(size)


def compact(labels: Tensor) -> Tensor:
    """Labels with one index for each axis along which they do not change: they fit inputs of other sizes, too."""
    for axis in range(labels.dim()):
        most = labels.amax(axis, keepdim=True)
        if bool(((labels == most) | (labels == 0)).all()):
            labels = most
    return labels


def check_reshape(labels: Tensor, channels: int, shape: Sequence[int]) -> None:
    """Stop where a reshape would move numbers otherwise with inputs of another size.

    It does not if labels repeat 1 to `channels`, and the last lengths of the new shape come to these.
    """
    last = next(
        (n for n in range(1, len(shape) + 1) if math.prod(shape[-n:]) == channels and min(shape[-n:]) > 0), None
    )
    rows = labels.reshape(-1, channels) if labels.numel() % channels == 0 else None
    if last is None or rows is None or bool((rows != torch.arange(1, channels + 1)).any()):
        raise Stuck
