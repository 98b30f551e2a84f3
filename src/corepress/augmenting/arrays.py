"""Pictures and other numbers, varied: a part of a picture in another light, its mirror image, the mean of two samples.

Of these it is the light that makes fits carry to other pictures: with six photographs, layers of EfficientNet-Lite1 are
as near to the original on others as with twenty-three (the section on generalising in `docs/how_to.md` has numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

# The sides of the part that is cut out of a picture, of its own.
_CROPS = (0.7, 1.0)
# By how much brightness, contrast and colours differ: of half of the range of the numbers, and of a picture's own.
_LIGHT = 0.5
# How often a picture is turned into its mirror image, and two samples are mixed.
_OFTEN = 0.5


class Ends(NamedTuple):
    """The least and the greatest number of each channel in some pictures: (channels,), float32."""

    low: Array
    high: Array


def ends_of(pictures: Sequence[Array], *, channels_last: bool = False) -> Ends:
    """Of pictures, (1, channels, height, width) or with the channels last."""
    others = (0, 1, 2) if channels_last else (0, 2, 3)
    low, high = ([getattr(picture, end)(others) for picture in pictures] for end in ("min", "max"))
    return Ends(np.min(low, 0).astype(np.float32), np.max(high, 0).astype(np.float32))


def relit(value: Array, ends: Ends, random: np.random.Generator, *, channels_last: bool = False) -> Array:
    """A picture in another light: brighter or darker, of more or less contrast, each channel a little by itself; within
    the ends that its channels have in other pictures."""
    shape = (1, 1, 1, -1) if channels_last else (1, -1, 1, 1)
    low, high = (end.reshape(shape) for end in ends)
    contrast = random.uniform(1 - _LIGHT, 1 + _LIGHT) * random.uniform(1 - _LIGHT, 1 + _LIGHT, low.shape)
    brighter = random.uniform(-_LIGHT, _LIGHT, low.shape) * (high - low) / 2
    mean = value.mean((1, 2) if channels_last else (2, 3), keepdims=True, dtype=np.float32)
    return _as(np.clip((value - mean) * contrast + mean + brighter, low, high), value)


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
