"""The public functions take a path, a `Model`, a specification or a coremltools `MLModel`, and give the same back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError, EncodeError

from corepress.errors import ConfigError, FormatError
from corepress.formats.neural_network.model import Model, checked, load, serialized
from corepress.formats.schema import Model as ModelProto
from corepress.peer import is_mlmodel


def as_model(source: Any) -> Model:
    """The model of a path, a specification or an `MLModel`; a `Model` is its own."""
    if isinstance(source, Model):
        return source
    return load(source) if isinstance(source, str | Path) else _own(source)[0]


def takes_any_model(function: Callable[..., Model]) -> Callable[..., Any]:
    """Let a function of a `Model`, which it may change, take any kind of model, which stays as it is.

    A path or a `Model` gives a `Model`; a specification, or an `MLModel` of coremltools, gives the same.
    """

    @functools.wraps(function)
    def wrapper(source: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(source, Model):
            return function(source.copy(), *args, **kwargs)
        if isinstance(source, (str, Path)):
            return function(load(source).copy(), *args, **kwargs)
        own, message = _own(source)
        return _as_given(function(own.copy(), *args, **kwargs), source, message)

    return wrapper


def _own(source: Any) -> tuple[Model, Any]:
    """A `Model` that shares nothing with a specification or an `MLModel`, and the class of the specification."""
    spec = _spec_of(source)
    if spec is None:
        raise ConfigError(
            f"a path, a specification, an MLModel or a corepress model is needed, not {type(source).__name__}"
        )
    try:
        own = ModelProto.FromString(spec.SerializeToString())
    except (DecodeError, EncodeError) as error:
        raise FormatError(f"the specification can't be read: {error}") from error
    return checked(Model(None, own), "the specification"), type(spec)


def _as_given(result: Model, given: Any, message: Any) -> Any:
    spec = message()
    spec.ParseFromString(serialized(result.spec, "the result"))
    if not is_mlmodel(given):
        return spec
    import coremltools  # present, since `given` came from there

    return coremltools.models.MLModel(spec, compute_units=given.compute_unit, skip_model_load=given.__proxy__ is None)


def _spec_of(source: Any) -> Any:
    """The specification, as coremltools holds it, of an `MLModel` or of itself; else None."""
    spec = source.get_spec() if is_mlmodel(source) else source
    descriptor = getattr(type(spec), "DESCRIPTOR", None)
    return spec if getattr(descriptor, "full_name", "") == "CoreML.Specification.Model" else None
