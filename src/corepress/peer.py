"""coremltools' own objects, known without importing it: models, and configurations, which are read as ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from corepress.errors import ConfigError

_PEER = "coremltools.optimize."


def is_mlmodel(source: Any) -> bool:
    """Is it an `MLModel` of coremltools?"""
    # Whoever holds one has imported coremltools; corepress never does so by itself.
    module = sys.modules.get("coremltools.models.model")
    return module is not None and isinstance(source, module.MLModel)


def as_ours(value: Any, counterpart: Callable[[str], Any]) -> Any:
    """The configuration of ours that says the same as one of coremltools; what is none stays as it is.

    Dictionaries and lists are looked into. `counterpart`: our class of a name, or None. Raises ConfigError for what we
    have nothing for: a class that somebody derived from one of coremltools, or a field that is set.
    """
    if type(value) is list:
        return [as_ours(each, counterpart) for each in value]
    if type(value) is dict:
        return {key: as_ours(each, counterpart) for key, each in value.items()}
    if isinstance(value, type):  # a registered one, such as an input cacher
        ours = counterpart(value.__name__) if value.__module__.startswith(_PEER) else None
        return ours or value
    kind = next((cls for cls in type(value).__mro__ if cls.__module__.startswith(_PEER)), None)
    if kind is None or not hasattr(kind, "__attrs_attrs__"):
        return value
    if kind is not type(value):
        raise ConfigError(
            f"{type(value).__name__} derives from coremltools' {kind.__name__}: derive it from corepress's"
        )
    cls = counterpart(kind.__name__)
    if cls is None:
        raise ConfigError(f"coremltools' {kind.__name__} has no counterpart in corepress")
    return cls(**_arguments(value, kind, cls, counterpart))


def _arguments(value: Any, kind: type[Any], cls: type[Any], counterpart: Callable[[str], Any]) -> Mapping[str, Any]:
    import attrs  # here, since most who import this only ask for models

    known = {field.name for field in attrs.fields(cls)}
    arguments: dict[str, Any] = {}
    for field in attrs.fields(kind):
        held = getattr(value, field.name)
        if field.init and field.name in known:
            arguments[field.name] = as_ours(held, counterpart)
        elif field.init and held != field.default:
            raise ConfigError(f"coremltools' {kind.__name__}: corepress has no counterpart of {field.name}={held!r}")
    bits, dtype = getattr(value, "weight_n_bits", 8), str(arguments.get("weight_dtype", ""))
    if dtype.endswith("int8") and bits < 8:  # PyTorch has no type of so few bits, so that it is said in two fields
        arguments["weight_dtype"] = f"{dtype.removeprefix('torch.')[:-1]}{bits}"
    return arguments
