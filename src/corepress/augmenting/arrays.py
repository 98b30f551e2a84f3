"""Pictures and other numbers, varied: parts of a picture, its mirror image, and the mean of two samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

# The sides of the part that is cut out of a picture, of its own.
_CROPS = (0.7, 1.0)
# How often a picture is turned into its mirror image, and two samples are mixed.
_OFTEN = 0.5


def cropped(value: Array, random: np.random.Generator, *, channels_last: bool = False) -> Array:
    """A part of a picture, (1, channels, height, width) or with the channels last, in the size of the whole; its
    mirror image every other time."""
    picture = torch.from_numpy(np.ascontiguousarray(value, np.float32))
    if channels_last:
        picture = picture.permute(0, 3, 1, 2)
    height, width = picture.shape[-2:]
    sides = [max(1, round(side * random.uniform(*_CROPS))) for side in (height, width)]
    top, left = (int(random.integers(0, whole - side + 1)) for whole, side in zip((height, width), sides, strict=True))
    part = picture[..., top : top + sides[0], left : left + sides[1]]
    found = torch.nn.functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)
    if random.random() < _OFTEN:
        found = found.flip(-1)
    if channels_last:
        found = found.permute(0, 2, 3, 1)
    return _as(found.numpy(), value)


def mixed(one: Array, other: Array, random: np.random.Generator) -> Array:
    """Every other time the mean of two arrays of one shape, the first one counting more (mixup, arXiv 1710.09412)."""
    share = random.uniform(0.5, 1)
    if one.shape != other.shape or random.random() >= _OFTEN:
        return one
    return _as(share * one.astype(np.float32) + (1 - share) * other.astype(np.float32), one)


def _as(found: Array, given: Array) -> Array:
    """Numbers of the type of those that were given."""
    return (found if np.issubdtype(given.dtype, np.floating) else np.rint(found)).astype(given.dtype)
