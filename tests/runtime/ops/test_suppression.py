"""non_maximum_suppression, of which coremltools computes no value: against a plain loop over pairs of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.tensor_operation  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, run, same


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    common = max(0.0, sides[0]) * max(0.0, sides[1])
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def plain(boxes, scores, iou, score, limit, per_class):
    """Indices of the kept boxes of one image."""
    best, group = scores.max(-1), scores.argmax(-1)
    order = sorted(range(len(best)), key=lambda i: -best[i])
    kept: list[int] = []
    for i in order:
        rival = any(overlap(boxes[i], boxes[j]) > iou and (not per_class or group[i] == group[j]) for j in kept)
        if best[i] >= score and not rival:
            kept.append(i)
    return (kept or order[:1])[:limit]


def case(seed, images, count, classes):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 50, (images, count, 2)), rng.uniform(5, 40, (images, count, 2))], -1)
    scores = rng.permutation(images * count * classes).reshape(images, count, classes) / (images * count * classes)
    return boxes.astype(np.float32), scores.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    images=st.integers(1, 3),
    count=st.integers(1, 15),
    classes=st.integers(1, 4),
    iou=st.floats(0.01, 0.99),
    score=st.floats(0, 1.1),
    limit=st.integers(1, 18),
    per_class=st.booleans(),
)
def test_against_a_plain_loop(seed, images, count, classes, iou, score, limit, per_class):
    boxes, scores = case(seed, images, count, classes)
    arguments = {"iou_threshold": iou, "max_boxes": limit, "per_class_suppression": per_class}
    for threshold in (score, None):
        expected = (
            np.zeros((images, limit, 4), np.float32), np.zeros((images, limit, classes), np.float32),
            np.full((images, limit), -1, np.int32), np.zeros(images, np.int32),
        )  # fmt: skip
        for i in range(images):
            kept = plain(boxes[i], scores[i], iou, -np.inf if threshold is None else threshold, limit, per_class)
            expected[0][i, : len(kept)], expected[1][i, : len(kept)] = boxes[i, kept], scores[i, kept]
            expected[2][i, : len(kept)], expected[3][i] = kept, len(kept)
        if threshold is not None:
            ours = run("non_maximum_suppression", boxes=boxes, scores=scores, score_threshold=threshold, **arguments)
            same(ours, expected)
        else:  # the form of iOS 17
            turned = [np.swapaxes(x, 1, 2) for x in (boxes, scores)]
            ours = run("non_maximum_suppression", boxes=turned[0], scores=turned[1], **arguments)
            same(ours, (np.swapaxes(expected[0], 1, 2), np.swapaxes(expected[1], 1, 2), expected[2]))


def test_boxes_in_pixels_in_fp16():
    boxes = np.array([[[500, 500, 400, 400], [510, 500, 400, 400], [100, 100, 100, 100]]], np.float16)
    scores = np.array([[[0.9], [0.8], [0.7]]], np.float16)
    kept = run(
        "non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.1, max_boxes=3
    )
    same(kept[0], np.concatenate([boxes[:, [0, 2]], np.zeros((1, 1, 4), np.float16)], 1))
    same(kept[2:], (np.array([[0, 2, -1]], np.int32), np.array([2], np.int32)))


def test_boxes_without_area_put_nothing_out():
    boxes, scores = np.zeros((1, 3, 4), np.float32), numbers(1, (1, 3, 1))
    kept = run(
        "non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=0.2, score_threshold=-9.0, max_boxes=3
    )
    assert kept[3] == 3


@pytest.mark.parametrize("per_class", [False, True])
def test_a_score_at_the_threshold_is_good(per_class):
    boxes = np.array([[[0, 0, 1, 1], [5, 5, 1, 1], [9, 9, 1, 1]]], np.float32)
    scores = np.array([[[0.75], [0.5], [0.25]]], np.float32)
    kept = run(
        "non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.5, max_boxes=3,
        per_class_suppression=per_class,
    )  # fmt: skip
    same(kept[2], np.array([[0, 1, -1]], np.int32))
