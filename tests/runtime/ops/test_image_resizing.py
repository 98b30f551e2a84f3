from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import corepress.runtime.ops.image_resizing  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, run, same
from tests.runtime.oracle_torch import converted

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
SIZES = [(1, 1), (1, 4), (2, 5), (2, 6), (5, 2), (4, 1), (7, 3), (3, 7), (4, 4)]


def grid(size, count, mode):
    """The points of the documentation, where it divides by zero those of its first point."""
    if mode == "ALIGN_CORNERS" and count == 1:
        return [(size - 1) / 2]
    delta = max(1, size - 1) / count
    first, spacing = {
        "STRICT_ALIGN_CORNERS": (0, (size - 1) / max(count - 1, 1)),
        "ALIGN_CORNERS": (0, (size - 1) / max(count - 1, 1)),
        "DEFAULT": (0, (size - size / count) / max(count - 1, 1)),
        "OFFSET_CORNERS": (0.5 * delta, delta),
        "UNALIGN_CORNERS": (0.5 * size / count - 0.5, size / count),
    }[mode]
    return [min(size - 1, max(0, first + i * spacing)) for i in range(count)]


def linear(x, axis, points):
    """Interpolation of `x` along an axis, point by point."""
    slices = []
    for point in points:
        low = min(math.floor(point), x.shape[axis] - 1)
        high = min(low + 1, x.shape[axis] - 1)
        slices.append(x.take(low, axis) * (1 - (point - low)) + x.take(high, axis) * (point - low))
    return np.stack(slices, axis)


