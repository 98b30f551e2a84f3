"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import Ints, operation


def padding(
    pad_type: str, pad: Ints | None, sizes: Sequence[int], kernel: Sequence[int], strides: Ints
) -> list[tuple[int, int]]:
    """How many elements go before and after each spatial dimension; `kernel`: its extent, dilation included.

    "same" leaves ceil(size / stride) windows, which depends on the size, unlike the formula of the documentation.
    """
    kind = pad_type.lower()
    if kind == "custom" and pad is not None:
        return list(zip(pad[::2], pad[1::2], strict=True))
    if kind in ("valid", "custom"):
        return [(0, 0)] * len(sizes)
    totals = [
        max(0, (-(-size // stride) - 1) * stride + extent - size)
        for size, extent, stride in zip(sizes, kernel, strides, strict=True)
    ]
    if kind == "same":
        return [(total // 2, total - total // 2) for total in totals]
    if kind == "same_lower":
        return [(total - total // 2, total // 2) for total in totals]
    raise ValueError(f"pad_type {pad_type!r} is unknown")


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """`x` with `value` before and after its last dimensions."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    if not any(flat):
        return x
    first = x.dim() - len(pads)
    limits.check(*x.shape[:first], *(size + sum(pair) for size, pair in zip(x.shape[first:], pads, strict=True)))
    return F.pad(x, flat, value=value)


@operation
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    strides, dilations, extents = _windows(x, weight, strides, dilations)
    pads = padding(pad_type, pad, x.shape[2:], extents, strides)
    wide = [size + before + after for size, (before, after) in zip(x.shape[2:], pads, strict=True)]
    windows = ((w - extent) // stride + 1 for w, extent, stride in zip(wide, extents, strides, strict=True))
    limits.check(len(x), len(weight), *windows)
    if all(before == after for before, after in pads):
        inside = [before for before, _ in pads]
    else:
        x, inside = padded(x, pads), [0] * len(strides)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return torch.convolution(x, weight, bias, strides, inside, dilations, False, [0], groups)


@operation
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    strides, dilations, extents = _windows(x, weight, strides, dilations)
    full = [(d - 1) * s + extent for d, s, extent in zip(x.shape[2:], strides, extents, strict=True)]
    given = output_shape[-len(strides) :] if output_shape else None
    if pad_type == "same":
        sizes = given or [d * s for d, s in zip(x.shape[2:], strides, strict=True)]
        starts = [max(0, whole - size) // 2 for whole, size in zip(full, sizes, strict=True)]
    else:
        pads = padding(pad_type, pad, x.shape[2:], extents, strides)
        starts = [before for before, _ in pads]
        left = [whole - before - after for whole, (before, after) in zip(full, pads, strict=True)]
        sizes = given or left

    for shape in (full, sizes):
        limits.check(len(x), weight.shape[1] * groups, *shape)
    # The result is the part of the full one from `starts`. PyTorch cuts the same amount from both ends.
    ends = [whole - start - size for whole, start, size in zip(full, starts, sizes, strict=True)]
    cut = [max(0, min(start, end)) for start, end in zip(starts, ends, strict=True)]
    extra = [max(0, -end) for end in ends]
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y = torch.convolution(x, weight, bias, strides, cut, dilations, True, extra, groups)
    for axis, (start, gone, size) in enumerate(zip(starts, cut, sizes, strict=True), 2):
        y = y.narrow(axis, start - gone, size)
    return y


@operation
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    bias: Tensor | None = None,
    nbits: int = 8,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    if quantization_type != "linear":
        # A look-up table has no argument to come in by.
        raise ValueError(f"quantization_type {quantization_type!r} is unknown")
    channel = (-1, *[1] * (weight.dim() - 1))
    dense = weight.float() * quant_scale.float().view(channel) + quant_bias.float().view(channel)
    return conv(x, dense, bias, strides, pad_type, pad, dilations, groups)


def _windows(x: Tensor, weight: Tensor, strides: Ints | None, dilations: Ints | None) -> tuple[Ints, Ints, list[int]]:
    """For each spatial dimension the stride, the dilation, and the size of the kernel with it."""
    if x.dim() != weight.dim() or x.dim() < 3:
        raise ValueError(f"x and weight have the ranks {x.dim()} and {weight.dim()}, which don't go together")
    ones = [1] * (x.dim() - 2)
    dilations = dilations or ones
    return strides or ones, dilations, extents_of(weight.shape[2:], dilations)


def extents_of(kernel: Sequence[int], dilations: Ints) -> list[int]:
    """The sizes of a kernel with its dilation."""
    return [(size - 1) * d + 1 for size, d in zip(kernel, dilations, strict=True)]
