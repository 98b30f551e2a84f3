"""Layers that write into arrays, choose boxes, cut images and turn sequences, against NumPy written out in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corepress.errors import FormatError
from tests.runtime.networks.layers.test_layers import close, random
from tests.runtime.networks.made import network, program, run

RNG = np.random.default_rng(5)
WAYS = {
    "UPDATE": lambda old, new: new,
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": np.divide,
    "MAX": np.maximum,
    "MIN": np.minimum,
}


def scattering(name: str, **options: Any) -> Any:
    return lambda b: getattr(b, f"add_{name}")("l", ["x0", "x1", "x2"], "y0", **options)


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter(mode, axis) -> None:
    x, places = random(4, 5, 6), np.array([3, 0, -1] if mode != "UPDATE" else [3, 0, -2])
    expected, shape = np.moveaxis(x.copy(), axis, 0), list(x.shape)
    shape[axis] = len(places)
    updates = np.abs(random(*shape)) + 0.5
    for place, part in zip(places, np.moveaxis(updates, axis, 0), strict=True):
        expected[place] = WAYS[mode](expected[place], part)
    found = run(scattering("scatter", axis=axis, mode=mode), x, places, updates)
    close(found, np.moveaxis(expected, 0, axis))


@pytest.mark.parametrize("mode", WAYS)
def test_scatter_along_axis(mode) -> None:
    x, places, updates = random(3, 5), np.array([[4, 0], [2, 1], [-1, 1]]), np.abs(random(3, 2)) + 0.5
    expected = x.copy()
    for (i, j), place in np.ndenumerate(places):
        expected[i, place] = WAYS[mode](expected[i, place], updates[i, j])
    close(run(scattering("scatter_along_axis", axis=1, mode=mode), x, places, updates), expected)


@pytest.mark.parametrize("mode", WAYS)
def test_scatter_nd(mode) -> None:
    x, places, updates = random(3, 4, 5), np.array([[2, 3], [0, 0], [1, 3]]), np.abs(random(3, 5)) + 0.5
    expected = x.copy()
    for place, update in zip(places, updates, strict=True):
        expected[tuple(place)] = WAYS[mode](expected[tuple(place)], update)
    close(run(scattering("scatter_nd", mode=mode), x, places, updates), expected)


def test_repeated_places_add_up() -> None:
    found = run(scattering("scatter", mode="ADD"), [1, 1, 1], [2, 0, 2], [10, 20, 30])
    assert found.tolist() == [21, 1, 41]


def test_reversed_sequences() -> None:
    x, lengths = random(3, 2, 5, 2), [4, 0, 5]
    expected = x.copy()
    for i, length in enumerate(lengths):
        expected[i, :, :length] = x[i, :, :length][:, ::-1]
    found = run(lambda b: b.add_reverse_sequence("l", ["x0", "x1"], "y0", batch_axis=0, seq_axis=-2), x, lengths)
    close(found, expected)


def overlap(one: Any, other: Any) -> float:
    sides = [
        max(0.0, min(one[i] + one[i + 2] / 2, other[i] + other[i + 2] / 2)
            - max(one[i] - one[i + 2] / 2, other[i] - other[i + 2] / 2))
        for i in (0, 1)
    ]  # fmt: skip
    common = sides[0] * sides[1]
    return float(common / (one[2] * one[3] + other[2] * other[3] - common))


def suppressed(boxes: Any, scores: Any, iou: float, least: float, most: int, by_class: bool) -> list[int]:
    best, group = scores.max(-1), scores.argmax(-1)
    kept: list[int] = []
    for i in np.argsort(-best):
        rivals = [j for j in kept if not by_class or group[i] == group[j]]
        if best[i] >= least and all(overlap(boxes[i], boxes[j]) <= iou for j in rivals):
            kept.append(int(i))
    return kept[:most] or [int(best.argmax())]


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("iou,least,most", [(0.3, 0.2, 12), (0.0, 0.0, 30), (0.5, 2.0, 5), (0.9, 0.5, 40)])
def test_suppression(by_class, given, iou, least, most) -> None:
    boxes = RNG.uniform(0.2, 1, (2, 30, 4)).astype(np.float32)
    scores = RNG.uniform(0, 1, (2, 30, 3)).astype(np.float32)
    names, outputs = ["x0", "x1", "x2", "x3", "x4"], ["y0", "y1", "y2", "y3"]

    def build(b: Any) -> None:
        if given:
            b.add_nms("l", names, outputs, per_class_suppression=by_class)
        else:
            b.add_nms("l", names[:2], outputs, iou, least, most, by_class)

    found = run(build, boxes, scores, [iou], [least], [most], outputs=4)
    for image in range(2):
        kept = suppressed(boxes[image], scores[image], iou, least, most, by_class)
        count = len(kept)
        assert found[3][image] == count and found[2][image, :count].tolist() == kept
        assert (found[2][image, count:] == -1).all() and found[0].shape[1] == most
        np.testing.assert_array_equal(found[0][image, :count], boxes[image, kept])
        np.testing.assert_array_equal(found[1][image, :count], scores[image, kept])
        assert not found[0][image, count:].any() and not found[1][image, count:].any()


MODES = ["STRICT_ALIGN_ENDPOINTS_MODE", "ALIGN_ENDPOINTS_MODE", "UPSAMPLE_MODE", "ROI_ALIGN_MODE"]


def grid(low: float, high: float, count: int, mode: str) -> Any:
    """The points of the format's documentation, of an interval that begins at `low`."""
    size = high - low + 1
    if mode == "ALIGN_ENDPOINTS_MODE" and count == 1:
        return np.array([low + (size - 1) / 2])
    if "ENDPOINTS" in mode:
        return low + np.linspace(0, size - 1, count)
    if mode == "UPSAMPLE_MODE":
        return low + np.minimum(size - 1, np.linspace(0, size - size / count, count))
    spacing = max(1, size - 1) / count
    return low + np.minimum(size - 1, 0.5 * spacing + np.arange(count) * spacing)


