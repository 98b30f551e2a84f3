"""The states of a sequence whose steps are walked side by side, operation by operation.

When an operation of a late step reads a state, the steps before it have come only as far as the same operation, and
what they write further on is not there yet. In its place stands what they wrote when the sequence ran as a whole,
before the walk. A decoder does not look at that: a layer reads what the same layer wrote of earlier tokens, by
operations that come first. So its states are those that the walked constants make, to the number; in a recurrent
network a constant meets the states that it made before it was changed.

What is written is kept as changes, for the states of all steps would not fit: a token changes a small part of a cache.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.runtime.executor import Run
from corepress.runtime.plan import Block

Values = dict[str, Any]


class _Change(NamedTuple):
    """Numbers of a state that were written: where in its memory, as places or as a shape, strides and an offset, and
    what they are."""

    where: Tensor | tuple[Sequence[int], Sequence[int], int]
    values: Tensor

    def apply(self, state: Tensor) -> None:
        if isinstance(self.where, Tensor):
            state.view(-1)[self.where] = self.values
        else:
            state.as_strided(*self.where).copy_(self.values)


# By the name of the state, what one step wrote, in order.
_Written = defaultdict[str, list[_Change]]


class _Sequence:
    """The states of all steps of one sequence. `recorded`: what they wrote when it ran as a whole."""

    def __init__(self, empty: Mapping[str, Tensor], count: int, recorded: Sequence[_Written] = ()):
        self.empty, self.recorded = empty, recorded
        self.written: list[_Written] = [defaultdict(list) for _ in range(count)]
        # By name, the state before a step: the number of the step, what was known of those before, and the numbers.
        self._at: dict[str, tuple[int, int, Tensor]] = {}

    def before(self, step: int, name: str) -> Tensor:
        """What a state is before a step."""
        known = sum(len(written[name]) for written in self.written[:step])
        first, _, state = self._at.get(name, (step + 1, 0, self.empty[name]))
        earlier = sum(len(written[name]) for written in self.written[:first])
        if first > step or earlier != self._at[name][1]:
            first, state = 0, self.empty[name].clone()
        for number in range(first, step):
            own = self.written[number][name]
            later = self.recorded[number][name][len(own) :] if self.recorded else []
            for change in (*own, *later):
                change.apply(state)
        self._at[name] = step, known, state
        return state.clone()

    def copy(self) -> _Sequence:
        """Another one that has come as far."""
        copy = _Sequence(self.empty, len(self.written), self.recorded)
        for own, written in zip(copy.written, self.written, strict=True):
            own.update({name: list(changes) for name, changes in written.items()})
        return copy


class _States(MutableMapping[str, Tensor]):
    """The states as one step of a sequence finds them, and changes them."""

    def __init__(self, sequence: _Sequence, step: int):
        self.sequence, self.step = sequence, step
        # What was read last, as long as anybody holds it: it is the state as it is now.
        self._held: dict[str, weakref.ref[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.sequence.empty:
            raise KeyError(name)
        known = self._held.get(name, lambda: None)()
        if known is None:
            known = self.sequence.before(self.step, name)
            for change in self.sequence.written[self.step][name]:
                change.apply(known)
            self._held[name] = weakref.ref(known)
        return known

    def __setitem__(self, name: str, value: Tensor) -> None:
        before = self[name]
        places = torch.nonzero((before != value).reshape(-1)).reshape(-1)
        if 2 * len(places) > value.numel():
            change = _Change((before.shape, before.stride(), 0), value.clone())
        else:
            change = _Change(places, value.reshape(-1)[places])
        self.sequence.written[self.step][name].append(change)
        self._held.pop(name, None)

    def changed(self, name: str, part: Tensor) -> None:
        """A part of what was read last was changed in place."""
        where = part.shape, part.stride(), int(part.storage_offset())
        self.sequence.written[self.step][name].append(_Change(where, part.clone()))

    def __delitem__(self, name: str) -> None:
        raise TypeError("a state can't be taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(self.sequence.empty)

    def __len__(self) -> int:
        return len(self.sequence.empty)


class _StepRun(Run):
    """The run of one step of a sequence."""

    states: _States

    def wrote(self, name: str, part: Tensor) -> None:
        self.states.changed(name, part)


def side_by_side(
    plan: Block, held: Mapping[str, Any], empty: Mapping[str, Tensor], steps: Sequence[Values]
) -> list[tuple[Run, Values]]:
    """A run for each step of a sequence, with the values that it begins with.

    They are to be taken through the plan together, one operation after the other, in each the steps in order. `held`:
    the constants, `empty`: the states at the beginning.
    """
    if not empty or len(steps) == 1:
        return [(Run(held, {name: state.clone() for name, state in empty.items()}, None), own) for own in steps]
    whole = _Sequence(empty, len(steps))
    for number, own in enumerate(steps):
        _StepRun(held, _States(whole, number), None).block(plan, dict(own))
    sequence = _Sequence(empty, len(steps), whole.written)
    return [(_StepRun(held, _States(sequence, number), None), own) for number, own in enumerate(steps)]


def going_on(pairs: Sequence[tuple[Run, Values]]) -> Iterator[tuple[Run, Values]]:
    """Copies of runs, which are to be finished one after the other; the runs themselves stay where they are."""
    copies: dict[int, _Sequence] = {}
    for run, own in pairs:
        states = run.states
        if isinstance(states, _States):
            if id(states.sequence) not in copies:
                copies[id(states.sequence)] = states.sequence.copy()
            yield _StepRun(run.held, _States(copies[id(states.sequence)], states.step), None), dict(own)
        else:
            yield Run(run.held, {name: state.clone() for name, state in states.items()}, None), dict(own)
