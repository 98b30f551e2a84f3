"""The values that a model takes and gives, checked and turned into tensors and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import ConfigError, FormatError
from corepress.formats.features import Feature

_PIL_MODES = {"grayscale": "L", "rgb": "RGB", "bgr": "RGB", "grayscale_float16": "F"}


def to_tensors(features: tuple[Feature, ...], given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Check the values that a caller gave and make tensors of them; a ConfigError names what does not fit."""
    names = [feature.name for feature in features]
    for name in given:
        if name not in names:
            raise ConfigError(f"there is no input {name!r}; the inputs are {', '.join(names) or 'none'}")
    tensors = {}
    for feature in features:
        if feature.name in given:
            tensors[feature.name] = _to_tensor(feature, given[feature.name])
        elif feature.default is not None:
            tensors[feature.name] = torch.from_numpy(np.full(feature.shape, feature.default, feature.dtype))
        elif feature.optional:
            raise ConfigError(f"input {feature.name!r} is optional but has no default: it must be given")
        else:
            raise ConfigError(f"input {feature.name!r} is missing")
    return tensors


def _to_tensor(feature: Feature, value: Any) -> Tensor:
    if feature.kind == "image":
        array = _pixels(feature, value)
    elif feature.kind in ("array", "number"):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    else:
        raise ConfigError(f"input {feature.name!r} is a {feature.kind}, which an ML program can't take")
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"input {feature.name!r} must be numbers, not {array.dtype}")
    if not feature.allows(array.shape):
        shape = "x".join(map(str, array.shape)) or "a scalar"
        raise ConfigError(f"input {feature.name!r} has the shape {shape}, but must be {feature.describe()}")
    # A copy: what the model does must not reach the caller's array.
    return torch.from_numpy(np.array(array, feature.dtype, order="C"))


def _pixels(feature: Feature, value: Any) -> NDArray[Any]:
    """An image as (1, channels, height, width) from 0 to 255, in the order of colors that the model wants.

    `value`: a PIL image or an array (height, width[, 3]) in RGB, or an array that has that form already.
    """
    if hasattr(value, "convert"):
        value = value.convert(_PIL_MODES[feature.color])
    pixels = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if pixels.ndim == 2:
        return pixels[None, None]
    if pixels.ndim != 3:
        return pixels
    pixels = pixels.transpose(2, 0, 1)[None]
    return pixels[:, ::-1] if feature.color == "bgr" else pixels


def from_value(feature: Feature, value: Any) -> Any:
    """An output as Core ML gives it: an array of the described type, an image, a label, or a dictionary."""
    if not isinstance(value, Tensor):
        if feature.kind in ("array", "image"):
            raise FormatError(f"output {feature.name!r} is described as an {feature.kind}, but is not one")
        return value
    value = value.float() if value.dtype == torch.bfloat16 else value  # which NumPy does not have
    array = value.detach().cpu().numpy()
    if feature.kind == "image":
        return _picture(feature, array)
    if feature.kind == "number":
        if not array.size:
            raise FormatError(f"output {feature.name!r} is described as a number, but is empty")
        return array.reshape(-1)[0].astype(feature.dtype)
    return array.astype(feature.dtype) if feature.kind == "array" else array


def _picture(feature: Feature, array: NDArray[Any]) -> Any:
    """A PIL image; where PIL is missing the array (height, width[, 3]) that it would hold, in RGB."""
    if array.ndim not in (3, 4) or array.shape[:-3] not in ((), (1,)) or array.shape[-3] != feature.shape[1]:
        raise FormatError(f"output {feature.name!r} is described as an image, but has the shape {array.shape}")
    pixels = array.reshape(array.shape[-3:]).transpose(1, 2, 0)
    pixels = pixels[..., 0] if feature.shape[1] == 1 else pixels[..., ::-1] if feature.color == "bgr" else pixels
    if feature.color == "grayscale_float16":
        pixels = pixels.astype(np.float32)  # PIL's mode F
    else:
        pixels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    try:
        from PIL import Image
    except ImportError:
        return np.ascontiguousarray(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels))
