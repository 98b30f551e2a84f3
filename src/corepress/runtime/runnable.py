"""A model as something that runs: all that metrics, samples and verification know of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from corepress.errors import ConfigError
from corepress.formats.features import Interface
from corepress.sequences import Sample, steps_of

State = dict[str, Tensor]
# Is called with the name of a value and with the value: a tensor, or what else an operation gives, such as a list.
Observe = Callable[[str, Any], None]


class Runnable(Protocol):
    """A model that can be called: an ML program, a neural network, or a pipeline of several stages.

    Examples:
        >>> model: cto.runtime.Runnable = cto.runtime.load("model.mlpackage")
        >>> [feature.name for feature in model.interface.inputs]
        ['image']
    """

    @property
    def interface(self) -> Interface:
        """Its inputs, outputs and states."""
        ...

    def make_state(self) -> State:
        """The states of a stateful model, all zero, to be passed to every `predict` of one sequence."""
        ...

    def predict(
        self, inputs: Mapping[str, Any], state: State | None = None, observe: Observe | None = None
    ) -> dict[str, Any]:
        """Run the model on named inputs; see `Program.predict`."""
        ...

    def run_sequence(
        self, sample: Sample, state: State | None = None, observe: Observe | None = None
    ) -> list[dict[str, Any]]:
        """Run the steps of a sample one after the other; see `Program.run_sequence`."""
        ...

    def kinds(self) -> dict[str, str]:
        """By the name of each intermediate value, the operation that computes it."""
        ...


def in_steps(
    program: Runnable, sample: Sample, state: State | None = None, observe: Observe | None = None
) -> Iterator[dict[str, Any]]:
    """What a model answers to each step of a sample, one at a time; the arguments are those of `run_sequence`."""
    state = program.make_state() if state is None else state
    for step in steps_of(sample):
        yield program.predict(step, state, observe)


def given_state(interface: Interface, state: State | None) -> State:
    """The state that a caller passed; a ConfigError where a stateful model lacks it."""
    if interface.states and state is None:
        raise ConfigError("the model is stateful: pass what make_state() returned")
    return {} if state is None else state
