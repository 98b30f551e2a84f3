"""What a model takes and gives: its named inputs, outputs and states, as its description says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.schema import DictionaryFeatureType, Metadata, ModelDescription, SequenceFeatureType

# Elements of one value; those of real models stay far below.
MAX_ELEMENTS = 1 << 31
# Enumerations of Apple's FeatureTypes.proto.
_ARRAY_TYPES = {65568: np.float32, 65600: np.float64, 131104: np.int32, 131080: np.int8, 65552: np.float16}
_COLORS = {10: "grayscale", 20: "rgb", 30: "bgr", 40: "grayscale_float16"}
_SCALARS = {"int64Type": np.int64, "doubleType": np.float64}


@dataclass(frozen=True)
class Feature:
    """One input, output or state.

    `kind`: "array", "image", "number", "string", "dictionary" or "sequence". `shape`: of an array; of an image
    (1, channels, height, width). `shapes`: all that are allowed, when they are enumerated. `ranges`: (lowest, highest)
    for each axis, -1 for no limit. `default`: of an optional input. `items`: "string" or "int64", the keys of a
    dictionary or the items of a sequence.
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
    items: str = ""

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
    message = parsed(description)
    found = next((f for f in message.functions if f.name == function), message)
    return Interface(
        tuple(map(feature_of, found.input)),
        tuple(map(feature_of, found.output)),
        tuple(map(feature_of, found.state)),
        found.predictedFeatureName,
        found.predictedProbabilitiesName,
    )


def default_function(description: bytes) -> str:
    """The function that a model runs when none is named."""
    return parsed(description).defaultFunctionName or "main"


def parsed(description: bytes) -> Any:
    """The message `ModelDescription`."""
    try:
        return ModelDescription.FromString(description)
    except (DecodeError, ValueError) as error:
        raise FormatError("the description of the model's inputs and outputs is damaged") from error


def metadata_of(spec: Any) -> dict[str, str]:
    """What is written in a model about it; without the entries that are empty."""
    try:
        found = Metadata.FromString(parsed(spec.description).metadata)
    except (DecodeError, ValueError):
        return {}
    fields = {
        "description": found.shortDescription,
        "version": found.versionString,
        "author": found.author,
        "license": found.license,
    }
    return {name: text for name, text in fields.items() if text} | {
        entry.key: entry.value for entry in found.userDefined if entry.value
    }


def feature_of(described: Any) -> Feature:
    """What the message `FeatureDescription` says; a FormatError where it can't be so."""
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
    name = kind.removesuffix("Type")
    return Feature(described.name, name, optional=optional, items=_items(name, getattr(described.type, kind)))


def _items(kind: str, content: bytes) -> str:
    message = {"dictionary": DictionaryFeatureType, "sequence": SequenceFeatureType}.get(kind)
    if message is None:
        return ""
    try:
        found = message.FromString(content)
    except (DecodeError, ValueError) as error:
        raise FormatError(f"the description of a {kind} is damaged") from error
    chosen = found.WhichOneof("KeyType" if kind == "dictionary" else "Type")
    return "int64" if str(chosen).startswith("int64") else "string"


def _array(name: str, array: Any, optional: bool) -> Feature:
    dtype = _ARRAY_TYPES.get(array.dataType)
    if dtype is None:
        raise UnsupportedError(f"feature {name!r} has the unknown data type {array.dataType}")
    default = array.WhichOneof("defaultOptionalValue")
    if min(array.shape, default=0) < 0 or math.prod(array.shape) > MAX_ELEMENTS:
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
        raise UnsupportedError(f"image {name!r} has the unknown color space {image.colorSpace}")
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
