"""Pipelines: each stage takes what the caller gave and what earlier stages computed, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from corepress.errors import ConfigError, FormatError, UnsupportedError
from corepress.formats.features import Feature, Interface, interface_of
from corepress.formats.kinds import NETWORKS, PIPELINES, models, stages
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.runtime.networks import Custom, load_network
from corepress.runtime.precision import Precision
from corepress.runtime.program import load_program
from corepress.runtime.runnable import Observe, Runnable, State, given_state, in_steps
from corepress.runtime.stages.suppression import KIND, Suppression, load_suppression, thresholds
from corepress.runtime.values import from_value, to_tensors
from corepress.sequences import Sample


class Pipeline:
    """Models that run one after the other.

    Names of states start with that of their stage and "/", as do the names that `observe` of `predict` is called with.

    Attributes:
        interface: The inputs, outputs and states of the whole.
        stages: The models, by name, in order.

    Examples:
        >>> program = cto.runtime.load("model.mlpackage")
        >>> pipeline = cto.runtime.Pipeline(program.interface, {"classifier": program})
        >>> pipeline.predict({"image": np.zeros((1, 1, 8, 8), "f2")})["logits"].shape
        (1, 10)
    """

    def __init__(self, interface: Interface, stages: Mapping[str, Runnable]):
        self.interface = interface
        self.stages = dict(stages)

    def make_state(self) -> State:
        """The states of all stages, zero."""
        return {f"{name}/{key}": t for name, stage in self.stages.items() for key, t in stage.make_state().items()}

    def predict(
        self, inputs: Mapping[str, Any], state: State | None = None, observe: Observe | None = None
    ) -> dict[str, Any]:
        """Run all stages; arguments, results and errors are those of `Program.predict`."""
        states = given_state(self.interface, state)
        values: dict[str, Any] = {**to_tensors(self.interface.inputs, inputs), **inputs}
        for name, stage in self.stages.items():
            given, prefix = self.inputs_of(stage, values), f"{name}/"
            values |= {prefix + key: value for key, value in given.items()}
            own = {key.removeprefix(prefix): t for key, t in states.items() if key.startswith(prefix)}
            values |= stage.predict(given, own, None if observe is None else _prefixed(observe, prefix))
            states.update({prefix + key: tensor for key, tensor in own.items()})
        return {feature.name: _as_described(feature, values[feature.name]) for feature in self.interface.outputs}

    def run_sequence(
        self, sample: Sample, state: State | None = None, observe: Observe | None = None
    ) -> list[dict[str, Any]]:
        """Run one step after the other; arguments, results and errors are those of `Program.run_sequence`."""
        return list(in_steps(self, sample, state, observe))

    def kinds(self) -> dict[str, str]:
        """By the name of each intermediate value, the operation that computes it."""
        return {f"{name}/{key}": kind for name, stage in self.stages.items() for key, kind in stage.kinds().items()}

    def inputs_of(self, stage: Runnable, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of what is known so far, that which a stage takes."""
        wanted = {feature.name for feature in stage.interface.inputs}
        return {key: value for key, value in values.items() if key in wanted}

    def showing(self, stage: str | int, *, alone: bool = False) -> Pipeline:
        """The pipeline with further outputs, or with these `alone`: what earlier stages give to the stage of that name
        or index, under the names "stage/input". Raises ConfigError."""
        names = list(self.stages)
        if isinstance(stage, int) and -len(names) <= stage < len(names):
            stage = names[stage]
        if stage not in self.stages:
            raise ConfigError(f"there is no stage {stage!r}; the stages are {', '.join(names)}")
        before = names[: names.index(str(stage))]
        computed = {feature.name: feature for name in before for feature in self.stages[name].interface.outputs}
        read = [feature.name for feature in self.stages[str(stage)].interface.inputs if feature.name in computed]
        if not read:
            raise ConfigError(f"no earlier stage gives anything to the stage {stage!r}")
        inner = tuple(replace(computed[name], name=f"{stage}/{name}") for name in read)
        outputs = inner if alone else (*inner, *self.interface.outputs)
        return Pipeline(replace(self.interface, outputs=outputs), self.stages)

    @property
    def detections(self) -> tuple[str, str] | None:
        """The outputs that hold the confidences and the coordinates of boxes, where the last stage suppresses some."""
        last = next(reversed(self.stages.values()), None)
        if not isinstance(last, Suppression):
            return None
        confidence, coordinates = (feature.name for feature in last.interface.outputs)
        return confidence, coordinates

    @property
    def shown_coordinates(self) -> str:
        """The name that `showing` gives to the coordinates of boxes that go into the last stage; empty without one."""
        name, last = next(reversed(self.stages.items()), ("", None))
        return f"{name}/{last.coordinates}" if isinstance(last, Suppression) else ""


