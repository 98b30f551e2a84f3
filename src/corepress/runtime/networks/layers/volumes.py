"""The layers of three spatial dimensions, over [batch, channels, depth, height, width]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corepress.runtime.networks.registry import SHAPES, layer
from corepress.runtime.ops import conv, pool
from corepress.runtime.registry import Ints

Shape = tuple[int, ...]


def _convolution(p: Any) -> dict[str, Shape]:
    kernel = (p.kernelDepth, p.kernelHeight, p.kernelWidth)
    groups = max(1, p.nGroups)
    if p.isDeconvolution:
        weights = (p.inputChannels, p.outputChannels // groups, *kernel)
    else:
        weights = (p.outputChannels, p.inputChannels // groups, *kernel)
    return {"weights": weights, "bias": (p.outputChannels,)}


SHAPES["convolution3d"] = _convolution


@layer
def convolution3d(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    *,
    nGroups: int = 1,
    strideDepth: int = 1,
    strideHeight: int = 1,
    strideWidth: int = 1,
    dilationDepth: int = 1,
    dilationHeight: int = 1,
    dilationWidth: int = 1,
    paddingType: str,
    customPadding: Ints | None = None,
    isDeconvolution: bool = False,
    outputShape: Ints | None = None,
) -> Tensor:
    strides, dilations = (strideDepth, strideHeight, strideWidth), (dilationDepth, dilationHeight, dilationWidth)
    kind = paddingType.lower()
    if not isDeconvolution:
        return conv.conv(x, weights, bias, strides, kind, customPadding, dilations, nGroups)
    return conv.conv_transpose(x, weights, bias, customPadding, outputShape, kind, strides, dilations, nGroups)


@layer
def pooling3d(
    x: Tensor,
    *,
    type: str,
    kernelDepth: int,
    kernelHeight: int,
    kernelWidth: int,
    strideDepth: int = 1,
    strideHeight: int = 1,
    strideWidth: int = 1,
    paddingType: str,
    customPadding: Ints | None = None,
    countExcludePadding: bool = False,
) -> Tensor:
    kernel, strides = (kernelDepth, kernelHeight, kernelWidth), (strideDepth, strideHeight, strideWidth)
    kind = paddingType.lower()
    if type == "MAX":
        return pool.max_pool(x, kernel, kind, strides, customPadding)
    return pool.avg_pool(x, kernel, kind, strides, customPadding, countExcludePadding)


@layer
def globalPooling3d(x: Tensor, *, type: str) -> Tensor:
    axes = (-3, -2, -1)
    return torch.amax(x, axes, keepdim=True) if type == "MAX" else x.mean(axes, keepdim=True)
