"""Boxes of two detectors are compared object by object, in whatever rows they stand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from corepress.verification.detections import paired

CONFIDENCE = np.array([[0.9, 0.05], [0.1, 0.8], [0.7, 0.0]])
COORDINATES = np.array([[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]])
BOXES = CONFIDENCE, COORDINATES


def taken(rows: list[int], shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return CONFIDENCE[rows], COORDINATES[rows] + shift


def check(before, now, expected_before, expected_now, both) -> None:
    one, other, found = paired(before, now)
    for part, expected in zip((*one, *other), (*expected_before, *expected_now), strict=True):
        np.testing.assert_array_equal(part, expected)
    assert found.tolist() == both


def test_the_same_boxes_in_another_order_are_the_same() -> None:
    check(BOXES, BOXES, BOXES, BOXES, [True] * 3)
    check(BOXES, taken([2, 0, 1]), BOXES, BOXES, [True] * 3)
    check(BOXES, taken([1, 2, 0], 0.01), BOXES, taken([0, 1, 2], 0.01), [True] * 3)


def test_what_only_one_has_is_zero_in_the_other() -> None:
    gap = CONFIDENCE * [[1], [0], [1]], COORDINATES * [[1], [0], [1]]
    check(BOXES, taken([0, 2]), BOXES, gap, [True, False, True])
    longer = tuple(np.concatenate([part[[0, 2]], np.zeros((1, part.shape[1]))]) for part in BOXES)
    check(taken([0, 2]), BOXES, longer, taken([0, 2, 1]), [True, True, False])
    nothing = np.zeros((0, 2)), np.zeros((0, 4))
    empty = np.zeros_like(CONFIDENCE), np.zeros_like(COORDINATES)
    check(nothing, BOXES, empty, BOXES, [False] * 3)
    check(BOXES, nothing, BOXES, empty, [False] * 3)
    check(nothing, nothing, nothing, nothing, [])


def test_another_class_or_place_is_another_object() -> None:
    other_class = CONFIDENCE[:1, ::-1], COORDINATES[:1]
    elsewhere = taken([0], 0.1)  # a quarter of each box overlaps
    for now in (other_class, elsewhere):
        one, other, both = paired(taken([0]), now)
        assert both.tolist() == [False, False]
        np.testing.assert_array_equal(one[0], [CONFIDENCE[0], [0, 0]])
        np.testing.assert_array_equal(other[1], [[0] * 4, now[1][0]])


def test_rows_of_zeros_are_no_boxes() -> None:
    padded = tuple(np.concatenate([part, np.zeros((4, part.shape[1]))]) for part in BOXES)
    check(padded, BOXES, BOXES, BOXES, [True] * 3)


def test_each_box_has_one_partner_the_one_it_overlaps_most() -> None:
    near = COORDINATES[0] + [0.02, 0, 0, 0], COORDINATES[0] + [0.01, 0, 0, 0]
    now = CONFIDENCE[[0, 0]], np.array(near)
    _, other, both = paired(taken([0]), now)
    assert both.tolist() == [True, False]
    np.testing.assert_array_equal(other[1], [near[1], near[0]])


def test_a_box_without_area_is_still_the_same_box() -> None:
    flat = CONFIDENCE, COORDINATES * [1, 1, 0, 1]
    check(flat, tuple(part[[1, 2, 0]] for part in flat), flat, flat, [True] * 3)


def test_the_largest_of_four_coordinates_is_no_choice() -> None:
    from corepress.metrics import Sums
    from corepress.verification.compare import _compare

    confidence, coordinates = np.array([[0.2, 0.9]]), np.array([[0.5, 0.5, 0.1, 0.1]])
    program = SimpleNamespace(detections=("confidence", "coordinates"))
    sums = {name: Sums() for name in program.detections}
    found = {"confidence": confidence, "coordinates": coordinates + np.array([0, 1e-4, 0, 0])}
    _compare(sums, {"confidence": confidence, "coordinates": coordinates}, found, program)
    assert sums["confidence"].row("confidence").top1 == 1 and sums["coordinates"].row("coordinates").top1 is None
