"""Resizing, cropping and sampling of images, which lie in the last two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import Ints, operation


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.is_mps else x.double()  # MPS has no float64


def _points(extent: Tensor, count: int, mode: str) -> Tensor:
    """`count` points between 0 and `extent`, spread by a sampling mode; for extents [...] points [..., count]."""
    extent = extent.unsqueeze(-1)
    steps = torch.arange(count, device=extent.device, dtype=extent.dtype)
    if mode == "ALIGN_CORNERS" and count == 1:
        return extent / 2
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return extent * (steps / max(count - 1, 1))
    if mode == "DEFAULT":
        points = steps * (extent + 1) / count
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * extent.clamp(min=1) / count
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (extent + 1) / count - 0.5
    else:
        raise ValueError(f"sampling_mode {mode!r} is unknown")
    return points.clamp(min=0).minimum(extent)


def _linear(size: int, target: int, mode: str) -> Tensor:
    return _points(torch.tensor(size - 1, dtype=torch.float64), target, mode)


def _nearest(size: int, target: int, offset: float) -> Tensor:
    """The whole points below (i + offset) * size / target."""
    return ((torch.arange(target, dtype=torch.float64) + offset) * size / target).floor().long()


def _resized(x: Tensor, points: Mapping[int, Tensor]) -> Tensor:
    """`x` at the points of each axis (-1 the last), interpolated linearly between elements; in float32 for fp16."""
    y = _wide(x) if x.dtype == torch.int32 else x.float()
    for axis, places in points.items():
        low = places.floor()
        first, share = low.long().to(y.device), (places - low).to(y.device, y.dtype)
        start = _taken(y, axis, first)
        if _are_whole(places, low):
            y = start
        else:
            end = _taken(y, axis, (first + 1).clamp(max=y.shape[axis] - 1))
            y = torch.lerp(start, end, share.view(-1, *[1] * (-axis - 1)))
    return y.to(x.dtype)


def _are_whole(places: Tensor, low: Tensor) -> bool:
    # `torch.export` has no numbers to look at; what is between two elements by nothing is the first of them, too.
    return not places.is_floating_point() or (not torch.compiler.is_compiling() and bool((places == low).all()))


def _taken(x: Tensor, axis: int, indices: Tensor) -> Tensor:
    # index_select takes 15 times as long on the last axis.
    shape = list(x.shape)
    shape[axis] = len(indices)
    return x.gather(axis, indices.view(-1, *[1] * (-axis - 1)).expand(shape))


def _scaled(size: int, factor: float) -> int:
    if factor == int(factor):
        return size * int(factor)  # a symbol stays one, where shapes are flexible
    # In float32, as the factor is: 2.3 times 10 is 23 there.
    return math.floor(np.float32(size) * np.float32(factor))


@operation
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    limits.check(*x.shape[:-2], height, width)
    return _resized(x, {-2: _nearest(x.shape[-2], height, 0), -1: _nearest(x.shape[-1], width, 0)})


@operation
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return resize_bilinear(x, height, width, mode)


@operation
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    limits.check(*x.shape[:-2], target_size_height, target_size_width)
    # Between the centres of the pixels, unlike upsample_nearest_neighbor.
    height, width = x.shape[-2:]
    return _resized(x, {-2: _nearest(height, target_size_height, 0.5), -1: _nearest(width, target_size_width, 0.5)})


@operation
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    limits.check(*x.shape[:-2], target_size_height, target_size_width)
    if x.dim() == 4 and sampling_mode in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"):
        # PyTorch's own, and fast.
        sizes, align = (target_size_height, target_size_width), sampling_mode == "STRICT_ALIGN_CORNERS"
        return F.interpolate(x, sizes, mode="bilinear", align_corners=align)
    height, width = x.shape[-2:]
    rows = _linear(height, target_size_height, sampling_mode)
    return _resized(x, {-2: rows, -1: _linear(width, target_size_width, sampling_mode)})


@operation
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` dimensions take the last sizes of `shape`, 0 standing for that of `x`."""
    targets = {axis: shape[axis] or x.shape[axis] for axis in range(-resized_dims, 0)}
    limits.check(*x.shape[: x.dim() - resized_dims], *targets.values())
    points = {}
    for axis, target in targets.items():
        size = x.shape[axis]
        if interpolation_mode == "LINEAR":
            points[axis] = _linear(size, target, sampling_mode)
        elif interpolation_mode != "NEAREST_NEIGHBOR":
            raise ValueError(f"interpolation_mode {interpolation_mode!r} is unknown")
        elif sampling_mode == "DEFAULT":
            points[axis] = _nearest(size, target, 0.5)  # as resize_nearest_neighbor
        else:
            points[axis] = (_linear(size, target, sampling_mode) + 0.5).floor().long()
    return _resized(x, points)


