"""The layers of iOS 13 and later that make, order, reduce, join and split arrays of any rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.neural_network.layers import LAYERS, integers, layer, ranked
from corepress.runtime.ops import linear, normalization, reduction, scatter_gather, tensor_operation
from corepress.runtime.ops import tensor_transformation as transformation
from corepress.runtime.registry import Bools, Ints

LAYERS.update(
    {
        "copy": tensor_operation.identity,
        "concatND": tensor_operation.concat,
        "expandDims": transformation.expand_dims,
        "gatherND": scatter_gather.gather_nd,
        "stack": tensor_operation.stack,
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
        return linear.linear(x.mT if transposeA else x, weights, bias)
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


# Parts and the joining of them.


@layer
def splitND(
    x: Tensor, *, outputs: int, axis: int, numSplits: int = 0, splitSizes: Ints | None = None
) -> Tensor | tuple[Tensor, ...]:
    count = numSplits or outputs
    if splitSizes is None and 0 < count < x.shape[axis]:  # the first ones may be longer by one
        size, more = divmod(x.shape[axis], count)
        splitSizes = [size + 1] * more + [size] * (count - more)
    return tensor_operation.split(x, axis, count, splitSizes)


@layer
def sliceStatic(
    x: Tensor,
    *,
    beginIds: Ints,
    endIds: Ints,
    strides: Ints | None = None,
    beginMasks: Bools | None = None,
    endMasks: Bools | None = None,
    squeezeMasks: Bools | None = None,
) -> Tensor:
    return ranked(transformation.slice_by_index(x, beginIds, endIds, strides, beginMasks, endMasks, squeezeMasks))


@layer
def sliceDynamic(
    x: Tensor,
    begin: Tensor,
    end: Tensor | None = None,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
    *,
    endIds: Ints = (),
    strides: Ints | None = None,
    beginMasks: Bools | None = None,
    endMasks: Bools | None = None,
    squeezeMasks: Bools | None = None,
) -> Tensor:
    return sliceStatic(
        x,
        beginIds=integers(begin),
        endIds=integers(endIds if end is None else end),
        strides=strides if stride is None else integers(stride),
        beginMasks=beginMasks if begin_mask is None else begin_mask.bool().tolist(),
        endMasks=endMasks if end_mask is None else end_mask.bool().tolist(),
        squeezeMasks=squeezeMasks if squeeze_mask is None else squeeze_mask.bool().tolist(),
    )


@layer
def sliceBySize(x: Tensor, begin: Tensor, *, size: int, axis: int) -> Tensor:
    return x.narrow(axis, integers(begin)[0], size)


@layer
def slidingWindows(x: Tensor, *, axis: int, windowSize: int, step: int = 1) -> Tensor:
    return transformation.sliding_windows(x, axis, windowSize, step)


@layer
def reverse(x: Tensor, *, reverseDim: Bools) -> Tensor:
    return transformation.reverse(x, [axis for axis, turned in enumerate(reverseDim) if turned])


@layer
def gather(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    return scatter_gather.gather(x, indices, axis)


@layer
def gatherAlongAxis(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    return scatter_gather.gather_along_axis(x, indices, axis)


@layer
def oneHot(
    x: Tensor, size: Tensor | None = None, *, oneHotVectorSize: int = 1, axis: int, onValue: float, offValue: float
) -> Tensor:
    on, off = (torch.tensor(value, dtype=x.dtype, device=x.device) for value in (onValue, offValue))
    return tensor_operation.one_hot(x, oneHotVectorSize if size is None else integers(size)[0], axis, on, off)


@layer
def whereNonZero(x: Tensor) -> Tensor:
    return x.nonzero().to(x.dtype)


@layer
def matrixBandPart(x: Tensor, *, numLower: int, numUpper: int) -> Tensor:
    return tensor_operation.band_part(x, numLower, numUpper)


@layer
def lowerTriangular(x: Tensor, *, k: int) -> Tensor:
    return torch.tril(x, k)


@layer
def upperTriangular(x: Tensor, *, k: int) -> Tensor:
    return torch.triu(x, k)


# Orders and reductions.


@layer
def topK(
    x: Tensor, count: Tensor | None = None, *, outputs: int, axis: int, K: int, useBottomK: bool = False
) -> Tensor | tuple[Tensor, ...]:
    k = K if count is None else integers(count)[0]
    values, order = tensor_operation.topk(x, k, axis, useBottomK)
    return values if outputs == 1 else (values, order.to(x.dtype))


@layer
def argSort(x: Tensor, *, axis: int, descending: bool = False) -> Tensor:
    return tensor_operation.argsort(x, axis, not descending).to(x.dtype)


@layer
def argMax(x: Tensor, *, axis: int, removeDim: bool = False) -> Tensor:
    return ranked(x.argmax(axis, not removeDim)).to(x.dtype)


@layer
def argMin(x: Tensor, *, axis: int, removeDim: bool = False) -> Tensor:
    return ranked(x.argmin(axis, not removeDim)).to(x.dtype)


@layer
def cumSum(
    x: Tensor, place: Tensor | None = None, *, axis: int, excludeFinalSum: bool = False, reverse: bool = False
) -> Tensor:
    return tensor_operation.cumsum(x, axis if place is None else integers(place)[0], excludeFinalSum, reverse)


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, *, axes: Ints = (), keepDims: bool = False, reduceAll: bool = False) -> Tensor:
        return ranked(function(x, None if reduceAll or not axes else axes, keepDims))

    return reduce


LAYERS.update(
    {
        "reduceL1": _reduction(reduction.reduce_l1_norm),
        "reduceL2": _reduction(reduction.reduce_l2_norm),
        "reduceLogSum": _reduction(reduction.reduce_log_sum),
        "reduceLogSumExp": _reduction(reduction.reduce_log_sum_exp),
        "reduceMax": _reduction(reduction.reduce_max),
        "reduceMean": _reduction(reduction.reduce_mean),
        "reduceMin": _reduction(reduction.reduce_min),
        "reduceProd": _reduction(reduction.reduce_prod),
        "reduceSum": _reduction(reduction.reduce_sum),
        "reduceSumSquare": _reduction(reduction.reduce_sum_square),
    }
)
