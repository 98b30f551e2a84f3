"""What Core AI has no place for, in the metadata of a model that was made of a package: that an input is an image, the
bounds of flexible shapes, defaults of inputs, and the labels of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from corepress.errors import FormatError
from corepress.formats.features import Feature, Interface

# The key of the metadata that holds it, for each function.
KEY = "corepress.interface"


@dataclass(frozen=True)
class Kept:
    """What a function was described as. `classes`: the labels, in the order of the probabilities."""

    interface: Interface
    classes: tuple[str | int, ...] = ()


def to_metadata(functions: Mapping[str, Kept]) -> dict[str, Any]:
    """The interfaces of functions as values of JSON."""
    return {name: _written(kept) for name, kept in functions.items()}


def own_metadata(metadata: Any) -> dict[str, Any]:
    """Of the metadata of a model, what its maker added. (The first versions of coreai-core have two names for it.)"""
    for name in ("custom_metadata", "creator_defined_metadata"):
        if hasattr(metadata, name):
            return dict(getattr(metadata, name))
    return {}


def from_metadata(metadata: Mapping[str, Any], function: str) -> Kept | None:
    """What is kept of a function; None where there is nothing, as in models of others. A FormatError for what is
    damaged."""
    found = metadata.get(KEY)
    if found is None:
        return None
    try:
        own = found[function]
        inputs, outputs = (tuple(map(_feature, own[key])) for key in ("inputs", "outputs"))
        interface = Interface(inputs, outputs, (), str(own["label"]), str(own["probabilities"]))
        return Kept(interface, tuple(own["classes"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"what the metadata keep of function {function!r} under {KEY} is damaged") from error


def _written(kept: Kept) -> dict[str, Any]:
    interface = kept.interface
    return {
        "inputs": [_plain(feature) for feature in interface.inputs],
        "outputs": [_plain(feature) for feature in interface.outputs],
        "label": interface.label,
        "probabilities": interface.probabilities,
        "classes": list(kept.classes),
    }


def _plain(feature: Feature) -> dict[str, Any]:
    """A feature without what is not there: Core AI's metadata have no place for nothing."""
    values = {field.name: getattr(feature, field.name) for field in fields(Feature)}
    plain = {name: _listed(value) for name, value in values.items() if value is not None}
    return plain | {"dtype": np.dtype(feature.dtype).name}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _feature(value: Mapping[str, Any]) -> Feature:
    return Feature(
        name=str(value["name"]),
        kind=str(value["kind"]),
        shape=_sizes(value["shape"]),
        dtype=np.dtype(value["dtype"]),
        shapes=tuple(map(_sizes, value["shapes"])),
        ranges=tuple((int(low), int(high)) for low, high in value["ranges"]),
        color=str(value["color"]),
        optional=bool(value["optional"]),
        default=float(value["default"]) if "default" in value else None,
        items=str(value["items"]),
    )


def _sizes(value: Sequence[Any]) -> tuple[int, ...]:
    return tuple(map(int, value))