def load_pipeline(
    model: Model | Networks,
    spec: Any,
    device: torch.device,
    precision: Precision,
    weights: str = "ahead_of_time",
    custom: Custom | None = None,
) -> Pipeline:
    """The pipeline that `spec` is: that of `model`, or of one stage of it. `custom`: for custom layers, see `load`."""
    kind = spec.WhichOneof("Type")
    if kind not in PIPELINES:
        raise UnsupportedError(
            f"{model.path}: a {kind} can't be run, only ML programs, neural networks and pipelines of them"
        )
    interface = pipeline_interface(spec)
    known = {feature.name for feature in interface.inputs}
    loaded: dict[str, Runnable] = {}
    for name, inner in stages(spec):
        loaded[name] = stage = _stage(model, inner, name, device, precision, weights, custom)
        for feature in stage.interface.inputs:
            if feature.name not in known and not feature.optional:
                raise FormatError(f"{model.path}: nothing gives stage {name!r} its input {feature.name!r}")
        known |= {feature.name for feature in stage.interface.outputs}
    for feature in interface.outputs:
        if feature.name not in known:
            raise FormatError(f"{model.path}: no stage gives the output {feature.name!r}")
    states = tuple(
        replace(feature, name=f"{name}/{feature.name}")
        for name, stage in loaded.items()
        for feature in stage.interface.states
    )
    return Pipeline(replace(interface, states=states), loaded)


def pipeline_interface(spec: Any) -> Interface:
    """The inputs and outputs of a pipeline as it is described; thresholds of its stages have their defaults."""
    interface, defaults = interface_of(spec.description, ""), _thresholds(spec)
    inputs = (
        replace(feature, optional=True, default=defaults[feature.name])
        if feature.name in defaults and feature.default is None
        else feature
        for feature in interface.inputs
    )
    return replace(interface, inputs=tuple(inputs))


def _thresholds(spec: Any) -> dict[str, float]:
    suppressions = (model for _, model in models(spec) if model.WhichOneof("Type") == KIND)
    return {name: value for model in suppressions for name, value in thresholds(model).items()}


def _stage(
    model: Model | Networks,
    spec: Any,
    name: str,
    device: torch.device,
    precision: Precision,
    weights: str,
    custom: Custom | None,
) -> Runnable:
    kind = str(spec.WhichOneof("Type"))
    if isinstance(model, Model) and kind == "mlProgram":
        return load_program(model, spec, device, precision, weights=weights)
    if kind in PIPELINES:
        return load_pipeline(model, spec, device, precision, weights, custom)
    if kind in NETWORKS:
        return load_network(model.path, spec, device, precision, custom)
    if kind == KIND:
        return load_suppression(spec, model.path, name, precision)
    raise UnsupportedError(
        f"{model.path}: stage {name!r} is a {kind}, but only ML programs, neural networks and non-maximum suppressions "
        "can be run"
    )


def _prefixed(observe: Observe, prefix: str) -> Observe:
    return lambda name, value: observe(prefix + name, value)


def _as_described(feature: Feature, value: Any) -> Any:
    """A stage's output as the pipeline describes it, which may be of another type."""
    return from_value(feature, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