def sampled(image: Any, rows: Any, columns: Any) -> Any:
    """Bilinear interpolation of [channels, height, width]."""
    at = torch.tensor(np.stack(np.broadcast_arrays(columns[None, :], rows[:, None]), -1), dtype=torch.float64)
    scale = torch.tensor([image.shape[2] - 1, image.shape[1] - 1])
    places = (2 * at / scale - 1)[None]
    return F.grid_sample(torch.from_numpy(image.astype(np.float64))[None], places, align_corners=True)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
@pytest.mark.parametrize("normalized", [True, False])
def test_crops_are_resized(mode, size, normalized) -> None:
    image, boxes = random(1, 2, 3, 9, 11), [[1.0, 2.0, 6.5, 9.25], [0, 0, 8, 10]]
    given = np.array(boxes) / ([8, 10, 8, 10] if normalized else 1)

    def build(b: Any) -> None:
        b.add_crop_resize("l", ["x0", "x1"], "y0", *size, mode=mode, normalized_roi=normalized)

    found = run(build, image, given.reshape(2, 1, 4, 1, 1))
    assert found.shape == (2, 2, 3, *size)
    for n, (top, left, bottom, right) in enumerate(boxes):
        rows, columns = grid(top, bottom, size[0], mode), grid(left, right, size[1], mode)
        for batch in range(2):
            np.testing.assert_allclose(found[n, batch], sampled(image[0, batch], rows, columns), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"])
def test_boxes_are_given_in_several_ways(order) -> None:
    image, (top, left, bottom, right) = random(1, 2, 3, 9, 11), (1.0, 2.0, 6.0, 9.0)
    box = [top, left, bottom, right]
    if order.startswith("CENTER"):
        box = [(top + bottom) / 2, (left + right) / 2, bottom - top, right - left]
    if "WIDTH" in order:
        box = [box[1], box[0], box[3], box[2]]

    def build(b: Any) -> None:
        b.add_crop_resize("l", ["x0", "x1"], "y0", 3, 4, box_indices_mode=order, spatial_scale=0.5)

    # Of the second image, in coordinates twice as large.
    found = run(build, image, np.array([1, *(2 * part for part in box)]).reshape(1, 1, 5, 1, 1))
    expected = sampled(image[0, 1], np.linspace(top, bottom, 3), np.linspace(left, right, 4))
    assert found.shape == (1, 1, 3, 3, 4)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_resizing_has_the_same_modes(mode) -> None:
    x = random(1, 2, 5, 7)
    found = run(lambda b: b.add_resize_bilinear("l", "x0", "y0", 4, 9, mode), x)
    np.testing.assert_allclose(found[0], sampled(x[0], grid(0, 4, 4, mode), grid(0, 6, 9, mode)), rtol=1e-4, atol=1e-5)


def test_hostile_arguments_are_refused() -> None:
    def odd_mode(b: Any) -> None:
        scattering("scatter")(b)
        b.spec.neuralNetwork.layers[0].scatter.mode = 9

    def odd_axis(b: Any) -> None:
        scattering("scatter", axis=7)(b)

    def huge(b: Any) -> None:
        b.add_nms("l", ["x0", "x1"], ["y0", "y1", "y2", "y3"], 0.5, 0.5, (1 << 63) - 1)

    def rank(b: Any) -> None:
        b.add_crop_resize("l", ["x0", "x1"], "y0")

    for build in (odd_mode, odd_axis, huge, rank):
        with pytest.raises(FormatError, match="'l'"):
            program(network(build, (2, 3, 4), (2, 3, 4), (2, 3, 4))).predict(
                {"x0": np.ones((2, 3, 4)), "x1": np.ones((2, 3, 4)), "x2": np.ones((2, 3, 4))}
            )
