"""The layers of iOS 13 and later that take parts of arrays of any rank, write them, and join them."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.networks.registry import LAYERS, integers, layer, ranked
from corepress.runtime.ops import scatter_gather, tensor_operation
from corepress.runtime.ops import tensor_transformation as transformation
from corepress.runtime.registry import Bools, Ints

LAYERS.update(
    {
        "concatND": tensor_operation.concat,
        "gatherND": scatter_gather.gather_nd,
        "stack": tensor_operation.stack,
    }
)


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


@layer
def reverseSeq(x: Tensor, lengths: Tensor, *, batchAxis: int, sequenceAxis: int) -> Tensor:
    return transformation.reverse_sequence(x, lengths, sequenceAxis, batchAxis)


# What is written to the same place more than once is added up, multiplied and so on; of updates one remains.


def _way(mode: str) -> str:
    """The mode as the operations of MIL call it."""
    return mode.removeprefix("SCATTER_").lower()


@layer
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, mode: str) -> Tensor:
    return scatter_gather.scatter(x, indices, updates, axis, _way(mode))


@layer
def scatterAlongAxis(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, mode: str) -> Tensor:
    return scatter_gather.scatter_along_axis(x, indices, updates, axis, _way(mode))


@layer
def scatterND(x: Tensor, indices: Tensor, updates: Tensor, *, mode: str) -> Tensor:
    return scatter_gather.scatter_nd(x, indices, updates, _way(mode))
