"""Bounding boxes given as center x, center y, width, height: which of many are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def survivors(
    boxes: Tensor, group: Tensor, candidates: Tensor, iou_threshold: float, max_boxes: int | None = None
) -> Tensor:
    """Of the `candidates`, indices with the best first, those that are kept: each puts out the later ones of its group
    whose intersection over union with it is above the threshold."""
    chosen = candidates[:0]
    while len(candidates) and (max_boxes is None or len(chosen) < max_boxes):
        best, candidates = candidates[:1], candidates[1:]
        chosen = torch.cat([chosen, best])
        rivals = (iou(boxes[best], boxes[candidates]) > iou_threshold) & (group[best] == group[candidates])
        candidates = candidates[~rivals]
    return chosen


def iou(one: Tensor, many: Tensor) -> Tensor:
    """Intersection over union of boxes, (1, 4) or (n, 4) and (n, 4); NaN for two without area."""
    low = torch.maximum(one[:, :2] - one[:, 2:] / 2, many[:, :2] - many[:, 2:] / 2)
    high = torch.minimum(one[:, :2] + one[:, 2:] / 2, many[:, :2] + many[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(-1)
    share = common / (one[:, 2:].prod(-1) + many[:, 2:].prod(-1) - common)
    return share.clamp(max=1)  # rounding may make it more
