"""One function of a program as a module that `torch.export` takes: what depends on no input is computed beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.traceback import annotate

from corepress.runtime.executor import SPECIAL, Executor, Run, Values
from corepress.runtime.plan import Computed, Step, reads

# Of a node of the exported graph, what holds the operation of the package that it is a part of.
STEP = "corepress_step"
# What gives another value each time.
_RANDOM = "random_"


class Exportable(nn.Module):
    """`forward` takes the inputs in order and returns the outputs in order; states are buffers that it changes.

    Args:
        executor: What `runtime.load` made of the function.
        compressed: For constants that stay compressed, a module that gives the dense value.
        states: The first values of the states, by name.
    """

    def __init__(self, executor: Executor, compressed: Mapping[str, nn.Module], states: Mapping[str, Tensor]):
        super().__init__()
        self.plan, self.output_types = executor.plan, executor.output_types
        # Of what is registered `torch.export` knows no numbers; of these it does.
        self._known = {name: value for name, value in executor.constants().items() if name not in compressed}
        self._names: dict[str, str] = {}
        for name, value in self._known.items():
            if _is_weight(value):
                self.register_buffer(self._named("held", name), value)
        for name, module in compressed.items():
            self.add_module(self._named("compressed", name), module)
        for name, value in states.items():
            self.register_buffer(self._named("state", name), value)
        self.states, self.compressed = tuple(states), tuple(compressed)

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
        held |= {name: self._own("compressed", name)() for name in self.compressed}
        states = {name: self._own("state", name) for name in self.states}
        run = _Known(held, states, self._known)
        results = run.block(self.plan, dict(zip(self.plan.inputs, inputs, strict=True)))
        for name in self.states:
            self._own("state", name).copy_(states[name])
        typed = zip(results, self.output_types, strict=True)
        return tuple(value if dtype is None else value.to(dtype) for value, dtype in typed)


class _Known(Run):
    """A run, under `torch.export`, that computes what no input changes with real tensors.

    So lengths, shapes and the conditions of loops are numbers, and loops of known length are written out.
    """

    def __init__(self, held: Mapping[str, Any], states: MutableMapping[str, Tensor], known: Mapping[str, Any]):
        super().__init__(held, states, _ignore)  # who observes gets no change in place, which could not be exported
        self._symbolic, self._real = held, known

    def step(self, step: Step, values: Values) -> None:
        """Compute one step: with real tensors, where all that it reads is known."""
        if not self._is_known(step, values):
            with annotate({STEP: str(step)}):
                super().step(step, values)
            return
        self.held = self._real
        try:
            with _eagerly():
                super().step(step, values)
        finally:
            self.held = self._symbolic

    def value(self, argument: Any, values: Values, step: Step | None = None, key: str = "") -> Any:
        """An argument as its step wants it: numbers, where it is known."""
        if isinstance(argument, Computed) and _is_real(values.get(argument.name)):
            with _eagerly():
                return super().value(argument, values, step, key)
        return super().value(argument, values, step, key)

    def holds(self, condition: Any) -> bool:
        """Whether the condition of a branch or a loop is true."""
        if not _is_real(condition):
            return super().holds(condition)
        with _eagerly():
            return super().holds(condition)

    def _is_known(self, step: Step, values: Values) -> bool:
        if step.kind in SPECIAL or step.kind.startswith(_RANDOM) or step.blocks:
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
