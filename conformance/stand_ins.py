"""Puts corepress in the place of `coremltools.optimize.coreml`, for tests that are imported afterwards."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from enum import Enum
from typing import Any


def stub(name: str, **attributes: Any) -> None:
    """An empty module where the real one is missing: the tests import it, but those that run here don't use it."""
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(attributes)
        sys.modules[name] = module


stub("PIL", Image=None)
stub("torchvision")
stub("peft", LoraConfig=None, get_peft_model=None)

import coremltools as ct  # noqa: E402
import coremltools.optimize.coreml as peer  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load as load_program  # noqa: E402
from coremltools.optimize.coreml import _config, _post_training_quantization, _quantization_passes  # noqa: E402

import corepress.coreml as ours  # noqa: E402
from corepress.coreml.config import check_kinds  # noqa: E402

KINDS = {
    "palettize_weights": (ours.OpPalettizerConfig,),
    "linear_quantize_weights": (ours.OpLinearQuantizerConfig,),
    "prune_weights": (ours.OpMagnitudePrunerConfig, ours.OpThresholdPrunerConfig),
}


def replace_the_peer() -> None:
    """What is imported from now on finds our names; what coremltools has imported before keeps its own."""
    public = {name: getattr(ours, name) for name in ours.__all__}
    public |= {name: with_program(public[name]) for name in (*KINDS, "decompress_weights")}
    passes = public | {name: graph_pass(getattr(_quantization_passes, name)) for name in KINDS}
    private = {
        "_quantization_passes": stand_in(_quantization_passes, **passes),
        "_post_training_quantization": stand_in(_post_training_quantization, **public),
    }
    ct.optimize.coreml = stand_in(peer, **public, **private)
    sys.modules.update({module.__name__: module for module in (ct.optimize.coreml, *private.values())})
    set_options = ct.PassPipeline.set_options
    ct.PassPipeline.set_options = lambda self, name, options, *rest: set_options(self, name, to_peer(options), *rest)


def stand_in(original: types.ModuleType, **names: Any) -> Any:
    """A module with all that `original` has, and `names`."""
    module = types.ModuleType(original.__name__)
    vars(module).update({**vars(original), **names})
    return module


def program_of(mlmodel: Any) -> Any:
    """The program of a model as coremltools' own loader reads it, with all its type checks."""
    spec = mlmodel.get_spec()
    return load_program(spec, spec.specificationVersion, mlmodel.weights_dir)


def with_program(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the `MLModel` that a function returns have a `_mil_program`, as the peer's has."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        result._mil_program = program_of(result)
        return result

    return wrapper


def graph_pass(original: type) -> type:
    """A graph pass of the peer, done by our function of that name. Two helpers stay, since tests make data by them."""
    helpers = [name for name in ("compress", "compress_by_magnitude") if hasattr(original, name)]
    return type(original.__name__, (GraphPass,), {name: staticmethod(getattr(original, name)) for name in helpers})


class GraphPass:
    """What is ours of such a pass."""

    def __init__(self, config: Any = None, fake_compression: bool = False, joint_compression: bool = False):
        assert not fake_compression, "private to the peer"
        name = type(self).__name__
        self.config, self.joint_compression = check_kinds(config, name, *KINDS[name]), joint_compression

    def apply(self, program: Any) -> None:
        """Write the program out as a package, compress that, and put the result into the program."""
        mlmodel = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=max(function.opset_version for function in program.functions.values()),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        compress = getattr(ours, type(self).__name__)
        program.functions = program_of(compress(mlmodel, self.config, self.joint_compression)).functions


def to_peer(value: Any) -> Any:
    """Options of the converter's passes with the peer's configurations for ours: they take no other."""
    if isinstance(value, dict):
        return {key: to_peer(entry) for key, entry in value.items()}
    if isinstance(value, Enum):
        return value.name.lower()
    if not type(value).__module__.startswith("corepress."):
        return value
    cls = getattr(_config, type(value).__name__)
    names = [field.name for field in cls.__attrs_attrs__ if hasattr(value, field.name)]
    return cls(**{name: to_peer(getattr(value, name)) for name in names})
