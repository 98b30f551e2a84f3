"""The public functions take a path, a `corepress.Model` or a coremltools `MLModel`, and give the same kind back."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakKeyDictionary

import attrs
from google.protobuf.message import DecodeError

from corepress.coreml.config import OptimizationConfig
from corepress.coreml.op_configs import OpCompressorConfig
from corepress.errors import ConfigError, FormatError, UnsupportedError, importing
from corepress.formats.kinds import refusal
from corepress.formats.mlprogram import Model, checked
from corepress.formats.opening import load
from corepress.formats.package import find_package
from corepress.formats.schema import Model as ModelProto
from corepress.peer import is_mlmodel

# The models of which `MLModel`s were made here: these know what they were made from, and what was left alone.
_made_here: WeakKeyDictionary[Any, Model] = WeakKeyDictionary()

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class OfAnyModel(Protocol[P, R_co]):
    """A function of a path, a `Model` or a coremltools `MLModel`."""

    @overload
    def __call__(self, mlmodel: str | Path | Model, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, mlmodel: Any, *args: P.args, **kwargs: P.kwargs) -> Any: ...


def takes_any_model(function: Callable[Concatenate[Model, P], R]) -> OfAnyModel[P, R]:
    """Let a function of a `Model` take any kind of model as its argument `mlmodel`; a `Model` that it returns becomes
    the kind that was given (for a path: a `Model`)."""

    @functools.wraps(function)
    def wrapper(mlmodel: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(as_model(mlmodel), *args, **kwargs)
        if isinstance(result, Model) and is_mlmodel(mlmodel):
            return to_mlmodel(result, mlmodel)
        return result

    return wrapper


def as_model(source: Any) -> Model:
    """The `Model` of a path, of a `Model`, or of an `MLModel`."""
    if isinstance(source, Model):
        return source
    if isinstance(source, (str, Path)):
        return load(source)
    if is_mlmodel(source):
        return _from_mlmodel(source)
    raise ConfigError(f"mlmodel: a path, a corepress.Model or an MLModel is needed, not {type(source).__name__}")


def with_history(source: Any) -> Model:
    """The `Model` of whatever was given; of an `MLModel` that a function here made, with what it was made from."""
    made = _made_here.get(source) if is_mlmodel(source) else None
    return as_model(source) if made is None else made


def _from_mlmodel(mlmodel: Any) -> Model:
    """The spec as it is in memory, edits included, on top of the package on disk that holds its weights."""
    if mlmodel.package_path is None:
        raise UnsupportedError(f"the MLModel: {refusal(mlmodel.get_spec())}")
    try:
        spec = ModelProto.FromString(mlmodel.get_spec().SerializeToString())
    except DecodeError as error:
        raise FormatError(f"the MLModel's specification can't be read: {error}") from error
    return checked(find_package(mlmodel.package_path), spec)


def to_mlmodel(model: Model, like: Any) -> Any:
    """A coremltools `MLModel` of the model, in a temporary package that goes when the interpreter ends."""
    import coremltools  # present, since `like` came from there

    private = Path(tempfile.mkdtemp(prefix="corepress-"))
    atexit.register(
        shutil.rmtree, private, ignore_errors=True
    )  # coremltools removes the package, not what is around it
    folder = private / "model.mlpackage"
    model.save(folder)
    mlmodel = coremltools.models.MLModel(
        str(folder),
        is_temp_package=True,
        compute_units=like.compute_unit,
        skip_model_load=like.__proxy__ is None,
        function_name=like.function_name,
    )
    _made_here[mlmodel] = model
    return mlmodel


def to_coremltools(config: OptimizationConfig) -> Any:
    """Make coremltools' own object of a configuration, for the passes of `coremltools.convert`.

    Args:
        config: Ours.

    Returns:
        A `coremltools.optimize.coreml.OptimizationConfig`.

    Raises:
        ConfigError: For what coremltools does not have: a pattern for names, or a field of ours that is set.

    Examples:
        >>> import coremltools as ct
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
        >>> pipeline = ct.PassPipeline.DEFAULT_PALETTIZATION
        >>> pipeline.set_options("compression::palettize_weights", {"config": cto.coreml.to_coremltools(config)})
    """
    with importing("to_coremltools"):
        import coremltools.optimize.coreml as peer

    names = config.op_name_configs
    if patterns := [name for name in names if any(sign in name for sign in "*?[")]:
        raise ConfigError(
            f"coremltools does not support patterns such as {patterns[0]!r}: give the names of the operations"
        )
    return peer.OptimizationConfig(
        global_config=_peer_config(peer, config.global_config),
        op_type_configs={kind: _peer_config(peer, held) for kind, held in config.op_type_configs.items()},
        op_name_configs={name: _peer_config(peer, held) for name, held in names.items()},
    )


def _peer_config(peer: Any, config: OpCompressorConfig | None) -> Any:
    if config is None:
        return None
    kind = getattr(peer, type(config).__name__)
    arguments = {field.name: getattr(config, field.name) for field in attrs.fields(type(config))}
    for field in attrs.fields(type(config)):
        if field.name not in attrs.fields_dict(kind) and arguments.pop(field.name) != field.default:
            raise ConfigError(f"coremltools has no {field.name!r} in its {type(config).__name__}")
        if isinstance(arguments.get(field.name), Enum):
            arguments[field.name] = arguments[field.name].name.lower()
    return kind(**arguments)
