"""The operations of image_resizing that read an image at given places: crop_resize, resample, affine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import corepress.runtime.ops.image_resizing  # noqa: F401 - fills the registry
from tests.runtime.ops.test_image_resizing import MODES, grid, linear
from tests.runtime.oracle_ops import numbers, run, same
from tests.runtime.oracle_torch import converted

PADDINGS = ["constant", "border", "reflection", "symmetric"]
COORDINATES = ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]


def slow_crop(image, box, count, coordinate_mode, mode, normalized, scale, pad):
    """One box of one image [C, H, W] by its definition."""
    h, w = image.shape[1:]
    if "WIDTH" in coordinate_mode:
        box = [box[1], box[0], box[3], box[2]]
    if "CENTER" in coordinate_mode:
        box = [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]
    box = [b * scale * (n - 1 if normalized else 1) for b, n in zip(box, (h, w, h, w), strict=True)]
    y = np.full((len(image), *count), pad, np.float64)
    rows, columns = ([box[i] + point for point in grid(box[i + 2] - box[i] + 1, count[i], mode)] for i in (0, 1))
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        if 0 <= row <= h - 1 and 0 <= column <= w - 1:
            y[:, i, j] = linear(linear(image, 1, [row]), 2, [column])[:, 0, 0]
    return y


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "coordinate_mode",
    ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"],
)
def test_crop_resize_by_its_definition(coordinate_mode, mode):
    x = numbers(1, (2, 3, 6, 8))
    boxes = np.float32([[0, 0.1, 0.5, 0.6], [0.3, 0.25, 0.8, 1.2], [0.45, 0.5, 0.46, 0.5]])
    for normalized, scale, count in ((True, 1.0, (2, 3)), (False, 5.0, (4, 1)), (False, 4.0, (1, 5))):
        given = {"target_height": count[0], "target_width": count[1], "normalized_coordinates": normalized}
        given |= {
            "spatial_scale": scale,
            "box_coordinate_mode": coordinate_mode,
            "sampling_mode": mode,
            "pad_value": 7.0,
        }
        common = (count, coordinate_mode, mode, normalized, scale, 7.0)
        expected = np.float32([[slow_crop(image, box, *common) for image in x] for box in boxes])
        same(run("crop_resize", x=x, roi=boxes[:, None, :, None, None], **given), expected, 1e-4, 1e-5)
        same(run("crop_resize", x=x, boxes=boxes[:2], **given), expected[[0, 1], [0, 1]], 1e-4, 1e-5)
        indices = np.int32([1, 0, 1])
        chosen = expected[np.arange(3), indices]
        same(run("crop_resize", x=x, boxes=boxes, box_indices=indices, **given), chosen, 1e-4, 1e-5)
        roi = np.concatenate([indices[:, None], boxes], 1)[:, None, :, None, None].astype(np.float32)
        same(run("crop_resize", x=x, roi=roi, **given), chosen[:, None], 1e-4, 1e-5)


def test_facts_of_coremltools_on_crops():
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    given = {"x": x, "box_coordinate_mode": "CORNERS_HEIGHT_FIRST", "sampling_mode": "ALIGN_CORNERS"}
    two = {"target_height": 2, "target_width": 2}
    box = np.float32([1, 1, 2, 2]).reshape(1, 1, 4, 1, 1)
    same(run("crop_resize", **given, **two, roi=box), np.float32([6, 7, 10, 11]).reshape(1, 1, 1, 2, 2))
    same(run("crop_resize", **given, roi=box), np.float32([8.5]).reshape(1, 1, 1, 1, 1))
    same(run("crop_resize", **given, **two, roi=3 - box), np.float32([11, 10, 7, 6]).reshape(1, 1, 1, 2, 2))
    four = run("crop_resize", **given, target_height=4, target_width=4, roi=box)
    same(four.ravel()[[0, 1, 4, 15]], np.float32([6, 6 + 1 / 3, 7 + 1 / 3, 11]))
    roi = np.float32([0, 0, 0, 1 / 3, 1 / 3]).reshape(1, 1, 5, 1, 1)
    ours = run("crop_resize", **given, **two, roi=roi, normalized_coordinates=True)
    same(ours, np.float32([1, 2, 5, 6]).reshape(1, 1, 1, 2, 2))
    boxes = np.float32([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]])
    more = {"box_indices": np.int32([0, 0, 0]), "normalized_coordinates": True, "pad_value": 10.0}
    ours = run("crop_resize", **given, **two, boxes=boxes, **more)
    same(ours.ravel(), np.float32([3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3]), 1e-5)


def test_facts_of_accelerate_on_crops():
    rows = ["010000", "111000", "010909", "000090", "000909"]
    x = np.float32([[[[int(digit) for digit in row] for row in rows]]])
    boxes = np.float32([[1, 1, 3, 3], [4, 3, 3, 3]])
    given = {"x": x, "target_height": 3, "target_width": 3, "sampling_mode": "OFFSET_CORNERS"}
    given["box_coordinate_mode"] = "CENTER_SIZE_WIDTH_FIRST"
    ours = run("crop_resize", **given, boxes=boxes, box_indices=np.zeros(2, np.int32))
    same(ours, np.stack([x[0, :, :3, :3], x[0, :, 2:, 3:]]))


def test_ends_of_boxes_on_the_border_are_inside():
    x = np.ones((1, 1, 50, 64), np.float32)
    boxes = np.random.default_rng(1).uniform(0, 1, (200, 4)).astype(np.float32)
    boxes[:, 2:] = 1
    given = {"boxes": boxes, "box_indices": np.zeros(200, np.int32), "target_height": 7, "target_width": 9}
    y = run("crop_resize", x=x, **given, normalized_coordinates=True, sampling_mode="STRICT_ALIGN_CORNERS")
    assert (y == 1).all()


def test_types_of_crops():
    x = numbers(1, (2, 1, 6, 8), "float16")
    boxes = np.array([[0, 1, 3, 5]], np.uint16)
    ours = run("crop_resize", x=x, boxes=boxes, box_indices=np.array([1], np.uint16), target_height=4, target_width=5,
               sampling_mode="ALIGN_CORNERS")  # fmt: skip
    same(ours, x[1:, :, :4, 1:6])


def slow_resample(x, coordinates, nearest, padding, value, coordinates_mode, align_corners):
    """Every output pixel from an image that goes on for ever, continued by the padding."""

    def pixel(image, *place):
        for axis, size in enumerate(image.shape[1:]):
            at = int(place[axis])
            period = {"reflection": max(2 * size - 2, 1), "symmetric": 2 * size}.get(padding)
            if padding == "constant" and not 0 <= at < size:
                return np.full(len(image), value)
            if padding == "border":
                at = min(max(at, 0), size - 1)
            if period:
                at = at % period
                at = min(at, period - at if padding == "reflection" else period - 1 - at)
            place = (*place[:axis], at, *place[axis + 1 :])
        return image[(slice(None), *place)]

    y = np.zeros((*x.shape[:2], *coordinates.shape[1:3]))
    for n, i, j in itertools.product(range(len(x)), *map(range, coordinates.shape[1:3])):
        place = []
        for c, size in zip(coordinates[n, i, j, ::-1].astype(np.float64), x.shape[2:], strict=True):
            c = (c + 1) / 2 if coordinates_mode == "normalized_minus_one_to_one" else c
            if coordinates_mode != "unnormalized":
                c = c * (size - 1) if align_corners else c * size - 0.5
            place.append(c)
        if nearest:
            y[n, :, i, j] = pixel(x[n], *np.round(place))
            continue
        (r, c), (top, left) = place, np.floor(place)
        y[n, :, i, j] = sum(
            (1 - abs(r - row)) * (1 - abs(c - column)) * pixel(x[n], row, column)
            for row, column in itertools.product((top, top + 1), (left, left + 1))
        )
    return y


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("coordinates_mode", COORDINATES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_resample_by_its_definition(sampling, padding, coordinates_mode, align_corners):
    for size in ((4, 5), (1, 3)):
        x = numbers(1, (2, 3, *size))
        reach = 12 if coordinates_mode == "unnormalized" else 3
        coordinates = numbers(2, (2, 4, 6, 2), low=-reach, high=reach)
        common = (padding, 6.25, coordinates_mode, align_corners)
        expected = slow_resample(x, coordinates, sampling == "nearest", *common).astype(np.float32)
        given = dict(zip(("padding_mode", "padding_value", "coordinates_mode", "align_corners"), common, strict=True))
        given |= {"sampling_mode": sampling, "coordinates": coordinates}
        same(run("resample", x=x, **given), expected, 1e-4, 1e-4)
        half = run("resample", x=x.astype(np.float16), **given)
        same(half, expected.astype(np.float16), 5e-3, 5e-3)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_resample_is_pytorchs(sampling, padding, align_corners):
    x = torch.randn(1, 2, 5, 4)
    # Quarters of a pixel among them: nearest goes to the even one, too.
    places = torch.cat([torch.rand(1, 6, 5, 2) * 4 - 2, torch.arange(-15, 15).reshape(1, 3, 5, 2) / 8], 1)

    def function(x, places):
        return F.grid_sample(x, places, sampling, padding, align_corners)

    arguments = converted("resample", function, x, places)
    ours = run("resample", x=x.numpy(), coordinates=places.numpy(), **arguments)
    same(ours, function(x, places).numpy(), 1e-4, 1e-5)


def test_facts_of_coremltools_on_resampling():
    x = np.float32([[[[11, 22], [33, 44]]]])
    floats = np.float32([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2]).reshape(1, 2, 2, 2)
    whole = np.array([0, 0, 1, 1, 0, 0, 1, 1]).reshape(1, 2, 2, 2)
    for sampling, padding, value, mode, align, of_floats, of_whole in (
        ("bilinear", "constant", 6.17, COORDINATES[1], True, [8.585, 6.17, 27.5, 6.17], [27.5, 44, 27.5, 44]),
        ("nearest", "border", -1.0, COORDINATES[0], False, [11, 11, 11, 44], [11, 44, 11, 44]),
        ("bilinear", "reflection", -1.0, COORDINATES[2], True, [22, 36.3, 11, 34.1], [11, 44, 11, 44]),
        ("nearest", "symmetric", -1.0, COORDINATES[2], False, [22, 33, 11, 33], [11, 44, 11, 44]),
    ):
        given = {"sampling_mode": sampling, "padding_mode": padding, "padding_value": value}
        given |= {"x": x, "coordinates_mode": mode, "align_corners": align}
        same(run("resample", coordinates=floats, **given).ravel(), np.float32(of_floats), 1e-5)
        for dtype in ("int8", "uint8", "int16", "uint16", "int32", "float16"):
            same(run("resample", coordinates=whole.astype(dtype), **given).ravel(), np.float32(of_whole), 1e-5)


def test_coordinates_that_are_no_numbers():
    x = np.float32([[[[11, 22], [33, 44]]]])
    places = np.float32([np.nan, 0, np.inf, 0, -np.inf, 0]).reshape(1, 1, 3, 2)
    given = {"coordinates_mode": "unnormalized", "align_corners": True, "padding_value": 5.0}
    for padding, sampling in itertools.product(PADDINGS, ("bilinear", "nearest")):
        ours = run("resample", x=x, coordinates=places, padding_mode=padding, sampling_mode=sampling, **given)
        if padding in ("constant", "border"):
            same(ours.ravel()[1:], np.float32([5, 5] if padding == "constant" else [22, 11]))


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid behavior")
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("count", [(5, 6), (1, 3), (4, 1)])
def test_affine_is_pytorchs(count, align_corners):
    x, matrix = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 3)

    def function(x, matrix):
        places = F.affine_grid(matrix, (2, 3, *count), align_corners=align_corners)
        return F.grid_sample(x, places, align_corners=align_corners)

    arguments = converted("affine", function, x, matrix)
    given = {"x": x.numpy(), **arguments}
    ours = run("affine", transform_matrix=matrix.reshape(2, 6).numpy(), **given)
    same(ours, function(x, matrix).numpy(), 1e-4, 1e-4)
    shared = run("affine", transform_matrix=matrix[:1].reshape(1, 6).numpy(), **given)
    same(shared, function(x, matrix[:1].repeat(2, 1, 1)).numpy(), 1e-4, 1e-4)


def test_facts_of_coremltools_on_affine():
    x = np.float32([[[[11, 22], [33, 44]]]])
    given = {
        "x": x, "transform_matrix": np.float32([[-1, -2, -3.7, -1, 3.5, 1.2]]), "sampling_mode": "bilinear",
        "padding_mode": "constant", "padding_value": 0.0, "coordinates_mode": COORDINATES[1], "align_corners": True,
    }  # fmt: skip
    ours = run("affine", **given, output_height=3, output_width=3)
    same(ours.ravel(), np.float32([10.752501, 2.5025, 0, 1.9799997, 0, 0, 0, 0, 0]), 1e-4, 1e-5)
    ours = run("affine", **given, output_height=2, output_width=5)
    same(ours.ravel(), np.float32([10.752501, 5.94, 2.5025, 0.44000006, 0, 0, 0, 0, 0, 0]), 1e-4, 1e-5)


def test_errors():
    x = numbers(1, (1, 1, 3, 3))
    with pytest.raises(ValueError, match="box_coordinate_mode 'CORNERS' is unknown"):
        run("crop_resize", x=x, boxes=np.float32([[0, 0, 1, 1]]), box_coordinate_mode="CORNERS")
    with pytest.raises(ValueError, match="needs roi or boxes"):
        run("crop_resize", x=x)
    good = {"sampling_mode": "nearest", "padding_mode": "border", "coordinates_mode": "unnormalized"}
    for key in good:
        with pytest.raises(ValueError, match=f"{key} 'odd' is unknown"):
            given = good | {key: "odd", "padding_value": 0.0, "align_corners": True}
            run("resample", x=x, coordinates=np.zeros((1, 1, 1, 2), np.float32), **given)
