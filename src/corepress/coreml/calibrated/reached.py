"""A program on its way through samples, up to each weight that is to be compressed, and what they say of it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import Part, Statistics, joined
from corepress.coreml.calibrated.layers import (
    LOOK_UP,
    PRODUCTS,
    counted_vectors,
    fitted_layout,
    layout_of,
    vectors_of,
)
from corepress.coreml.calibrated.sensitivity import Scaled
from corepress.formats.mlprogram import Weight
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.walk import walk, walking
from corepress.sequences import Sample

# What an operation reads in each sample.
Arguments = Sequence[dict[str, Any]]
# What the samples to learn from say, and those to judge by.
Known = tuple[Statistics, Statistics]
Key = tuple[Any, int]


class Wanted(NamedTuple):
    """A weight that is to be compressed, and its action.

    `key`: equal for those that share their values and have equal actions, which are compressed as one.
    """

    weight: Weight
    action: Any
    key: Key


# By the name under which a program keeps their values.
Waiting = dict[str, Wanted]


class Reached:
    """A program on its way through its operations, which waits at each that reads a weight that is to be compressed.

    `learnt`: how many steps of `samples`, the first ones, are to learn from. `constants`: those that may change
    besides. `counting`: how much vectors count, by the name of the operation that multiplies them, and for one that
    looks up rows the gradients by these. `changes`: the new constants so far, and at the end all of them, by the name
    of their buffer.
    """

    def __init__(
        self,
        program: Program,
        weights: Waiting,
        samples: Sequence[Sample],
        originals: Sequence[Sample],
        learnt: int,
        constants: Mapping[str, Weight],
        counting: Mapping[str, Sequence[Tensor]],
    ):
        self.constants, self.counting = constants, counting
        self.program, self.weights, self.samples, self.learnt = program, weights, samples, learnt
        self.changes: dict[str, Tensor] = {}
        self._walk = walking(program, samples, originals=originals)
        self._open: list[tuple[str, str]] = []
        self._changed: dict[str, Tensor] = {}
        self._seen: set[str] = set()
        self._go(None)

    @property
    def at(self) -> Wanted | None:
        """The weight that is reached, with its action; None at the end."""
        return self.weights[self._open[0][1]] if self._open else None

    def awaits(self, key: Key) -> bool:
        """Whether it is at a weight, or will be."""
        return any(wanted.key == key for buffer, wanted in self.weights.items() if buffer not in self._seen)

    def layout(self) -> Layout | None:
        """How the weight that is reached is a matrix; None where it is none, or nothing is known about it."""
        return fitted_layout(self._step, self._open[0][0], self._arguments[0], self.counting)

    def add_here(self, known: Known) -> None:
        """Count what the operation that is reached multiplies its weight by, in the samples."""
        if self.layout() == known[0].layout:
            self._add(known, self._step, self._open[0][0], self._arguments, self._originals)

    def add_everywhere(self, wanted: Mapping[str, Key], known: dict[Key, Known]) -> None:
        """Count the inputs of weights, given by buffer with their keys, in all operations that read them."""

        def visit(step: Step, arguments: Arguments) -> dict[str, Tensor]:
            for argument, buffer in step.held:
                layout = layout_of(step.kind, argument, arguments[0]) if buffer in wanted else None
                if layout is not None:
                    own = known.setdefault(wanted[buffer], (Statistics(layout), Statistics(layout)))
                    if own[0].layout == layout:
                        self._add(own, step, argument, arguments, None)
            return {}

        if wanted:
            walk(self.program, self.samples, visit)
            for step in self.program.module.plan.steps:
                if step.kind == LOOK_UP and step.name in self.counting:
                    self._add_rows(step, wanted, known)

    def _add_rows(self, step: Step, wanted: Mapping[str, Key], known: dict[Key, Known]) -> None:
        """Count the gradients by rows that an operation looks up in a weight which others read, too.

        A row is multiplied by every vector, and looked up now and then: by as many gradients, of all there are, as its
        part of the rows. Those of products were divided by their mean.
        """
        for _, buffer in step.held:
            table = self.program.module.constants()[buffer]
            if buffer not in wanted or table.dim() != 2:
                continue
            layout = Layout(tuple(table.shape))
            own = known.setdefault(wanted[buffer], (Statistics(layout), Statistics(layout)))
            readers = [one for one in self.program.module.plan.steps if buffer in dict(one.held).values()]
            scales = [counts.mean for one in readers if isinstance(counts := self.counting.get(one.name), Scaled)]
            if own[0].layout != layout or (own[0].hessian.count and not scales):
                continue
            share = 1 / (layout.rows * sum(scales) / len(scales)) if scales else 1.0
            for number, rows in enumerate(self.counting[step.name]):
                own[number >= self.learnt].add(rows[None], None, rows.new_full((len(rows),), share))

    def _add(self, known: Known, step: Step, argument: str, arguments: Arguments, originals: Arguments | None) -> None:
        layout, counting = known[0].layout, self.counting.get(step.name)

        def parts(numbers: range) -> Iterator[Part]:
            for number in numbers:
                counts = None if counting is None else counting[number]
                own = counted_vectors(step.kind, argument, arguments[number], layout, counts)
                others: Iterable[Tensor | None] = repeat(None)
                if originals is not None and step.kind in PRODUCTS:
                    others = vectors_of(step.kind, argument, originals[number], layout)
                for (vectors, count), original in zip(own, others, strict=False):
                    yield vectors, original, count

        learnt = min(self.learnt, len(arguments))
        for statistics, numbers in zip(known, (range(learnt), range(learnt, len(arguments))), strict=True):
            for part in joined(parts(numbers)):
                statistics.add(*part)

    @property
    def bias(self) -> Weight | None:
        """The bias that goes with the weight that is reached, if it may change."""
        buffer = dict(self._step.held).get("bias", "")
        return self.constants.get(buffer) if self._open[0][0] == "weight" else None

    def shift_bias(self, bias: Weight, shift: NDArray[Any]) -> Tensor:
        """Add to that bias, and go on with it: its new value, as the package will hold it."""
        before, buffer = self._arguments[0]["bias"], dict(self._step.held)["bias"]
        value = torch.from_numpy((before.cpu().numpy() + shift.reshape(before.shape)).astype(bias.dtype))
        self._changed["bias"] = self.changes[buffer] = value.to(before)
        for own in self._arguments:
            own["bias"] = self._changed["bias"]
        return value

    def put(self, value: NDArray[Any] | None) -> None:
        """Go on with another value of the weight that is reached; None leaves it as it is."""
        argument, buffer = self._open.pop(0)
        self._seen.add(buffer)
        if value is not None:
            before = self._arguments[0][argument]
            tensor = torch.from_numpy(value.copy()).to(before.device, before.dtype)
            self._changed[argument] = self.changes[buffer] = tensor
        if not self._open:
            self._go(self._changed)

    def _go(self, changed: dict[str, Tensor] | None) -> None:
        """To the next operation that reads a weight; to the end where there is none left."""
        try:
            while not self._open:
                if self.weights.keys() <= self._seen:
                    self._walk.close()
                    raise StopIteration
                self._step, streams = next(self._walk) if changed is None else self._walk.send(changed)
                self._arguments, self._originals = streams
                self._changed = {}
                changed, held = self._changed, self._step.held
                self._open = [pair for pair in held if pair[1] in self.weights and pair[1] not in self._seen]
        except StopIteration:
            self._arguments = self._originals = []
