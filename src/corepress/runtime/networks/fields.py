"""The fields of a layer's message as Python values."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np

from corepress.errors import FormatError, UnsupportedError

# Those of recurrent layers: the names that the operations of MIL take, and the parameters that these stand for.
_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "linear": ("linear", {"alpha": 1, "beta": 0}),
    "ReLU": ("relu", {}),
    "tanh": ("tanh", {}),
    "scaledTanh": ("scaled_tanh", {"alpha": 1, "beta": 1}),
    "sigmoid": ("sigmoid", {}),
    "sigmoidHard": ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}),
}

# Of paddings of three dimensions, in the order of MIL.
_SIDES = [f"customPadding{side}" for side in ("Front", "Back", "Top", "Bottom", "Left", "Right")]
_GREATEST = (1 << 63) - 1  # PyTorch's numbers of elements and places are signed


def fields_of(message: Any, always: Collection[str] = ()) -> dict[str, Any]:
    """Those that are set, to other than 0, or named in `always`, but no weights: numbers, lists, names, namespaces.

    Paddings of three dimensions become one list, `customPadding`: before and after each, as operations of MIL have it.
    """
    wanted = {field.name for field, value in message.ListFields() if value or field.message_type}.union(always)
    found = {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if field.name in wanted and not _is_weight(field)
    }
    if any(side in found for side in _SIDES):
        found["customPadding"] = [found.pop(side, 0) for side in _SIDES]
    return found


def weights_of(message: Any) -> dict[str, Any]:
    """The messages of the weights that are fields of this one, by name."""
    return {
        field.name: value
        for field, value in message.ListFields()
        if _is_weight(field) and field.message_type.name == "WeightParams"
    }


def _is_weight(field: Any) -> bool:
    return field.message_type is not None and field.message_type.name in ("WeightParams", "LSTMWeightParams")


def _value(field: Any, value: Any) -> Any:
    if hasattr(value, "append"):
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        if known is None:
            raise FormatError(f"its {field.name} is {value}, which the format does not define")
        return known.name
    if field.message_type is None:
        if isinstance(value, int) and value > _GREATEST:
            raise FormatError(f"its {field.name} is {value}, which is larger than a size or a position can be")
        return value
    if field.message_type.name == "Activation":
        return _activation(value)
    present = {inner.name for inner, _ in value.ListFields()}
    return SimpleNamespace(
        **{
            inner.name: None
            if hasattr(found := getattr(value, inner.name), "ListFields") and inner.name not in present
            else _value(inner, found)
            for inner in value.DESCRIPTOR.fields
        }
    )


def _activation(message: Any) -> str:
    kind = message.WhichOneof("NonlinearityType")
    name, parameters = _ACTIVATIONS.get(kind, ("", {}))
    found = [getattr(getattr(message, kind), key) for key in parameters] if name else []
    # All zero they were left out: these are the ones that every converter means then.
    usual = not any(found) or np.allclose(found, list(parameters.values()))
    if not name or not usual:
        raise UnsupportedError(f"the runtime does not know the activation {kind} with its parameters")
    return name
