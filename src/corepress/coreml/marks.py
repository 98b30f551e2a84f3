"""Constants that a rewrite put into a model, and that are no weights: compression leaves them alone.

Which ones these are stands in the model's own metadata, beside the entries that converters write, so that it goes along
with the file.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from corepress.formats.features import parsed
from corepress.formats.mlprogram import Model
from corepress.formats.schema import Metadata

KEY = "corepress.spared"
# Of a weight, its function and the name of its output.
Place = tuple[str, str]


def spare(model: Model, places: Iterable[Place]) -> None:
    """Let compression leave some constants alone from now on."""
    names = sorted({_name(place) for place in places} | _spared(model))
    if not names:
        return
    description, metadata = parsed(model.spec.description), _metadata(model)
    entry = next((entry for entry in metadata.userDefined if entry.key == KEY), None)
    if entry is None:
        entry = metadata.userDefined.add(key=KEY)
    entry.value = "\n".join(names)
    description.metadata = metadata.SerializeToString()
    model.spec.description = description.SerializeToString()


def spared(model: Model, places: Iterable[Place]) -> set[Place]:
    """Those of some constants that are left alone."""
    names = _spared(model)
    return {place for place in places if _name(place) in names} if names else set()


def _spared(model: Model) -> set[str]:
    return {
        name for entry in _metadata(model).userDefined if entry.key == KEY for name in entry.value.split("\n") if name
    }


def _metadata(model: Model) -> Metadata:
    try:
        return Metadata.FromString(parsed(model.spec.description).metadata)
    except (DecodeError, ValueError):
        return Metadata()  # which nobody needs in order to run a model


def _name(place: Place) -> str:
    return "/".join(place)