@operation
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operation
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """iOS17 gives `boxes`, [N, 4], and gets [N, C, H, W].

    iOS15 and iOS16 give `roi`. As [N, 1, 4, 1, 1] it cuts each box from all B images: [N, B, C, H, W]. As
    [N, 1, 5, 1, 1] the index of the image comes first: [N, 1, C, H, W].
    """
    each = 1
    if roi is not None:
        boxes = roi.flatten(1)
        if boxes.shape[1] == 5:
            box_indices, boxes = boxes[:, 0], boxes[:, 1:]
        else:
            each = x.shape[0]
            box_indices = torch.arange(each, device=x.device).repeat(len(boxes))
            boxes = boxes.repeat_interleave(each, 0)
    elif boxes is None:
        raise ValueError("crop_resize needs roi or boxes")
    if box_indices is None:
        box_indices = torch.arange(len(boxes), device=x.device)

    height, width = x.shape[-2:]
    limits.check(len(boxes), x.shape[1], target_height, target_width)
    top, left, bottom, right = _corners(_wide(boxes) * spatial_scale, box_coordinate_mode)
    if normalized_coordinates:
        top, left, bottom, right = top * (height - 1), left * (width - 1), bottom * (height - 1), right * (width - 1)
    rows = top[:, None] + _points(bottom - top, target_height, sampling_mode)
    columns = left[:, None] + _points(right - left, target_width, sampling_mode)

    y = _sampled(x, box_indices, rows[:, :, None].clamp(0, height - 1), columns[:, None].clamp(0, width - 1))
    inside = ((rows >= 0) & (rows <= height - 1))[:, :, None] & ((columns >= 0) & (columns <= width - 1))[:, None]
    y = torch.where(inside[:, None], y, pad_value).to(x.dtype)
    return y if roi is None else y.reshape(-1, each, *y.shape[1:])


def _corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom and right of boxes [N, 4]."""
    kind, _, order = mode.removesuffix("_FIRST").rpartition("_")
    if kind not in ("CORNERS", "CENTER_SIZE") or order not in ("HEIGHT", "WIDTH"):
        raise ValueError(f"box_coordinate_mode {mode!r} is unknown")
    h, w, more_h, more_w = boxes[:, [0, 1, 2, 3] if order == "HEIGHT" else [1, 0, 3, 2]].unbind(1)
    if kind == "CORNERS":
        return h, w, more_h, more_w
    return h - more_h / 2, w - more_w / 2, h + more_h / 2, w + more_w / 2


@operation
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    if coordinates_mode.lower() != "normalized_minus_one_to_one":
        raise ValueError(f"coordinates_mode {coordinates_mode!r} is unknown")

    limits.check(*x.shape[:2], output_height, output_width)

    def places(count: int) -> Tensor:
        # One pixel lies in the middle; without align_corners the ends are the edges of pixels, not their centres.
        steps = torch.arange(count, device=x.device) * 2.0 - (count - 1)
        return steps / (max(count - 1, 1) if align_corners else count)

    a0, a1, a2, b0, b1, b2 = transform_matrix.float().expand(x.shape[0], 6)[:, :, None, None].unbind(1)
    rows, columns = places(output_height)[:, None], places(output_width)
    coordinates = torch.stack([a0 * columns + a1 * rows + a2, b0 * columns + b1 * rows + b2], -1)
    return resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


@operation
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    limits.check(x.shape[1], *coordinates.shape[:-1])
    columns, rows = (
        _mirrored(_pixels(places.float(), size, coordinates_mode.lower(), align_corners), size, padding_mode.lower())
        for places, size in zip(coordinates.unbind(-1), (x.shape[3], x.shape[2]), strict=True)
    )
    if sampling_mode.lower() not in ("bilinear", "nearest"):
        raise ValueError(f"sampling_mode {sampling_mode!r} is unknown")
    images = torch.arange(x.shape[0], device=x.device)
    pad = padding_value if padding_mode.lower() == "constant" else None
    return _sampled(x, images, rows, columns, pad, sampling_mode.lower() == "nearest").to(x.dtype)


def _pixels(places: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates in pixels, 0 being the centre of the first."""
    if mode == "unnormalized":
        return places
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"coordinates_mode {mode!r} is unknown")
    return places * (size - 1) if align_corners else places * size - 0.5


def _mirrored(places: Tensor, size: int, mode: str) -> Tensor:
    """The places within the image that stand for those beyond it; a constant padding keeps these."""
    if mode == "constant":
        return places
    if mode in ("reflection", "symmetric"):
        low, span = (0.0, size - 1) if mode == "reflection" else (-0.5, size)
        way = (places - low).abs() % max(2 * span, 1)
        places = torch.minimum(way, 2 * span - way) + low
    elif mode != "border":
        raise ValueError(f"padding_mode {mode!r} is unknown")
    return places.clamp(0, size - 1)


def _sampled(
    x: Tensor, images: Tensor, rows: Tensor, columns: Tensor, pad: float | None = None, nearest: bool = False
) -> Tensor:
    """Bilinear interpolation at points [N, H, W] of the images of these indices [N]: [N, C, H, W], in float32.

    Pixels beyond the image are `pad`; without it no point may lie there. `nearest`: the next pixel instead, of two
    equally near the even one.
    """
    height, width = x.shape[-2:]
    images, wide = images.long()[:, None, None], x.float()

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        values = wide[images, :, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
        if pad is None:
            return values
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return torch.where(inside[..., None], values, pad)

    # What is no number is no index.
    rows, columns = rows.nan_to_num(), columns.nan_to_num()
    if nearest:
        return pixels(rows.round(), columns.round()).movedim(-1, 1)
    top, left = rows.floor(), columns.floor()
    down, across = (rows - top).to(wide.dtype)[..., None], (columns - left).to(wide.dtype)[..., None]
    upper = torch.lerp(pixels(top, left), pixels(top, left + 1), across)
    lower = torch.lerp(pixels(top + 1, left), pixels(top + 1, left + 1), across)
    return torch.lerp(upper, lower, down).movedim(-1, 1)
