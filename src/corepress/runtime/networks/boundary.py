"""What a caller gives as the arrays that layers take, and what layers give as a caller expects it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress.errors import FormatError
from corepress.formats.features import Feature

_CHANNELS = {"rgb": ("red", "green", "blue"), "bgr": ("blue", "green", "red")}


@dataclass(frozen=True)
class Blob(Feature):
    """An input array of a network in which all arrays have five dimensions: it may come as a sequence of these."""

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Also [sequence, batch, channels, height, width] for [channels] or [channels, height, width]."""
        if super().allows(shape):
            return True
        return len(shape) == 5 and (*self.shape, 1, 1)[:3] == shape[2:] and len(self.shape) in (1, 3)


def described(feature: Feature, rank5: bool) -> Feature:
    """An input as this type of model has it: without a value an optional one is zero, such as a first state."""
    default = 0.0 if feature.optional and feature.kind == "array" and feature.default is None else feature.default
    feature = replace(feature, default=default)
    return Blob(**vars(feature)) if rank5 and feature.kind == "array" else feature


def as_array(x: Tensor, dtype: torch.dtype, rank5: bool) -> Tensor:
    """An input array: [channels] or [channels, height, width] in five dimensions, or as it is."""
    if rank5 and x.dim() == 1:
        x = x.view(1, 1, -1, 1, 1)
    elif rank5 and x.dim() == 3:
        x = x[None, None]
    elif rank5 and x.dim() != 5:
        raise ValueError(f"an array of rank {x.dim()} can't be an input: rank 1, 3 or 5 is needed")
    return x.to(dtype)


def as_image(
    x: Tensor, dtype: torch.dtype, rank5: bool, scale: Tensor, shift: Tensor, mean: Tensor | None = None
) -> Tensor:
    """An image (1, channels, height, width): pixels less the mean image, times a scale, plus one shift per channel."""
    x = x.to(dtype)
    x = (x if mean is None else x - mean.view(x.shape[-3:])) * scale + shift.view(-1, 1, 1)
    return x[None] if rank5 else x


def preparation(feature: Feature, entries: Iterable[Any], alone: bool) -> dict[str, Any]:
    """The arrays `scale`, `shift` and `mean` of an image; `alone`: entries without a name mean this one, too."""
    found: dict[str, Any] = {"scale": np.float32(1), "shift": np.zeros(feature.shape[1], np.float32)}
    for entry in entries:
        if entry.featureName != feature.name and not (alone and not entry.featureName):
            continue
        if entry.WhichOneof("preprocessor") == "meanImage":
            found["mean"] = np.array(entry.meanImage.meanImage, np.float32)
            if found["mean"].size != math.prod(feature.shape):
                raise FormatError(f"image {feature.name!r}: its mean image has another size")
        else:
            found["scale"] = np.float32(entry.scaler.channelScale or 1)
            names = _CHANNELS.get(feature.color, ("gray",))
            found["shift"] = np.array([getattr(entry.scaler, f"{name}Bias") for name in names], np.float32)
    return found


def as_output(x: Tensor, shape: Sequence[int], image: bool) -> Tensor:
    """An output: in the shape that is described if it fits, or without the dimensions that were added to the inputs."""
    if image:
        return x.reshape(x.shape[-3:])
    if x.dim() != 5:
        return x
    if shape and math.prod(shape) == x.numel():
        return x.reshape(list(shape))
    if x.shape[:2] == (1, 1):
        x = x[0, 0]
    return x[..., 0, 0] if x.dim() == 3 and x.shape[1:] == (1, 1) else x
