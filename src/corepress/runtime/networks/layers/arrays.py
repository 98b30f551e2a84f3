"""The layers of iOS 13 and later that multiply arrays of any rank, make them and change their shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.networks.registry import LAYERS, integers, layer, ranked
from corepress.runtime.ops import linear, normalization, tensor_operation
from corepress.runtime.ops import tensor_transformation as transformation
from corepress.runtime.registry import Ints

LAYERS.update(
    {
        "copy": tensor_operation.identity,
        "expandDims": transformation.expand_dims,
    }
)


@layer
def batchedMatmul(
    x: Tensor,
    y: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
    transposeA: bool = False,
    transposeB: bool = False,
) -> Tensor:
    if weights is not None:
        return linear.linear(x, weights, bias)  # the transpositions are those of two inputs
    if y is None:
        raise ValueError("it has neither a second input nor weights")
    # A vector is a row on the left, a column on the right, and the result a matrix even so.
    row, column = (x[None] if x.dim() == 1 else x), (y[:, None] if y.dim() == 1 else y)
    return linear.matmul(row, column, transposeA and x.dim() > 1, transposeB and y.dim() > 1)


@layer
def layerNormalization(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, normalizedShape: Ints, eps: float = 1e-5
) -> Tensor:
    shape = list(normalizedShape)
    gamma, beta = (None if part is None else part.view(shape) for part in (gamma, beta))
    return normalization.layer_norm(x, range(-len(shape), 0), gamma, beta, eps)


@layer
def softmaxND(x: Tensor, *, axis: int) -> Tensor:
    return torch.softmax(x, axis)


# Constants and sizes.


@layer
def loadConstantND(*, data: Tensor, shape: Ints) -> Tensor:
    return data.view(list(shape))


@layer
def getShape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=x.dtype, device=x.device)


@layer
def fillLike(x: Tensor, *, value: float) -> Tensor:
    return torch.full_like(x, value)


@layer
def fillStatic(*, empty: Tensor, value: float, targetShape: Ints) -> Tensor:
    return tensor_operation.fill(targetShape, empty.new_tensor(value))


@layer
def fillDynamic(shape: Tensor, *, value: float) -> Tensor:
    return tensor_operation.fill(integers(shape), torch.full_like(shape.flatten()[0], value))


def _range(like: Tensor, end: Tensor | float, start: Tensor | float, step: Tensor | float) -> Tensor:
    parts = (torch.as_tensor(part, dtype=like.dtype, device=like.device) for part in (start, end, step))
    return tensor_operation.range_1d(*parts)


@layer
def rangeStatic(*, empty: Tensor, endValue: float, startValue: float, stepSizeValue: float = 1.0) -> Tensor:
    return _range(empty, endValue, startValue, stepSizeValue)


@layer
def rangeDynamic(
    end: Tensor,
    start: Tensor | None = None,
    step: Tensor | None = None,
    *,
    startValue: float,
    stepSizeValue: float = 1.0,
) -> Tensor:
    return _range(end, end, startValue if start is None else start, stepSizeValue if step is None else step)


@layer
def broadcastToStatic(x: Tensor, *, targetShape: Ints) -> Tensor:
    limits.check(*targetShape)
    return x.expand(list(targetShape))


@layer
def broadcastToLike(x: Tensor, like: Tensor) -> Tensor:
    return broadcastToStatic(x, targetShape=like.shape)


@layer
def broadcastToDynamic(x: Tensor, shape: Tensor) -> Tensor:
    return broadcastToStatic(x, targetShape=integers(shape))


# Shapes.


@layer
def transpose(x: Tensor, *, axes: Ints) -> Tensor:
    return transformation.transpose(x, axes)


@layer
def reshapeStatic(x: Tensor, *, targetShape: Ints) -> Tensor:
    return x.reshape(list(targetShape))


@layer
def rankPreservingReshape(x: Tensor, *, targetShape: Ints) -> Tensor:
    return transformation.reshape(x, targetShape)


@layer
def reshapeDynamic(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape(integers(shape))


@layer
def reshapeLike(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(like.shape)


@layer
def flattenTo2D(x: Tensor, *, axis: int) -> Tensor:
    return tensor_operation.flatten2d(x, axis)


@layer
def squeeze(x: Tensor, *, axes: Ints = (), squeezeAll: bool = False) -> Tensor:
    return ranked(transformation.squeeze(x, None if squeezeAll else axes))


@layer
def tile(x: Tensor, counts: Tensor | None = None, *, reps: Ints = ()) -> Tensor:
    return tensor_operation.tile(x, integers(reps if counts is None else counts))


@layer
def constantPad(
    x: Tensor,
    amounts: Tensor | None = None,
    *,
    value: float,
    padAmounts: Ints = (),
    padToGivenOutputSizeMode: bool = False,
) -> Tensor:
    """`amounts`: before and after each axis. To a given size, one of the two is that of the result, the other 0."""
    pads = integers(padAmounts if amounts is None else amounts)
    if padToGivenOutputSizeMode:
        sizes = [size for size in x.shape for _ in range(2)]
        pads = [max(0, pad - size) for pad, size in zip(pads, sizes, strict=True)]
    return tensor_operation.pad(x, pads, "constant", value)
