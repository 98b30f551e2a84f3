"""Transposed convolutions, pooling, and images of another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import Floats, Ints, core_ai


@core_ai("conv_transpose2d", "conv_transpose3d", product=True)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    strides: Ints,
    pad: Ints,
    dilations: Ints,
    output_padding: Ints,
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    windows = zip(x.shape[2:], weight.shape[2:], strides, dilations, output_padding, strict=True)
    sizes = [(size - 1) * step + (kernel - 1) * gap + 1 + more for size, kernel, step, gap, more in windows]
    limits.check(len(x), weight.shape[1] * groups, *sizes)
    return torch.convolution(x, weight, bias, strides, pad, dilations, True, output_padding, groups)


@core_ai("max_pool_2d", "max_pool_3d")
def max_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, dilations: Ints, ceil_mode: bool) -> Tensor:
    pool = F.max_pool2d if len(kernel_sizes) == 2 else F.max_pool3d
    # What PyTorch leaves out with `ceil_mode` are windows that begin behind the end.
    return pool(x, tuple(kernel_sizes), tuple(strides), 0, tuple(dilations), ceil_mode)


@core_ai("sum_pool_2d", "sum_pool_3d")
def sum_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, dilations: Ints) -> Tensor:
    for axis, (size, step, gap) in enumerate(zip(kernel_sizes, strides, dilations, strict=True), 2):
        x = x.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap].sum(-1, dtype=x.dtype)
    return x


@core_ai("interpolate")
def interpolate(x: Tensor, shape: Ints, scale: Floats, offset: Floats, mode: str = "linear") -> Tensor:
    limits.check(*shape)
    for axis, (size, factor, shift) in enumerate(zip(shape, scale, offset, strict=True)):
        places = (torch.arange(size, dtype=torch.float64, device=x.device) + 0.5 - shift) / factor - 0.5
        if size != x.shape[axis] or not torch.equal(places, places.round()) or factor != 1:
            x = _at(x, axis, places.clamp(0, x.shape[axis] - 1), mode)
    return x


def _at(x: Tensor, axis: int, places: Tensor, mode: str) -> Tensor:
    """`x` at places along an axis, which may lie between its elements."""
    if mode != "linear":
        return x.index_select(axis, places.round().long())
    low = places.floor()
    first = low.long()
    share = (places - low).to(x.dtype).view(-1, *[1] * (x.dim() - axis - 1))
    after = (first + 1).clamp(max=x.shape[axis] - 1)
    return torch.lerp(x.index_select(axis, first), x.index_select(axis, after), share)
