"""Boxes of two detectors side by side: the same object may stand in other rows, or be found by one of them only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Boxes of one class are the same object from that intersection over union on, as in most benchmarks of detectors.
SAME = 0.5

Boxes = tuple[NDArray[Any], NDArray[Any]]


def paired(before: Boxes, now: Boxes) -> tuple[Boxes, Boxes, NDArray[np.bool_]]:
    """Both with a row for each object, and whether both have it; what one does not have is zero there.

    `before`, `now`: confidences (boxes, classes) and coordinates (boxes, 4) of center x, center y, width, height. Rows
    of zeros are none. Each box of `before`, the most confident first, goes with the box of its likeliest class in `now`
    that it overlaps most, by half at least.
    """
    one, other = _filled(before), _filled(now)
    partners = _partners(one, other)
    alone = [row for row in range(len(other[0])) if row not in partners]
    both = np.array([partner is not None for partner in partners] + [False] * len(alone), bool)
    rows = [*partners, *alone]
    extended = (_rows(part, [*range(len(part)), *[None] * len(alone)]) for part in one)
    arranged = (_rows(part, rows) for part in other)
    return (next(extended), next(extended)), (next(arranged), next(arranged)), both


def _filled(boxes: Boxes) -> Boxes:
    confidence, coordinates = (np.asarray(part, np.float64) for part in boxes)
    filled = (confidence != 0).any(-1) | (coordinates != 0).any(-1)
    return confidence[filled], coordinates[filled]


def _partners(one: Boxes, other: Boxes) -> list[int | None]:
    """For each box of one, the row of the other that shows the same object."""
    import torch

    from corepress.runtime.boxes import iou

    found: list[int | None] = [None] * len(one[0])
    if not len(one[0]) or not len(other[0]):
        return found
    boxes, labels = torch.from_numpy(other[1]), other[0].argmax(-1)
    free = np.ones(len(labels), bool)
    for row in np.argsort(-one[0].max(-1), kind="stable"):
        overlap = np.nan_to_num(iou(torch.from_numpy(one[1][row])[None], boxes).numpy())
        overlap[(other[1] == one[1][row]).all(-1)] = 1  # also where it has no area
        overlap[~free | (labels != one[0][row].argmax())] = 0
        best = int(overlap.argmax())
        if overlap[best] >= SAME:
            found[row], free[best] = best, False
    return found


def _rows(array: NDArray[Any], rows: list[int | None]) -> NDArray[Any]:
    picked = np.zeros((len(rows), array.shape[1]))
    for i, row in enumerate(rows):
        if row is not None:
            picked[i] = array[row]
    return picked
