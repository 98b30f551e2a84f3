"""Runs a plan with PyTorch: a module whose buffers are the constants of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import CorepressError, FormatError
from corepress.runtime.packed import Packed, product
from corepress.runtime.plan import Block, Computed, Held, Step, python_value
from corepress.runtime.registry import OPERATIONS

# A loop that goes on for longer is taken for one that never ends.
MAX_ITERATIONS = 1_000_000
# What PyTorch and Python raise where the values of a program do not fit its operations.
_FAULTS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)


class Executor(nn.Module):
    """One function of a program. `forward` takes its inputs in order and returns its outputs in order.

    `states` of `forward`: the tensors of a stateful model by name, which are updated in place of the dictionary.
    `observe(name, value)` is called with every value that a step computes: for comparing and calibrating.
    `output_types`: what the program declares its outputs to be; None leaves one as it was computed.
    """

    def __init__(
        self,
        plan: Block,
        held: Mapping[str, Tensor | Packed],
        output_types: Sequence[torch.dtype | None] | None = None,
    ):
        super().__init__()
        self.plan = plan
        self.output_types = output_types or [None] * len(plan.outputs)
        self._names = {}
        for number, (name, value) in enumerate(held.items()):
            # Names of a program may hold any character, those of buffers may not.
            self._names[name] = own = f"constant_{number}"
            if isinstance(value, Packed):
                self.add_module(own, value)
            else:
                self.register_buffer(own, value)

    def forward(
        self,
        *inputs: Tensor,
        states: dict[str, Tensor] | None = None,
        observe: Callable[[str, Any], None] | None = None,
    ) -> tuple[Any, ...]:
        values: dict[str, Any] = dict(zip(self.plan.inputs, inputs, strict=True))
        results = self._run(self.plan, values, {} if states is None else states, observe)
        return tuple(
            result.to(dtype) if dtype is not None and isinstance(result, Tensor) else result
            for result, dtype in zip(results, self.output_types, strict=True)
        )

    def _run(
        self,
        block: Block,
        values: dict[str, Any],
        states: dict[str, Tensor],
        observe: Callable[[str, Any], None] | None,
    ) -> tuple[Any, ...]:
        for step in block.steps:
            try:
                results = self._step(step, values, states, observe)
            except CorepressError:
                raise
            except _FAULTS as error:
                raise FormatError(f"{step.kind} {step.name!r} can't be computed: {error}") from error
            for name, value in zip(step.outputs, results, strict=True):
                values[name] = value
                if observe is not None:
                    observe(name, value)
            for name in step.drop:
                values.pop(name, None)
        return tuple(self._value(output, values) for output in block.outputs)

    def _step(
        self,
        step: Step,
        values: dict[str, Any],
        states: dict[str, Tensor],
        observe: Callable[[str, Any], None] | None,
    ) -> Sequence[Any]:
        arguments = {key: self._value(argument, values) for key, argument in step.arguments.items()}
        if step.kind == "cond":
            chosen = step.blocks[0 if bool(arguments["pred"]) else 1]
            return self._run(chosen, dict(values), states, observe)
        if step.kind == "while_loop":
            return self._loop(step, arguments["loop_vars"], values, states, observe)
        if step.kind == "read_state":
            return (_state(states, step.arguments["input"]).clone(),)
        if step.kind in ("write_state", "coreml_update_state"):
            name = step.arguments["input" if step.kind == "write_state" else "state"]
            value = arguments["data" if step.kind == "write_state" else "value"]
            states[name.name] = value.to(_state(states, name).dtype)
            return (value,) if step.outputs else ()
        if (packed := product(step.kind, arguments)) is not None:
            return (packed,)
        result = OPERATIONS[step.kind].function(**arguments)
        # A tuple stands for several outputs; a list value is a tuple, too, but a single output.
        return result if isinstance(result, tuple) and len(step.outputs) != 1 else (result,)

    def _loop(
        self,
        step: Step,
        variables: Sequence[Any],
        values: dict[str, Any],
        states: dict[str, Tensor],
        observe: Callable[[str, Any], None] | None,
    ) -> Sequence[Any]:
        condition, body = step.blocks
        for _ in range(MAX_ITERATIONS):
            inside = values | dict(zip(condition.inputs, variables, strict=True))
            if not bool(self._run(condition, inside, states, observe)[0]):
                return variables
            inside = values | dict(zip(body.inputs, variables, strict=True))
            variables = self._run(body, inside, states, observe)
        raise FormatError(f"while_loop {step.name!r} does not end within {MAX_ITERATIONS:,} rounds")

    def _value(self, argument: Any, values: dict[str, Any]) -> Any:
        if isinstance(argument, list):
            return [self._value(item, values) for item in argument]
        if isinstance(argument, Held):
            return getattr(self, self._names[argument.name])
        if not isinstance(argument, Computed):
            return argument
        if argument.name not in values:
            # A state is no value: it is looked up by name where it is read or written.
            return None
        value = values[argument.name]
        if argument.kind in (None, list) or not isinstance(value, Tensor):
            return value
        return python_value(value, argument.kind, f"value {argument.name!r}")


def _state(states: dict[str, Tensor], argument: Any) -> Tensor:
    if argument.name not in states:
        raise CorepressError(f"the state {argument.name!r} is missing: pass what make_state() returned")
    return states[argument.name]