def test_grids_of_the_documentation():
    x = np.array([[[0, 1]]], np.float32)
    for mode, five, six in (
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
    ):
        for points in (five, six):
            given = {"x": x, "target_size_height": 1, "target_size_width": len(points), "sampling_mode": mode}
            same(run("resize_bilinear", **given), np.array([[points]], np.float32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("height, target_height", SIZES)
def test_resize_bilinear(height, target_height, mode):
    for width, target_width in ((3, 5), (6, 2)):
        x = numbers(1, (2, 3, height, width))
        expected = linear(x.astype(np.float64), 2, grid(height, target_height, mode))
        expected = linear(expected, 3, grid(width, target_width, mode))
        given = {"target_size_height": target_height, "target_size_width": target_width, "sampling_mode": mode}
        same(run("resize_bilinear", x=x, **given), expected.astype(np.float32), 1e-5, 1e-5)
        same(run("resize_bilinear", x=x[0], **given), expected[0].astype(np.float32), 1e-5, 1e-5)
        same(run("resize_bilinear", x=x.astype(np.float16), **given), expected.astype(np.float16), 5e-3, 5e-3)


@pytest.mark.parametrize("mode", MODES)
def test_resize_is_resize_bilinear(mode):
    x = numbers(1, (2, 3, 4, 5))
    given = {"resized_dims": 2, "sampling_mode": mode}
    for height, width in ((7, 2), (4, 5)):
        expected = run("resize_bilinear", x=x, target_size_height=height, target_size_width=width, sampling_mode=mode)
        same(run("resize", x=x, shape=[height, width], **given), expected)
        same(run("resize", x=x, shape=[9, 9, height, width], **given), expected)
    # 0 stands for the size of the input.
    same(run("resize", x=x, shape=[3, 0, 0], **given), expected)


def test_resize_of_one_or_three_dimensions():
    x = numbers(1, (2, 3, 4, 5))
    one = linear(x, 3, grid(5, 8, "DEFAULT"))
    same(run("resize", x=x, shape=[8], resized_dims=1), one, 1e-5, 1e-5)
    three = linear(linear(one, 2, grid(4, 2, "DEFAULT")), 1, grid(3, 6, "DEFAULT"))
    same(run("resize", x=x, shape=[6, 2, 8], resized_dims=3), three, 1e-5, 1e-5)


def test_resize_of_integers():
    x = np.array([[[0, 100, -7]]], np.int32)
    same(run("resize", x=x, shape=[1, 6], resized_dims=2), np.array([[[0, 50, 100, 46, -7, -7]]], np.int32))
    nearest = run("resize", x=x, shape=[2, 6], resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR")
    same(nearest, np.array([[[0, 0, 100, 100, -7, -7]] * 2], np.int32))


@pytest.mark.parametrize("size, target", SIZES)
def test_nearest_neighbors(size, target):
    x = numbers(1, (1, 2, size, 3), "float16")
    image = torch.from_numpy(x).float()
    centres = F.interpolate(image, (target, 6), mode="nearest-exact").half().numpy()
    same(run("resize_nearest_neighbor", x=x, target_size_height=target, target_size_width=6), centres)
    for mode in ("DEFAULT", "UNALIGN_CORNERS"):
        given = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": mode}
        same(run("resize", x=x, shape=[target, 6], resized_dims=2, **given), centres)
    corners = F.interpolate(image, (target, 6), mode="nearest").half().numpy()
    scales = {"scale_factor_height": (target + 1e-4) / size, "scale_factor_width": 2}
    same(run("upsample_nearest_neighbor", x=x, **scales), corners)


@pytest.mark.parametrize("target", range(1, 40))
def test_nearest_neighbors_are_exact(target):
    x = np.arange(23, dtype=np.float32).reshape(1, 1, 23)
    expected = [i * 23 // target for i in range(target)]
    ours = run("upsample_nearest_neighbor", x=x, scale_factor_width=(target + 1e-4) / 23)
    assert ours.ravel().tolist() == expected
    expected = [(2 * i + 1) * 23 // (2 * target) for i in range(target)]
    ours = run("resize_nearest_neighbor", x=x, target_size_height=1, target_size_width=target)
    assert ours.ravel().tolist() == expected


def test_nearest_corners():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    given = {"resized_dims": 1, "interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "ALIGN_CORNERS"}
    assert run("resize", x=x, shape=[7], **given).ravel().tolist() == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "size, target", [((10, 7), (20, 21)), ((10, 7), (23, 11)), ((8, 8), (5, 6)), ((1, 5), (3, 20))]
)
def test_upsample_is_pytorchs(size, target):
    x = torch.randn(1, 2, *size)
    for align_corners in (True, False):

        def bilinear(x, align_corners=align_corners):
            return F.interpolate(x, target, mode="bilinear", align_corners=align_corners)

        ours = run("upsample_bilinear", x=x.numpy(), **converted("upsample_bilinear", bilinear, x))
        same(ours, bilinear(x).numpy(), 1e-5, 1e-5)

    def nearest(x):
        return F.interpolate(x, target, mode="nearest")

    arguments = converted("upsample_nearest_neighbor", nearest, x)
    same(run("upsample_nearest_neighbor", x=x.numpy(), **arguments), nearest(x).numpy())


@pytest.mark.parametrize("scale", [1.1, 1.7, 2.3, 2.6, 3.17, 0.7])
def test_sizes_are_those_that_coremltools_declares(scale):
    from coremltools.converters.mil.mil import Builder, Function
    from coremltools.converters.mil.mil import types as mil_types

    for size in range(1, 30):
        if size * scale < 1:
            continue
        x = np.zeros((1, 1, size), np.float32)
        with Function({"x": Builder.placeholder(x.shape, mil_types.fp32)}) as function:
            declared = Builder.upsample_bilinear(x=function.inputs["x"], scale_factor_width=scale).shape
        assert run("upsample_bilinear", x=x, scale_factor_width=scale).shape == tuple(declared)


def test_centers_of_upsample_bilinear():
    x = np.array([[[[1, 2]]]], np.float32)
    for align, half, expected in (
        (True, None, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (True, False, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (False, None, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, True, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, False, [1, 4 / 3, 5 / 3, 2, 2, 2]),
    ):
        scales = {"scale_factor_height": 2, "scale_factor_width": 3}
        ours = run("upsample_bilinear", x=x, **scales, align_corners=align, half_pixel_centers=half)
        same(ours, np.array([[[expected] * 2]], np.float32))


def test_facts_of_coremltools_on_resizing():
    x = np.array([[[[1.5, -2.5, 3.5]]]], np.float32)
    for height, width, expected in (
        (1.0, 1.0, x),
        (3.17, 0.67, np.float32([[[[1.5, -2.5]] * 3]])),
        (2.0, 1.12, x.repeat(2, 2)),
    ):
        same(run("upsample_nearest_neighbor", x=x, scale_factor_height=height, scale_factor_width=width), expected)
    x = np.float32([[[[0], [1]]]])
    given = {"resized_dims": 2, "interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "DEFAULT"}
    same(run("resize", x=x, shape=[1, 1, 3, 2], **given), np.float32([[[[0, 0], [1, 1], [1, 1]]]]))


def test_crop():
    x = numbers(1, (2, 3, 5, 6), "float16")
    same(run("crop", x=x, crop_height=[1, 2], crop_width=[0, 3]), x[:, :, 1:3, :3])
    same(run("crop", x=x[0], crop_height=[0, 0], crop_width=[2, 0]), x[0, :, :, 2:])


def test_errors():
    x = numbers(1, (1, 1, 3, 3))
    with pytest.raises(ValueError, match="sampling_mode 'ODD' is unknown"):
        run("resize_bilinear", x=x, target_size_height=2, target_size_width=2, sampling_mode="ODD")
    with pytest.raises(ValueError, match="interpolation_mode 'CUBIC' is unknown"):
        run("resize", x=x, shape=[2, 2], resized_dims=2, interpolation_mode="CUBIC")
