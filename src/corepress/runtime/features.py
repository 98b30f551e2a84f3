"""What a model takes and gives: its named inputs, outputs and states, checked and turned into tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import ConfigError, FormatError
from corepress.mlprogram.schema import ModelDescription
from corepress.runtime.limits import LIMIT

# Enumerations of Apple's FeatureTypes.proto.
_ARRAY_TYPES = {65568: np.float32, 65600: np.float64, 131104: np.int32, 131080: np.int8, 65552: np.float16}
_COLORS = {10: "grayscale", 20: "rgb", 30: "bgr", 40: "grayscale_float16"}
_PIL_MODES = {"grayscale": "L", "rgb": "RGB", "bgr": "RGB", "grayscale_float16": "F"}
_SCALARS = {"int64Type": np.int64, "doubleType": np.float64}


@dataclass(frozen=True)
class Feature:
    """One input, output or state.

    `kind`: "array", "image", "number", "string", "dictionary" or "sequence". `shape`: of an array; of an image
    (1, channels, height, width). `shapes`: all that are allowed, when they are enumerated. `ranges`: (lowest, highest)
    for each axis, -1 for no limit. `default`: of an optional input.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: Any = np.float32
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    color: str = ""
    optional: bool = False
    default: float | None = None

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of that shape may be given."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high < 0 or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape in self.shapes or shape == self.shape or not self.shape

    def describe(self) -> str:
        """The allowed shapes in words."""
        if self.ranges:
            return "x".join(
                str(low) if low == high else f"{low}..{high if high >= 0 else ''}" for low, high in self.ranges
            )
        return " or ".join("x".join(map(str, shape)) for shape in self.shapes or (self.shape,))


@dataclass(frozen=True)
class Interface:
    """The inputs, outputs and states of one function, and the names of a classifier's results."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]
    label: str = ""
    probabilities: str = ""


def interface_of(description: bytes, function: str) -> Interface:
    """What the description of a model says of one of its functions."""
    parsed = _parsed(description)
    found = next((f for f in parsed.functions if f.name == function), parsed)
    return Interface(
        tuple(map(_feature, found.input)),
        tuple(map(_feature, found.output)),
        tuple(map(_feature, found.state)),
        found.predictedFeatureName,
        found.predictedProbabilitiesName,
    )


def default_function(description: bytes) -> str:
    """The function that a model runs when none is named."""
    return _parsed(description).defaultFunctionName or "main"


def _parsed(description: bytes) -> Any:
    try:
        return ModelDescription.FromString(description)
    except (DecodeError, ValueError) as error:
        raise FormatError(f"the description of the model's inputs and outputs is damaged: {error}") from error


def _feature(described: Any) -> Feature:
    kind = described.type.WhichOneof("Type")
    optional = bool(described.type.isOptional)
    if kind in ("multiArrayType", "stateType"):
        array = described.type.multiArrayType if kind == "multiArrayType" else described.type.stateType.arrayType
        return _array(described.name, array, optional)
    if kind == "imageType":
        return _image(described.name, described.type.imageType, optional)
    if kind in _SCALARS:
        return Feature(described.name, "number", (), _SCALARS[kind], optional=optional)
    if kind is None:
        raise FormatError(f"feature {described.name!r} has no type")
    return Feature(described.name, kind.removesuffix("Type"), optional=optional)


def _array(name: str, array: Any, optional: bool) -> Feature:
    dtype = _ARRAY_TYPES.get(array.dataType)
    if dtype is None:
        raise FormatError(f"feature {name!r} has the unknown data type {array.dataType}")
    default = array.WhichOneof("defaultOptionalValue")
    if min(array.shape, default=0) < 0 or math.prod(array.shape) > LIMIT:
        raise FormatError(f"feature {name!r} can't have the shape {'x'.join(map(str, array.shape))}")
    return Feature(
        name,
        "array",
        tuple(array.shape),
        dtype,
        tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes),
        tuple((r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges),
        optional=optional,
        default=None if default is None else getattr(array, default),
    )


def _image(name: str, image: Any, optional: bool) -> Feature:
    color = _COLORS.get(image.colorSpace)
    if color is None:
        raise FormatError(f"image {name!r} has the unknown color space {image.colorSpace}")
    channels = 3 if color in ("rgb", "bgr") else 1

    def shape(size: Any) -> tuple[int, ...]:
        return (1, channels, int(size.height), int(size.width))

    sizes = tuple(map(shape, image.enumeratedSizes.sizes))
    ranges: tuple[tuple[int, int], ...] = ()
    if image.WhichOneof("SizeFlexibility") == "imageSizeRange":
        height, width = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
        ranges = (
            (1, 1),
            (channels, channels),
            (height.lowerBound, height.upperBound),
            (width.lowerBound, width.upperBound),
        )
    return Feature(name, "image", shape(image), np.float32, sizes, ranges, color, optional)


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
            raise FormatError(f"output {feature.name!r} is described as an {feature.kind}, but is none")
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
