"""Runs a plan with PyTorch: a module whose buffers are the constants of the program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import CorepressError, DataError, FormatError, ResourceError
from corepress.runtime.forms import TENSOR, fitted
from corepress.runtime.packed import Packed
from corepress.runtime.plan import Block, Computed, Held, Step
from corepress.runtime.registry import FAULTS, OPERATIONS
from corepress.runtime.runnable import Observe
from corepress.runtime.streamed import Constants, Streamed

Values = dict[str, Any]

# What PyTorch says, in a plain RuntimeError, where a CPU has no memory left.
_NO_MEMORY = "DefaultCPUAllocator"
# A loop that goes on for longer is taken for one that never ends.
MAX_ITERATIONS = 1_000_000


class Executor(nn.Module):
    """One function of a program. `forward` takes its inputs in order and returns its outputs in order.

    `states` of `forward`: the tensors of a stateful model by name. They are updated: in place, where only a part
    changes and nothing else sees the memory, or else in the dictionary; so clone what is to be kept.
    `observe(name, value)` is called with every value that a step computes or that goes into a loop: for comparing and
    calibrating. `output_types`: what the program declares its outputs to be; None leaves one as it was computed.
    """

    def __init__(
        self,
        plan: Block,
        held: Mapping[str, Tensor | Packed | Streamed],
        output_types: Sequence[torch.dtype | None] | None = None,
    ):
        super().__init__()
        self.plan = plan
        self.output_types = output_types or [None] * len(plan.outputs)
        self.streamed = {name: value for name, value in held.items() if isinstance(value, Streamed)}
        for name, value in held.items():
            if isinstance(value, Streamed):
                continue
            if isinstance(value, Packed):
                self.add_module(name, value)
            else:
                self.register_buffer(name, value)

    def forward(
        self,
        *inputs: Tensor,
        states: dict[str, Tensor] | None = None,
        observe: Observe | None = None,
    ) -> tuple[Any, ...]:
        values: Values = dict(zip(self.plan.inputs, inputs, strict=True))
        run = Run(self.constants(), {} if states is None else states, observe)
        results = run.block(self.plan, values)
        return tuple(
            run.unshared(result if dtype is None else result.to(dtype)) if isinstance(result, Tensor) else result
            for result, dtype in zip(results, self.output_types, strict=True)
        )

    def constants(self) -> dict[str, Any]:
        """The constants by the name of their buffer."""
        # All at once: to get them one by one from a module takes longer than small operations.
        held = {**self._buffers, **self._modules}
        return Constants(held, self.streamed) if self.streamed else held

    def unread(self) -> dict[str, Any]:
        """The same without reading any: what is streamed is a `Streamed`, with a shape and a type."""
        return {**self._buffers, **self._modules, **self.streamed}


class Run:
    """One run of a plan. `held`: the constants, by the name of their buffer."""

    def __init__(self, held: Mapping[str, Any], states: MutableMapping[str, Tensor], observe: Observe | None):
        self.held = held
        self.states = states
        self.observe = observe

    def block(self, block: Block, values: Values) -> tuple[Any, ...]:
        """Compute the steps, and return the outputs; `values`, which is changed: all that is known so far."""
        for step in block.steps:
            self.step(step, values)
        return tuple(self.value(output, values) for output in block.outputs)

    def step(self, step: Step, values: Values) -> None:
        """Compute one step; what nothing reads any more is taken out of `values`."""
        try:
            if step.function is None:
                results = SPECIAL[step.kind](self, step, values)
            else:
                result = step.function(**self.arguments(step, values))
                # A tuple stands for several outputs; a list value is a tuple, too, but a single output.
                results = result if isinstance(result, tuple) and len(step.outputs) != 1 else (result,)
            if len(results) != len(step.outputs):
                raise ValueError(f"it has {len(results)} results, not {len(step.outputs)}")
        except CorepressError:
            raise
        except (MemoryError, *FAULTS) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in str(error):
                raise ResourceError(f"there is not enough memory to compute {step}: give smaller inputs") from error
            raise FormatError(f"{step} can't be computed: {error}") from error
        for name, value in zip(step.outputs, results, strict=True):
            values[name] = value
            if self.observe is not None:
                self.observe(name, value)
        for name in step.drop:
            values.pop(name, None)

    def arguments(self, step: Step, values: Values) -> dict[str, Any]:
        held = self.held
        arguments = step.constant.copy()
        for key, name in step.held:
            arguments[key] = held[name]
        for key, name in step.computed:
            value = values[name] if name in values else _missing(name)
            arguments[key] = value if isinstance(value, Tensor) else fitted(value, TENSOR, f"{step}, {key}")
        for key, argument in step.converted:
            arguments[key] = self.value(argument, values, step, key)
        return arguments

    def value(self, argument: Any, values: Values, step: Step | None = None, key: str = "") -> Any:
        """An argument as its step wants it; `step` and `key` stand in the error where it is something else."""
        if isinstance(argument, list):
            return [self.value(item, values, step, key) for item in argument]
        if isinstance(argument, Held):
            return self.held[argument.name]
        if not isinstance(argument, Computed):
            return argument
        value = values[argument.name] if argument.name in values else _missing(argument.name)
        return fitted(value, argument.form, f"{step}, {key}")

    def cond(self, step: Step, values: Values) -> Sequence[Any]:
        chosen = step.blocks[0 if self.holds(self.value(step.arguments["pred"], values)) else 1]
        return self.block(chosen, dict(values))

    def loop(self, step: Step, values: Values) -> Sequence[Any]:
        condition, body = step.blocks
        variables = self.value(step.arguments["loop_vars"], values)
        for _ in range(MAX_ITERATIONS):
            holds, *changed = self.inner(condition, variables, values)
            if changed:  # in Core AI, the condition also says what the body gets, and what comes out
                variables = changed
            if not self.holds(holds):
                return variables  # type: ignore[no-any-return]
            variables = self.inner(body, variables, values)
        raise FormatError(f"while_loop {step.name!r} does not end within {MAX_ITERATIONS:,} rounds")

    def holds(self, condition: Any) -> bool:
        """Whether the condition of a branch or a loop is true."""
        return bool(condition)

    def inner(self, block: Block, variables: Sequence[Any], values: Values) -> tuple[Any, ...]:
        """Run a block of a loop."""
        given = dict(zip(block.inputs, variables, strict=True))
        if self.observe is not None:
            for name, value in given.items():
                self.observe(name, value)
        return self.block(block, values | given)

    def invoke(self, step: Step, values: Values) -> Sequence[Any]:
        """Run another function, which knows no values but those that it is given, and whose own nobody asked for: they
        may have the same names."""
        [block] = step.blocks
        unseen = copy.copy(self)
        unseen.observe = None
        return unseen.inner(block, self.value(step.arguments["values"], values), {})

    def read_state(self, step: Step, values: Values) -> Sequence[Any]:
        return (self.read(step.arguments["input"].name),)

    def write_state(self, step: Step, values: Values) -> Sequence[Any]:
        first, second = ("input", "data") if step.kind == "write_state" else ("state", "value")
        name, value = step.arguments[first].name, self.value(step.arguments[second], values)
        state, value = self.state(name), fitted(value, TENSOR, f"{step}, {second}")
        if value.dtype != state.dtype or not value.is_set_to(state):
            # A copy: the memory of a state is its own, so that parts of it can be changed in place.
            self.states[name] = value.to(state.dtype, copy=True)
        return (self.after_writing(name, value),) if step.outputs else ()

    def update(self, step: Step, values: Values) -> Sequence[Any]:
        """A `slice_update` whose result goes back into a state: in place, where nothing else sees the memory."""
        arguments = self.arguments(step, values)
        x, state = arguments["x"], self.state(str(step.state))
        if self.observe is not None or x.dtype != state.dtype or not x.is_set_to(state):
            return (OPERATIONS["slice_update"].function(**arguments),)
        name = step.arguments["x"].name
        if name not in step.drop or _shares(state, [v for other, v in self.in_memory(values) if other != name]):
            return (OPERATIONS["slice_update"].function(**arguments),)
        update = arguments.pop("update")
        target = OPERATIONS["slice_by_index"].function(**arguments)
        update = update.reshape(target.shape)
        self.writes(str(step.state), target, update)
        target.copy_(update)
        return (x,)

    def read(self, name: str) -> Tensor:
        """What an operation gives that reads a state."""
        return self.state(name)

    def after_writing(self, name: str, value: Tensor) -> Tensor:
        """What an operation gives that wrote a value into a state."""
        return value

    def writes(self, name: str, part: Tensor, update: Tensor) -> None:
        """Is called before a part of a state is changed in place."""

    def in_memory(self, values: Values) -> Iterable[tuple[str, Any]]:
        """Those of the values that may lie in the memory of a state, with their names."""
        return values.items()

    def state(self, name: str) -> Tensor:
        if name not in self.states:
            raise DataError(f"the state {name!r} is missing: pass what make_state() returned")
        return self.states[name]

    def unshared(self, result: Tensor) -> Tensor:
        """An output that stays as it is when a later run changes the states."""
        return result.clone() if self.states and _shares(result, self.states.values()) else result


def _missing(name: str) -> Any:
    # What no path computes is refused when the model is loaded.
    raise FormatError(f"{name!r} is needed, but only a branch or a loop that was not run would compute it")


def _shares(tensor: Tensor, others: Iterable[Any]) -> bool:
    """Whether one of the others may lie in the same memory as a tensor."""
    memory = tensor.untyped_storage().data_ptr()
    return any(not isinstance(other, Tensor) or other.untyped_storage().data_ptr() == memory for other in others)


# The steps without a function; `neural_network.control` adds its own.
SPECIAL: dict[str, Callable[[Run, Step, Values], Sequence[Any]]] = {
    # By their names, as runs of another kind do them in their own way.
    "cond": lambda run, step, values: run.cond(step, values),
    "while_loop": lambda run, step, values: run.loop(step, values),
    "invoke": lambda run, step, values: run.invoke(step, values),
    "read_state": Run.read_state,
    "write_state": Run.write_state,
    "coreml_update_state": Run.write_state,
    "slice_update": Run.update,
}
