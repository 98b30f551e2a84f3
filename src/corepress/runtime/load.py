"""`load`: a Core ML model of any kind that can be run, on Linux, macOS or Windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from corepress.errors import ConfigError, first_line
from corepress.formats.coreai.asset import ASSET
from corepress.formats.coreai.model import AssetModel
from corepress.formats.features import Interface, default_function, interface_of
from corepress.formats.kinds import NETWORKS, PIPELINES
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.formats.read import load as read_model
from corepress.runtime.assets import Asset, asset_interface
from corepress.runtime.networks import load_network
from corepress.runtime.precision import Precision
from corepress.runtime.program import own_program
from corepress.runtime.runnable import Runnable
from corepress.runtime.stages.pipeline import load_pipeline, pipeline_interface


def load(
    source: str | Path | Model | Networks,
    device: str = "cpu",
    *,
    precision: str = "as_is",
    function: str | None = None,
    weights: str = "ahead_of_time",
    custom: Mapping[str, Callable[..., Any]] | None = None,
) -> Runnable:
    """Make a model callable, with PyTorch, on any machine.

    Args:
        source: A path, a `corepress.Model` or a `corepress.neural_network.Model`, saved or not. A Core AI model
            (`.aimodel`) is run by Apple's own runtime as it is, on a CPU; with another device, precision or kind of
            weights corepress runs it, as it runs packages.
        device: "cpu", "cuda" or "mps".
        precision: "as_is", or "float32" or "float16" to compute all floating-point work in that type. What is float16
            holds float16 values after each operation; on a CPU, products are computed in float32 and then rounded.
        function: Of an ML program with several.
        weights: "ahead_of_time" decompresses compressed weights once, here, to exactly the values that Core ML computes
            with. "on_the_fly" keeps those of linear layers packed in memory, and decompresses them as they are
            multiplied. "streamed" keeps 128 MB of decompressed weights, and reads the others when they are needed.
        custom: For neural networks with custom layers a function for each of their classes, by name: `{"Swish": lambda
            x: x * x.sigmoid()}`. It takes the layer's inputs as tensors and returns a tensor, or several; if it has
            parameters of these names, it also gets `parameters`, a dictionary, and `weights`, a list.

    Returns:
        A `Program`, of a pipeline a `Pipeline`, of a Core AI model that Apple's runtime runs an `Asset`; all are called
        in the same way: `predict` runs them.

    Raises:
        FormatError: For a model that the runtime can't run; the message names the operation.

    Examples:
        >>> program = cto.runtime.load("model.mlpackage")
        >>> answers = program.predict({"image": np.zeros((1, 1, 8, 8), "f2")})
        >>> answers["logits"].shape
        (1, 10)
    """
    asset = _as_asset(source)
    as_it_is = (device, precision) == ("cpu", "as_is") and weights in ("ahead_of_time", "streamed")
    if asset is not None and as_it_is and not custom:
        return Asset(asset, function)
    if weights not in ("ahead_of_time", "on_the_fly", "streamed"):
        raise ConfigError(f'weights must be "ahead_of_time", "on_the_fly" or "streamed", not {weights!r}')
    model = source if isinstance(source, Model | Networks) else read_model(source)
    place = _device(device)
    kind = model.spec.WhichOneof("Type")
    if isinstance(model, Model) and kind == "mlProgram":
        if custom:
            raise ConfigError(f"{model.path}: custom= is for neural networks with custom layers, not for ML programs")
        return own_program(model, place, precision, function, weights)
    if function is not None:
        raise ConfigError(f"{model.path}: a {kind} has no functions to choose from")
    if kind in NETWORKS:
        return load_network(model.path, model.spec, place, Precision(precision), custom)
    return load_pipeline(model, model.spec, place, Precision(precision), weights, custom)


def observable(model: Model, device: str, function: str | None = None) -> Runnable:
    """A model as it is, by our runtime, which shows values on the way: Apple's, which runs Core AI models, does not."""
    if not model.core_ai:
        return load(model, device, function=function)
    return own_program(model, _device(device), function=function)


def interface(source: str | Path | Model | Networks, function: str | None = None) -> Interface:
    """The inputs, outputs and states of a model, or of one of its functions, without loading its weights."""
    if (asset := _as_asset(source)) is not None:
        return asset_interface(asset, function)
    spec = opened(source).spec
    if spec.WhichOneof("Type") in PIPELINES:
        return pipeline_interface(spec)
    return interface_of(spec.description, function or default_function(spec.description))


def takes_custom(source: str | Path | Model | Networks) -> bool:
    """Whether functions of custom layers can be given for a model: for all but an ML program."""
    return not is_core_ai(source) and str(opened(source).spec.WhichOneof("Type")) != "mlProgram"


def is_core_ai(source: Any) -> bool:
    """Whether it is a Core AI model, or the path of one."""
    return _as_asset(source) is not None


def _as_asset(source: Any) -> str | Path | AssetModel | None:
    """What is a Core AI model."""
    if isinstance(source, AssetModel) or (
        isinstance(source, str | Path) and Path(source).suffix.lower() == ASSET.ending
    ):
        return source
    return None


def opened(source: str | Path | Model | Networks) -> Any:
    """The model at a path, or that was given: who needs it more than once reads it once. (The path of a Core AI model
    stays a path: nothing but Apple's library reads one.)"""
    return source if isinstance(source, Model | Networks) or is_core_ai(source) else read_model(source)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        if reason.startswith("Expected one of"):  # PyTorch lists all that it has a name for
            raise ConfigError(f"device {name!r} is not known; use cpu, cuda or mps") from error
        raise ConfigError(f"device {name!r} is not available on this machine: {reason}") from error
    return device
