"""Pooling in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.ops.conv import padded, padding
from corepress.runtime.registry import Ints, operation

Pool = Callable[..., Tensor]
_MEAN: tuple[Pool, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAX: tuple[Pool, ...] = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)


@dataclass(frozen=True)
class _Windows:
    """The windows along one spatial dimension. `overhang`: by how much the last one goes beyond the padding."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    overhang: int

    def counts(self, exclude_padding: bool) -> list[int]:
        """How many elements each window holds, with or without those of the padding; never those beyond it."""
        low, high = (0, self.size) if exclude_padding else (-self.before, self.size + self.after)
        starts = range(-self.before, self.size + self.after + self.overhang - self.kernel + 1, self.stride)
        return [max(1, min(start + self.kernel, high) - max(start, low)) for start in starts]


def _windows(
    x: Tensor, kernel_sizes: Ints, strides: Ints | None, pad_type: str, pad: Ints | None, ceil_mode: bool
) -> list[_Windows]:
    sizes = x.shape[2:]
    strides = strides or [1] * len(sizes)
    pads = padding(pad_type, pad, sizes, kernel_sizes, strides)
    return [
        _Windows(size, kernel, stride, *ends, _overhang(size, kernel, stride, *ends) if ceil_mode else 0)
        for size, kernel, stride, ends in zip(sizes, kernel_sizes, strides, pads, strict=True)
    ]


def _overhang(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    steps = math.ceil((size + before + after - kernel) / stride)
    if steps * stride >= size + before and before + after > 0:
        steps -= 1  # a window must not start beyond the input
    return max(0, steps * stride + kernel - (size + before + after))


def _pool(pools: tuple[Pool, ...], x: Tensor, windows: list[_Windows], fill: float) -> Tensor:
    wide = padded(x, [(w.before, w.after + w.overhang) for w in windows], fill)
    return pools[len(windows) - 1](wide, [w.kernel for w in windows], [w.stride for w in windows])


@operation
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _pool(_MEAN, x.float(), windows, 0.0)
    for axis, window in enumerate(windows, 2):
        counts = window.counts(exclude_padding_from_average)
        if any(count != window.kernel for count in counts):
            shares = torch.tensor([window.kernel / count for count in counts], device=x.device)
            mean = mean * shares.view(-1, *[1] * (x.dim() - axis - 1))
    return mean.to(x.dtype)


@operation
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _pool(_MEAN, x.float().square(), windows, 0.0)
    return (mean * math.prod(kernel_sizes)).sqrt().to(x.dtype)


@operation
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    return _pool(_MAX, x, _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode), -math.inf)
