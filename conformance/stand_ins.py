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

import numpy as np


def stub(name: str, **attributes: Any) -> None:
    """An empty module where the real one is missing: the tests import it, but those that run here don't use it."""
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(attributes)
        sys.modules[name] = module


stub("PIL", Image=None)
stub("torchvision", datasets=None, transforms=None)
stub("peft", LoraConfig=None, get_peft_model=None)

import coremltools as ct  # noqa: E402
import coremltools.optimize.coreml as peer  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load as load_program  # noqa: E402
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass  # noqa: E402
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY  # noqa: E402
from coremltools.optimize.coreml import _config, _post_training_quantization, _quantization_passes  # noqa: E402
from coremltools.optimize.coreml.experimental import _post_training_quantization as _calibration  # noqa: E402

import corepress.coreml as ours  # noqa: E402
from corepress.coreml.activations.calibrate import calibrate, runnable  # noqa: E402
from corepress.coreml.activations.observers import MinMax  # noqa: E402
from corepress.coreml.activations.patterns import concat_groups, is_float  # noqa: E402
from corepress.coreml.config import check_kinds  # noqa: E402
from corepress.coreml.interop import as_model  # noqa: E402
from corepress.formats.mlprogram.program import nodes  # noqa: E402

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
    passes["insert_prefix_quantize_dequantize_pair"] = InsertPairs
    PASS_REGISTRY.passes["compression::insert_suffix_quantize_dequantize_pair"] = Nothing()
    private = {
        "_quantization_passes": stand_in(_quantization_passes, **passes),
        "_post_training_quantization": stand_in(_post_training_quantization, **public),
    }
    ct.optimize.coreml = stand_in(peer, **public, **private)
    calibration = stand_in(_calibration, _get_activation_calibration_stats=ranges)
    sys.modules.update({module.__name__: module for module in (ct.optimize.coreml, calibration, *private.values())})
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
        """Compress the program in place."""
        compress = getattr(ours, type(self).__name__)
        program.functions = through_package(program, compress, self.config, self.joint_compression).functions


def through_package(program: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Write a program out as a package, and read what a function makes of that."""
    mlmodel = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=max(function.opset_version for function in program.functions.values()),
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    return program_of(function(mlmodel, *arguments))


class InsertPairs(AbstractGraphPass):
    """The peer needs two passes to put pairs of quantize and dequantize before and after operations: this does both."""

    activation_stats = None

    def __init__(self, config: Any):
        self.config = config

    def apply(self, program: Any) -> None:
        # The tests say that all values lie between 0 and 1.
        sample = {
            name: np.linspace(0, 1, int(np.prod(var.shape))).reshape(var.shape)
            for name, var in program.functions["main"].inputs.items()
        }
        quantized = through_package(program, ours.linear_quantize_activations, self.config, [sample])
        program.functions = quantized.functions


class Nothing(AbstractGraphPass):
    """The second of these passes."""

    activation_stats = config = None

    def apply(self, program: Any) -> None:
        pass


def ranges(mlmodel: Any, sample_data: Any, calibration_op_group_size: int = -1) -> dict[str, dict[str, float]]:
    """The ranges of all values but the outputs, which the peer's pass takes from its calibration."""
    model = as_model(mlmodel)
    view = nodes(model.spec)
    values = {str(output.name): output.type for node in view for output in node.op.outputs}
    results = {feature.name for feature in mlmodel.get_spec().description.output}
    observers = {name: MinMax() for name, kind in values.items() if is_float(kind) and name not in results}
    program, _ = runnable(model, "main", "cpu")
    trouble = calibrate(program, sample_data, observers)
    found = {name: observer.limits(True) for name, observer in observers.items() if name not in trouble}
    for group in concat_groups(view):
        known = [found[name] for name in group & set(found)]
        shared = min(low for low, _ in known), max(high for _, high in known)
        found |= dict.fromkeys(group & set(found), shared)
    return {name: {"rmin": low, "rmax": high} for name, (low, high) in found.items()}


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
