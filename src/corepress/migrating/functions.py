"""The functions of a model as modules that can be exported: of a package each of its own, of a pipeline its stages as
one that runs them in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corepress.errors import UnsupportedError
from corepress.formats.features import Interface
from corepress.formats.kinds import NETWORKS, PIPELINES, kind_of, with_article
from corepress.formats.kinds import stages as stages_of
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.formats.neural_network.forms import Linear
from corepress.formats.neural_network.layers import all_layers, weights_of_layer
from corepress.migrating.constants import Constant, compressed
from corepress.migrating.stored import Stored
from corepress.runtime.networks import load_network
from corepress.runtime.precision import Precision
from corepress.runtime.program import Program, load_program
from corepress.runtime.runnable import Runnable
from corepress.runtime.stages.pipeline import load_pipeline
from corepress.runtime.walk import without_labels

_CPU = torch.device("cpu")


class _Held(NamedTuple):
    """A compressed weight: the buffer of its dense value, its name, what tells it apart, and what is stored."""

    buffer: str
    name: str
    key: Any
    form: Any


@dataclass(frozen=True)
class Stage:
    """A program of a function.

    Args:
        program: The program. Of a classifier it gives the probabilities, in the place of a label and a dictionary.
        classes: The labels of a classifier, in the order of the probabilities.
        forms: The constants that stay compressed, by the name of the buffer that holds the dense value.
        weights: What tells apart the weights that these are: equal for one that functions share.
        wider: The names of those whose integers take more bits than they did.
    """

    program: Program
    classes: tuple[str | int, ...]
    forms: Mapping[str, Stored | Constant]
    weights: tuple[Any, ...]
    wider: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """One function of a model, to be exported.

    Args:
        name: What the function is called.
        model: It, as it runs.
        stages: Its programs in order, by name; of an ML program itself, without a name.
    """

    name: str
    model: Runnable
    stages: Mapping[str, Stage]

    @property
    def interface(self) -> Interface:
        """Its inputs, outputs and states, as the package describes them."""
        return self.model.interface

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the exported function takes, in order."""
        if isinstance(self.model, Program):
            return tuple(self.model.module.plan.inputs)
        return tuple(feature.name for feature in self.interface.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what the exported function gives, in order; not the label of a classifier."""
        if isinstance(self.model, Program):
            return tuple(self.model.module.plan.output_names)
        return tuple(feature.name for feature in self.interface.outputs if feature.name != self.interface.label)

    @property
    def classes(self) -> tuple[str | int, ...]:
        """The labels of a classifier, in the order of the probabilities."""
        return next((stage.classes for stage in reversed(list(self.stages.values())) if stage.classes), ())

    @property
    def weights(self) -> list[Any]:
        """What tells apart the weights that stay compressed."""
        return [weight for stage in self.stages.values() for weight in stage.weights]

    @property
    def wider(self) -> list[str]:
        """The names of weights whose integers take more bits than they did."""
        return [name for stage in self.stages.values() for name in stage.wider]

    def tensors(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What the exported function takes, in order, of inputs in the types that the package describes."""
        precision = next(iter(self.stages.values())).program.precision
        return [precision.tensor(inputs[name]) for name in self.inputs]


def functions_of(model: Model | Networks, precision: Precision) -> list[Function]:
    """The functions of a model. Raises UnsupportedError for a kind of model that can't be migrated."""
    kind = kind_of(model.spec)
    if isinstance(model, Model) and kind == "mlProgram":
        names = sorted(entry.key for entry in model.spec.mlProgram.functions)
        return [_of_program(model, name, precision) for name in names]
    if kind in NETWORKS:
        network = load_network(model.path, model.spec, _CPU, precision)
        return [Function("main", network, {"": _stage(network, _quantized(model.spec, network))})]
    if kind in PIPELINES:
        return [_of_pipeline(model, precision)]
    raise UnsupportedError(f"{model.path}: {with_article(kind)} can't be migrated to Core AI")


def _of_program(model: Model, name: str, precision: Precision) -> Function:
    program = load_program(model, model.spec, _CPU, precision, name, widens=False)
    return Function(name, program, {"": _stage(program, _packed(model, name, program))})


def _of_pipeline(model: Model | Networks, precision: Precision) -> Function:
    pipeline = load_pipeline(model, model.spec, _CPU, precision)
    stages, specs = {}, dict(stages_of(model.spec))
    for name, program in pipeline.stages.items():
        if not isinstance(program, Program):
            raise UnsupportedError(f"{model.path}: stage {name!r} is a pipeline in a pipeline, which can't be migrated")
        quantized = _quantized(specs[name], program) if kind_of(specs[name]) in NETWORKS else ()
        stages[name] = _stage(program, [*quantized, *_packed(model, f"{name}/{program.function}", program)])
    return Function("main", pipeline, stages)


def _packed(model: Model | Networks, function: str, program: Program) -> Iterator[_Held]:
    """The compressed weights of a function of ML programs."""
    for weight in model.weights() if isinstance(model, Model) else ():
        buffer = program.constants.get(weight.output)
        if weight.compression and str(weight.function) == function and buffer is not None:
            yield _Held(buffer, weight.name, weight.key, weight.read())


def _quantized(spec: Any, program: Program) -> Iterator[_Held]:
    """The quantized weights of a neural network, where its layers hold them as they are stored."""
    held = program.module.constants()
    for layer in all_layers(spec):
        for weight in weights_of_layer(layer):
            buffer, value = program.constants.get(f"{layer.name}.{weight.field}"), weight.read()
            if buffer is None or isinstance(value, np.ndarray) or held[buffer].dtype != torch.float32:
                continue
            if held[buffer].shape == weight.shape and np.array_equal(held[buffer].numpy(), weight.dense()):
                yield _Held(buffer, weight.name, buffer, value)


def _stage(program: Program, held: Iterable[_Held] = ()) -> Stage:
    read = list(held)
    forms = {own.buffer: compressed(own.form) if isinstance(own.form, Linear) else Stored(own.form) for own in read}
    executor = program.module
    classifying = [step.arguments["classes"] for step in executor.plan.steps if step.kind == "classify"]
    types = dict(zip(executor.plan.output_names, executor.output_types, strict=True))
    executor.plan = without_labels(executor.plan)
    executor.output_types = [types.get(name) for name in executor.plan.output_names]
    wider = tuple(own.name for own in read if isinstance(own.form, Linear) and own.form.bits not in (4, 8))
    return Stage(program, tuple(classifying[-1]) if classifying else (), forms, tuple(own.key for own in read), wider)
