"""An ML program as a function that can be called, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress.errors import ConfigError, FormatError, UnsupportedError
from corepress.formats.coreai.model import AssetModel
from corepress.formats.dtypes import BY_MIL
from corepress.formats.features import Interface, default_function, interface_of
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import Function, block_nodes
from corepress.runtime.assets import interface_within
from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.executor import Executor
from corepress.runtime.plan import Planner, check_names
from corepress.runtime.precision import Precision
from corepress.runtime.runnable import Observe, State, given_state, in_steps
from corepress.runtime.values import from_value, to_tensors
from corepress.runtime.wide import widen
from corepress.sequences import Sample


class Program:
    """One function of a model, ready to be called. Make one with `corepress.runtime.load`.

    Attributes:
        interface: Its inputs, outputs and states.
        module: The `torch.nn.Module` behind it, which takes and gives tensors; its buffers are the program's constants.
        function: Its name; empty for a network.
        constants: Of a constant's value, the name of the buffer that holds it.

    Examples:
        >>> program = cto.runtime.load("small.mlpackage", weights="on_the_fly")
        >>> program.function
        'main'
        >>> isinstance(program.module, torch.nn.Module)
        True
    """

    def __init__(
        self,
        interface: Interface,
        module: Executor,
        device: torch.device,
        precision: Precision,
        function: str = "",
        constants: Mapping[str, str] | None = None,
    ):
        self.interface = interface
        self.module = module.to(device)
        self.device = device
        self.precision = precision
        self.function = function
        self.constants = constants or {}

    def make_state(self) -> State:
        """The states of a stateful model, all zero, to be passed to every `predict` of one sequence."""
        zeros = {state.name: torch.from_numpy(np.zeros(state.shape, state.dtype)) for state in self.interface.states}
        return {name: self.precision.tensor(zero).to(self.device) for name, zero in zeros.items()}

    @torch.no_grad()
    def predict(
        self, inputs: Mapping[str, Any], state: State | None = None, observe: Observe | None = None
    ) -> dict[str, Any]:
        """Run the model on named inputs.

        Args:
            inputs: Arrays or tensors of the inputs' shapes; PIL images for image inputs.
            state: What `make_state` returned, of a stateful model; it is updated.
            observe: Called with the name and the value of every intermediate result.

        Returns:
            The outputs by name: arrays, or of a classifier the label and its probabilities.

        Raises:
            ConfigError: For inputs that do not fit.
            CorepressError: For a program that can't be computed; the message names the operation.
        """
        states = given_state(self.interface, state)
        given = self.tensors(to_tensors(self.interface.inputs, inputs))
        with _full_float32(self.device):
            results = self.module(*given, states=states, observe=observe)
        by_name = dict(zip(self.module.plan.output_names, results, strict=True))
        return {feature.name: from_value(feature, by_name[feature.name]) for feature in self.interface.outputs}

    def run_sequence(
        self, sample: Sample, state: State | None = None, observe: Observe | None = None
    ) -> list[dict[str, Any]]:
        """Run the model on one step after the other; each finds the state that the step before left.

        Args:
            sample: The inputs of each step, as `predict` takes them; inputs of a single step may stand alone.
            state: What the first step finds, and what the last one leaves; by default the model begins anew.
            observe: As in `predict`, for each step.

        Returns:
            What `predict` returns, for each step.

        Examples:
            >>> program = cto.runtime.load("model.mlpackage")
            >>> steps = [{"image": image} for image in np.load("samples.npz")["image"][:3]]
            >>> [answer["logits"].shape for answer in program.run_sequence(steps)]
            [(1, 10), (1, 10), (1, 10)]
        """
        return list(in_steps(self, sample, state, observe))

    def tensors(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What `module` takes, in order: the inputs in the type in which they take part, on the device."""
        return [self.precision.tensor(inputs[name]).to(self.device) for name in self.module.plan.inputs]

    def kinds(self) -> dict[str, str]:
        """By the name of each intermediate value, the operation that computes it."""
        return dict(self.module.plan.kinds())


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """By default cuDNN computes float32 convolutions in TF32, with 10 bits after the point: not here."""
    if device.type != "cuda":
        yield
        return
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def own_program(
    model: Model,
    device: torch.device,
    precision: str = "as_is",
    function: str | None = None,
    weights: str = "ahead_of_time",
) -> Program:
    """The program of a model, of a Core AI model, too, by our runtime."""
    return load_program(model, model.spec, device, Precision(precision, signed=model.core_ai), function, weights)


def load_program(
    model: Model,
    spec: Any,
    device: torch.device,
    precision: Precision,
    function: str | None = None,
    weights: str = "ahead_of_time",
    widens: bool = True,
) -> Program:
    """The program that `spec` is: that of `model`, or of one stage of it. `widens`: as in `wide.py`."""
    name = function or default_function(spec.description)
    entries = {entry.key: entry.value for entry in spec.mlProgram.functions}
    if name not in entries:
        raise ConfigError(f"{model.path}: there is no function {name!r}; it has {', '.join(sorted(entries))}")
    chosen = entries[name]
    block = next((b.value for b in chosen.block_specializations if b.key == chosen.opset), None)
    if block is None:
        raise UnsupportedError(f"{model.path}: function {name!r} has no code for its opset {chosen.opset}")
    planner = Planner(model, precision, weights, device)
    plan = planner.function(block_nodes(Function("", name, chosen.opset), block), block)
    if isinstance(model, AssetModel):
        interface = interface_within(model, name)
        # Values within have names of their own.
        plan.output_names = tuple(feature.name for feature in interface.outputs)
    else:
        interface = interface_of(spec.description, name)
    states = {feature.name for feature in interface.states}
    plan.inputs = tuple(i.name for i in chosen.inputs if i.name not in states)
    check_names(plan, states)
    if passed := states.intersection(plan.output_names):
        raise FormatError(f"{model.path}: the output {min(passed)!r} of function {name!r} is a state")
    for described, actual, what in (
        (interface.inputs, plan.inputs, "input"),
        (interface.outputs, plan.output_names, "output"),
    ):
        missing = {feature.name for feature in described} ^ set(actual)
        if missing and not (what == "output" and missing.isdisjoint(f.name for f in described)):
            raise FormatError(f"{model.path}: description and function {name!r} differ in the {what} {min(missing)!r}")
    if widens and device.type == "cpu" and precision.name != "float32":
        widen(plan, planner.held)
    output_types = _output_types(block) if precision.name == "as_is" else None
    executor = Executor(plan, planner.held, output_types)
    return Program(interface, executor, device, precision, name, planner.buffers)


def _output_types(block: Any) -> list[torch.dtype | None]:
    """The declared types of what a block gives; None for strings, dictionaries and what is only passed on."""
    declared = {output.name: output.type for op in block.operations for output in op.outputs}
    types: list[torch.dtype | None] = []
    for name in block.outputs:
        kind = declared.get(name)
        known = None if kind is None else BY_MIL.get(kind.tensorType.dataType)
        types.append(None if known is None else torch_dtype(known.name))
    return types
