"""A function as a module that `torch.export` takes: what depends on no input is computed beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.traceback import annotate

from corepress.errors import CorepressError
from corepress.migrating import blocks
from corepress.migrating.constants import Constant
from corepress.migrating.lengths import as_tensor, computed, is_symbolic, lengths, numbers
from corepress.migrating.operations import EXPORTED
from corepress.migrating.stored import Stored
from corepress.runtime.executor import SPECIAL, Executor, Run, Values
from corepress.runtime.plan import Block, Computed, Held, Step, reads

# Of a node of the exported graph, what holds the operation of the package that it is a part of.
STEP = "corepress_step"
# Rounds of a loop, of which the number is known, that are written out; more stay a loop.
_WRITTEN_OUT = 10_000
# What gives another value each time, but for a seed of 0 or more.
_RANDOM = "random_"


@dataclass
class Without:
    """Steps that can't be exported: they give zeros, so that all of them become known.

    `seen`: by the name of a value, what a run gave. `failures`: the steps, and why; more are added as they are found.
    """

    seen: Values
    failures: dict[str, str] = field(default_factory=dict)

    def zeros(self, step: Step, values: Values) -> Values:
        """What a step gives instead: made of what it reads, since what nothing reads would not be exported."""
        read = [value for name in reads(step) if isinstance(value := values.get(name), Tensor)]
        nothing = sum((value.to(torch.float32).sum() * 0 for value in read), torch.zeros(()))
        found = {name: self.seen[name] for name in step.outputs}
        return {name: (torch.zeros(tuple(v.shape)) + nothing).to(v.dtype) for name, v in found.items()}


class Exportable(nn.Module):
    """`forward` takes the inputs in order and returns the outputs in order; states are buffers that it changes.

    Args:
        executor: What `runtime.load` made of the function.
        compressed: The constants that stay compressed, by the name of the buffer.
        states: The first values of the states, by name.
        without: Steps that can't be exported; without, the first of them is an error.
    """

    def __init__(
        self, executor: Executor, compressed: Mapping[str, Stored | Constant], states: Mapping[str, Tensor],
        without: Without | None = None,
    ):  # fmt: skip
        super().__init__()
        self.plan, self.output_types = executor.plan, executor.output_types
        # Of what is registered `torch.export` knows no numbers; of these it does.
        self._known = {name: value for name, value in executor.constants().items() if name not in compressed}
        self._names: dict[str, str] = {}
        for name, value in self._known.items():
            if _is_weight(value):
                self.register_buffer(self._named("held", name), value)
        for name, form in compressed.items():
            if isinstance(form, Constant):
                self.add_module(self._named("compressed", name), form)
        for name, value in states.items():
            self.register_buffer(self._named("state", name), value)
        self.states, self.compressed = tuple(states), dict(compressed)
        self._types = {name: value.dtype for name, value in executor.constants().items() if name in compressed}
        self._without = without

    def _named(self, kind: str, name: str) -> str:
        """The name of a buffer or a module for a value, without what PyTorch forbids in it."""
        return self._names.setdefault(f"{kind} {name}", f"{kind}_{len(self._names)}")

    def _own(self, kind: str, name: str) -> Any:
        return getattr(self, self._names[f"{kind} {name}"])

    def state_buffers(self) -> dict[str, str]:
        """The names of the states, by the name of their buffer."""
        return {self._names[f"state {name}"]: name for name in self.states}

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """See the class."""
        held = {name: self._own("held", name) if _is_weight(value) else value for name, value in self._known.items()}
        for name, form in self.compressed.items():
            dense = form.dense() if isinstance(form, Stored) else self._own("compressed", name)()
            held[name] = dense.to(self._types[name])
        states = {name: self._own("state", name) for name in self.states}
        run = _Known(held, states, self._known, self._without)
        results = run.block(self.plan, dict(zip(self.plan.inputs, inputs, strict=True)))
        for name in self.states:
            # The product keeps the value apart from the state: Core AI reads again what was written, and its runtime
            # for CPUs fails where such a value is cut to a length that it does not know.
            self._own("state", name).copy_(states[name] * 1)
        results = tuple(as_tensor(value) if is_symbolic(value) else value for value in results)
        typed = zip(results, self.output_types, strict=True)
        return tuple(value if dtype is None else value.to(dtype) for value, dtype in typed)


class _Known(Run):
    """A run, under `torch.export`, that computes what no input changes with real tensors.

    So lengths, shapes and the conditions of loops are numbers, and loops of known length are written out. What only the
    shape of an input changes are symbols (`lengths.py`).
    """

    def __init__(
        self, held: Mapping[str, Any], states: MutableMapping[str, Tensor], known: Mapping[str, Any],
        without: Without | None,
    ):  # fmt: skip
        super().__init__(held, states, _ignore)  # who observes gets no change in place, which could not be exported
        self._symbolic, self._real = held, known
        self._without = without

    def step(self, step: Step, values: Values) -> None:
        """Compute one step: with real tensors, where all that it reads is known."""
        if not self._is_known(step, values):
            self._unknown(step, values)
            return
        self.held = self._real
        try:
            with _eagerly():
                super().step(step, values)
        finally:
            self.held = self._symbolic

    def _unknown(self, step: Step, values: Values) -> None:
        found = self._lengths(step, values)
        if found is not None:
            values[step.outputs[0]] = found
            for name in step.drop:
                values.pop(name, None)
            return
        if self._without is not None and str(step) in self._without.failures:
            values |= self._without.zeros(step, values)
            return
        if step.kind in EXPORTED:
            step = replace(step, function=EXPORTED[step.kind])
        try:
            with annotate({STEP: str(step)}):
                super().step(step, values)
        except (CorepressError, RuntimeError, ValueError, NotImplementedError) as error:
            if self._without is None or not all(name in self._without.seen for name in step.outputs):
                raise
            self._without.failures[str(step)] = str(error)
            values |= self._without.zeros(step, values)

    def _lengths(self, step: Step, values: Values) -> Any:
        """What a step gives that computes with lengths alone; None of any other."""
        if step.kind == "shape":
            return self._simplest(lengths(list(values[step.arguments["x"].name].shape)))
        names = list(reads(step))
        if step.blocks or not any(is_symbolic(values.get(name)) for name in names):
            return None
        if not all(is_symbolic(values.get(name)) or _is_real(values.get(name)) for name in names):
            return None
        with _eagerly():
            given = {key: numbers(self._raw(value, values)) for key, value in step.arguments.items()}
        if step.kind == "range_1d" and all(value is not None for value in given.values()):
            return torch.arange(*(given[key].item() for key in ("start", "end", "step")), dtype=torch.int32)
        return self._simplest(computed(step.kind, given))

    def _simplest(self, found: Any) -> Any:
        """Lengths as a tensor of numbers, where none of them is a symbol."""
        if found is None or any(isinstance(number, torch.SymInt) for number in found.reshape(-1)):
            return found
        with _eagerly():
            return torch.tensor(found.tolist(), dtype=torch.int32)

    def _raw(self, argument: Any, values: Values) -> Any:
        """An argument as it is, in no form."""
        if isinstance(argument, list | tuple):
            return [self._raw(item, values) for item in argument]
        if isinstance(argument, Held):
            return self._real[argument.name]
        return values[argument.name] if isinstance(argument, Computed) else argument

    def arguments(self, step: Step, values: Values) -> dict[str, Any]:
        """The arguments of a step; lengths as tensors, where tensors are wanted."""
        given = {name: values[name] for _, name in step.computed if name in values}
        wanted = {name: as_tensor(value) for name, value in given.items() if is_symbolic(value)}
        return super().arguments(step, values | wanted if wanted else values)

    def value(self, argument: Any, values: Values, step: Step | None = None, key: str = "") -> Any:
        """An argument as its step wants it: numbers, where it is known."""
        if isinstance(argument, Computed) and is_symbolic(values.get(argument.name)):
            found: Any = values[argument.name]
            if step is None:
                return found
            if not argument.form.python:
                return as_tensor(found)
            return list(found.reshape(-1)) if argument.form.many else found.reshape(-1)[0]
        if isinstance(argument, Computed) and _is_real(values.get(argument.name)):
            with _eagerly():
                return super().value(argument, values, step, key)
        return super().value(argument, values, step, key)

    def cond(self, step: Step, values: Values) -> Sequence[Any]:
        """The block that is chosen; both, where an input chooses."""
        condition = self.value(step.arguments["pred"], values)
        if _is_real(condition) or is_symbolic(condition):
            return super().cond(step, values)
        return blocks.branch(step, condition, blocks.outside(step, values, self._symbolic), values, self._apart)

    def loop(self, step: Step, values: Values) -> Sequence[Any]:
        """All rounds, written out as long as nothing but constants says whether there is another one."""
        condition, body = step.blocks
        variables = self.value(step.arguments["loop_vars"], values)
        for _ in range(_WRITTEN_OUT):
            goes_on = self.inner(condition, variables, values)[0]
            if not _is_real(goes_on):
                break
            if not self.holds(goes_on):
                return variables  # type: ignore[no-any-return]
            variables = self.inner(body, variables, values)
        return blocks.loop(step, variables, blocks.outside(step, values, self._symbolic), values, self._apart)

    def _apart(self, block: Block, held: Mapping[str, Tensor], values: Values) -> Sequence[Any]:
        """Run a block that is handed its constants."""
        known = {name: value for name, value in self._real.items() if name not in held}
        return _Known({**self._symbolic, **held}, {}, known, None).block(block, values)

    def holds(self, condition: Any) -> bool:
        """Whether the condition of a branch or a loop is true."""
        if not _is_real(condition):
            return super().holds(condition)
        with _eagerly():
            return super().holds(condition)

    def _is_known(self, step: Step, values: Values) -> bool:
        if step.kind in SPECIAL or step.blocks:
            return False
        if step.kind.startswith(_RANDOM) and step.constant.get("seed", -1) < 0:
            return False
        if any(name not in self._real for _, name in step.held):
            return False
        return all(_is_real(values.get(name)) for name in reads(step))


def _is_weight(value: Tensor) -> bool:
    """Whether a constant is one that takes part in arithmetic alone, and not a length, an index or a condition."""
    return value.is_floating_point() and value.numel() > 1


def _is_real(value: Any) -> bool:
    if isinstance(value, Tensor):
        return type(value) is Tensor or type(value) is nn.Parameter
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_is_real(item) for item in value)
    return isinstance(value, bool | int | float | str)


@contextmanager
def _eagerly() -> Iterator[None]:
    with unset_fake_temporarily(), disable_proxy_modes_tracing(), torch.no_grad():
        yield


def _ignore(name: str, value: Any) -> None:
    """Observe nothing."""
