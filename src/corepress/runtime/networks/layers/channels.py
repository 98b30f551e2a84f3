"""The older layers that reduce, order and join along channels, height, width and sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.networks.registry import layer
from corepress.runtime.ops import reduction, tensor_operation
from corepress.runtime.registry import Ints


@layer
def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -3)


@layer
def dot(x: Tensor, y: Tensor, *, cosineSimilarity: bool = False) -> Tensor:
    if cosineSimilarity:
        return F.cosine_similarity(x, y, -3).unsqueeze(-3)
    return (x * y).sum(-3, keepdim=True)


@layer
def reduce(x: Tensor, *, mode: str, axis: str, epsilon: float = 1e-6) -> Tensor:
    axes = {"CHW": [-3, -2, -1], "HW": [-2, -1], "C": [-3], "H": [-2], "W": [-1]}[axis]
    if mode == "ARGMAX":
        return reduction.reduce_argmax(x, axes[0], True).to(x.dtype)
    if mode == "LOGSUM":
        return (x.sum(axes, keepdim=True) + epsilon).log()
    return _REDUCTIONS[mode](x, axes, True)


_REDUCTIONS = {
    "SUM": reduction.reduce_sum,
    "AVG": reduction.reduce_mean,
    "PROD": reduction.reduce_prod,
    "SUMSQUARE": reduction.reduce_sum_square,
    "L1": reduction.reduce_l1_norm,
    "L2": reduction.reduce_l2_norm,
    "MAX": reduction.reduce_max,
    "MIN": reduction.reduce_min,
}


@layer
def loadConstant(*, data: Tensor, shape: Ints, rank5: bool) -> Tensor:
    return data.view(1, 1, *shape) if rank5 else data.view(list(shape))


@layer
def reshape(x: Tensor, *, targetShape: Ints, mode: str) -> Tensor:
    """[channels, height, width], or [sequence, channels, height, width] for each element of the batch."""
    if mode == "CHANNEL_LAST":
        *sequence, channels, height, width = targetShape
        return reshape(
            x.movedim(-3, -1), targetShape=[*sequence, height, width, channels], mode="CHANNEL_FIRST"
        ).movedim(-1, -3)
    if len(targetShape) == 3:
        return x.reshape(*x.shape[:-3], *targetShape)
    if x.dim() < 5:
        return x.reshape(list(targetShape))
    return x.movedim(1, 0).reshape(x.shape[1], *targetShape).movedim(0, 1)


@layer
def flatten(x: Tensor, *, mode: str) -> Tensor:
    x = x.movedim(-3, -1) if mode == "CHANNEL_LAST" else x
    return x.flatten(-3)[..., None, None]


@layer
def permute(x: Tensor, *, axis: Ints) -> Tensor:
    """`axis`: the order of [sequence, channels, height, width]; the batch stays where it is."""
    places = [0, 2, 3, 4] if x.dim() == 5 else [0, 1, 2, 3]
    first, *rest = [places[i] for i in axis]
    return x.permute([first, *range(1, x.dim() - 3), *rest])


@layer
def concat(values: Sequence[Tensor], *, sequenceConcat: bool = False) -> Tensor:
    return tensor_operation.concat(values, -5 if sequenceConcat else -3)


@layer
def split(x: Tensor, *, outputs: int, nOutputs: int) -> Tensor | tuple[Tensor, ...]:
    return tensor_operation.split(x, -3, nOutputs or outputs)


@layer
def slice_(x: Tensor, *, startIndex: int, endIndex: int, stride: int = 1, axis: str) -> Tensor:
    place = {"CHANNEL_AXIS": -3, "HEIGHT_AXIS": -2, "WIDTH_AXIS": -1}[axis]
    return x.movedim(place, 0)[startIndex:endIndex:stride].movedim(0, place)


@layer
def sequenceRepeat(x: Tensor, *, nRepetitions: int = 1) -> Tensor:
    return tensor_operation.tile(x, [nRepetitions, *[1] * (x.dim() - 1)])
