"""The layers of iOS 13 and later that order, choose and reduce."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from corepress.runtime.networks.registry import LAYERS, integers, layer, ranked
from corepress.runtime.ops import reduction, tensor_operation
from corepress.runtime.registry import Ints


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


@layer
def NonMaximumSuppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
    max_boxes: Tensor | None = None,
    *,
    iouThreshold: float,
    scoreThreshold: float,
    maxBoxes: int,
    perClassSuppression: bool = False,
    outputs: int,
) -> tuple[Tensor, ...] | Tensor:
    """Boxes [batch, n, 4] of center x and y, width and height; scores [batch, n, classes].

    The results: boxes, scores, indices of boxes (-1 where there is none), and how many there are.
    """
    found = tensor_operation.non_maximum_suppression(
        boxes, scores, _number(iou_threshold, iouThreshold),
        maxBoxes if max_boxes is None else integers(max_boxes)[0], perClassSuppression,
        _number(score_threshold, scoreThreshold),
    )  # fmt: skip
    results = tuple(part.to(boxes.dtype) for part in found[:outputs])
    return results if outputs != 1 else results[0]


def _number(given: Tensor | None, otherwise: float) -> float:
    return otherwise if given is None else float(given.flatten()[0])
