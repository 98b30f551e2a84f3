"""The states of a sequence whose steps are walked side by side, operation by operation.

When an operation of a late step reads a state, the steps before it have come only as far as the same operation, and
what they write further on is not there yet. In its place stands what they wrote when the sequence ran as a whole,
before the walk. A decoder does not look at that: a layer looks at what the same layer wrote of earlier tokens, and does
so after it has written. What is written is kept as changes, the smallest that say it: a token changes a small part of a
cache, the states of all steps would not fit, and what stays as it was read is not written. Nor would fit what they have
read: among the values of a step stands which state it is, and it is made again when an operation asks for it.

Where no weight stands between the reading of a state and its writing, as in a sum over all tokens, each step takes the
operations between them before the next step begins (`in_turns`). So in both kinds of models the states are those that
the walked constants make, to the number; a weight within such a loop, of a recurrent layer, meets the states that it
made before it was changed.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.runtime import aside
from corepress.runtime.aside import Store
from corepress.runtime.executor import Run
from corepress.runtime.plan import STATES, Block, Step
from corepress.runtime.threaded import is_weight

Values = dict[str, Any]


class _Change(NamedTuple):
    """Numbers of a state that were written: their places in its memory, or its shape and strides if they are all of it,
    and what they are; both as the store keeps them."""

    where: Any
    values: Any
    store: Store

    def apply(self, state: Tensor) -> None:
        where, values = self.store.get(self.where), self.store.get(self.values)
        if isinstance(where, Tensor):
            state.view(-1)[where.long()] = values
        else:
            state.as_strided(*where).copy_(values)


class _AsRead(NamedTuple):
    """A state as a step read it: when the steps before had written it so many times each, and the step itself."""

    name: str
    counts: tuple[int, ...]
    own: int


# By the name of the state, what one step wrote, in order.
_Written = defaultdict[str, list[_Change]]


class _Sequence:
    """The states of all steps of one sequence. `recorded`: what they wrote when it ran as a whole; `store`: keeps what
    they write."""

    def __init__(self, empty: Mapping[str, Tensor], count: int, store: Store, recorded: Sequence[_Written] = ()):
        self.empty, self.store, self.recorded = empty, store, recorded
        self.written: list[_Written] = [defaultdict(list) for _ in range(count)]
        # By name, the state before a step: its number, how often those before had written it, and what it is.
        self._at: dict[str, tuple[int, tuple[int, ...], Tensor]] = {}

    def before(self, step: int, name: str, counts: Sequence[int]) -> Tensor:
        """What a state is before a step, as far as the steps before had written it: so many times each."""
        first, known, state = self._at.get(name, (step + 1, (), self.empty[name]))
        if first > step or known != tuple(counts[:first]):
            first, state = 0, self.empty[name].clone()
        for number in range(first, step):
            own = self.written[number][name][: counts[number]]
            later = self.recorded[number][name][counts[number] :] if self.recorded else []
            for change in (*own, *later):
                change.apply(state)
        if step + 1 == len(self.written):
            # The last one: other sequences need the room before this one is read again.
            self._at.pop(name, None)
            return state
        self._at[name] = step, tuple(counts), state
        return state.clone()

    def counts(self, step: int, name: str) -> list[int]:
        """How often each of the steps before one has written a state."""
        return [len(written[name]) for written in self.written[:step]]

    def copy(self) -> _Sequence:
        """Another one that has come as far."""
        copy = _Sequence(self.empty, len(self.written), self.store, self.recorded)
        for own, written in zip(copy.written, self.written, strict=True):
            own.update({name: list(changes) for name, changes in written.items()})
        return copy


class _States(MutableMapping[str, Tensor]):
    """The states as one step of a sequence has read them last, and changed them since."""

    def __init__(self, sequence: _Sequence, step: int):
        self.sequence, self.step = sequence, step
        # How often the steps before had written them then.
        self._counts: dict[str, list[int]] = {}
        # What they are, as long as anybody holds it.
        self._held: dict[str, weakref.ref[Tensor]] = {}

    def copy(self, sequence: _Sequence) -> _States:
        """The same in a copy of the sequence."""
        copy = _States(sequence, self.step)
        copy._counts = dict(self._counts)
        return copy

    def read(self, name: str) -> None:
        """Look again at what the steps before have written."""
        if name in self.sequence.empty:
            counts = self.sequence.counts(self.step, name)
            if self._counts.get(name) != counts:
                self._held.pop(name, None)
            self._counts[name] = counts

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.sequence.empty:
            raise KeyError(name)
        if name not in self._counts:
            self.read(name)
        known = self._held[name]() if name in self._held else None
        if known is None:
            known = self._made(name, self._counts[name], len(self.sequence.written[self.step][name]))
            self._held[name] = weakref.ref(known)
        return known

    def as_read(self, value: Any) -> _AsRead | None:
        """Which state a value is: the one that was read last, if any."""
        for name, held in self._held.items():
            if held() is value:
                return _AsRead(name, tuple(self._counts[name]), len(self.sequence.written[self.step][name]))
        return None

    def again(self, state: _AsRead) -> Tensor:
        """A state that was read before."""
        written = len(self.sequence.written[self.step][state.name])
        if state.own == written and state.counts == tuple(self._counts[state.name]):
            return self[state.name]
        return self._made(*state)

    def _made(self, name: str, counts: Sequence[int], own: int) -> Tensor:
        state = self.sequence.before(self.step, name, counts)
        for change in self.sequence.written[self.step][name][:own]:
            change.apply(state)
        return state

    def __setitem__(self, name: str, value: Tensor) -> None:
        before = self[name]
        places = torch.nonzero((before != value).reshape(-1)).reshape(-1)
        if 2 * len(places) > value.numel():
            self._write(name, (before.shape, before.stride(), 0), value.clone())
        else:
            self._write(name, places, value.reshape(-1)[places])
        self._held.pop(name, None)

    def changes(self, name: str, part: Tensor, update: Tensor) -> None:
        """A part of what was read last is going to be changed in place."""
        changed = part != update
        if 2 * int(changed.sum()) > part.numel():
            self._write(name, (part.shape, part.stride(), int(part.storage_offset())), update.clone())
        else:
            strides = torch.tensor(part.stride(), dtype=torch.long, device=part.device)
            self._write(name, changed.nonzero() @ strides + part.storage_offset(), update[changed])

    def _write(self, name: str, where: Any, values: Tensor) -> None:
        store = self.sequence.store
        if isinstance(where, Tensor) and self.sequence.empty[name].numel() < 1 << 31:
            where = where.int()
        self.sequence.written[self.step][name].append(_Change(store.put(where), store.put(values), store))

    def __delitem__(self, name: str) -> None:
        raise TypeError("a state can't be taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(self.sequence.empty)

    def __len__(self) -> int:
        return len(self.sequence.empty)


class StepRun(Run):
    """The run of one step of a sequence."""

    states: _States

    def read(self, name: str) -> Tensor:
        self.states.read(name)
        return super().read(name)

    def after_writing(self, name: str, value: Tensor) -> Tensor:
        # With what the steps before have written since this one read it.
        return self.read(name).to(value.dtype)

    def writes(self, name: str, part: Tensor, update: Tensor) -> None:
        self.states.changes(name, part, update)

    def in_memory(self, values: Values) -> Iterable[tuple[str, Any]]:
        return values.in_memory() if isinstance(values, aside.Values) else values.items()


class _StepValues(aside.Values):
    """The values of one step of a sequence."""

    def __init__(self, store: Store, states: _States, values: Values):
        self._states = states
        super().__init__(store, values)

    def kept(self, value: Any) -> Any:
        return self._states.as_read(value) or super().kept(value)

    def made(self, kept: Any) -> Any:
        return self._states.again(kept) if isinstance(kept, _AsRead) else super().made(kept)

    def alike(self, values: Values) -> _StepValues:
        """Other values of the same step, kept in the same way."""
        return _StepValues(self._store, self._states, values)


def side_by_side(
    plan: Block,
    held: Mapping[str, Any],
    empty: Mapping[str, Tensor],
    steps: Sequence[Values],
    store: Store | None = None,
    like: _Sequence | None = None,
) -> list[tuple[Run, Values]]:
    """A run for each step of a sequence, with the values that it begins with.

    They are to be taken through the plan together, one operation after the other, in each the steps in order. `held`:
    the constants, `empty`: the states at the beginning. `store`: keeps their values; None keeps them in memory. `like`:
    the same sequence with the same constants, which needs not be run as a whole again.
    """
    if not empty:
        return [(Run(held, {}, None), own if store is None else aside.Values(store, own)) for own in steps]
    changes = store or Store()
    if like is None:
        like = _Sequence(empty, len(steps), changes)
        for number, own in enumerate(steps if len(steps) > 1 else ()):
            StepRun(held, _States(like, number), None).block(plan, dict(own))
        like.recorded = like.written
    sequence = _Sequence(empty, len(steps), changes, like.recorded)
    pairs: list[tuple[Run, Values]] = []
    for number, own in enumerate(steps):
        states = _States(sequence, number)
        pairs.append((StepRun(held, states, None), own if store is None else _StepValues(store, states, own)))
    return pairs


def beside(own: Values, values: Values) -> Values:
    """Other values of a run, kept as its own are."""
    return own.alike(values) if isinstance(own, _StepValues) else values


def sequence_of(run: Run) -> _Sequence | None:
    """The sequence to which the run of a step belongs."""
    return run.states.sequence if isinstance(run, StepRun) else None


def in_turns(steps: Sequence[Step], held: Mapping[str, Any]) -> list[list[Step]]:
    """The operations of a plan in order, in groups: each step of a sequence takes a whole group before the next step
    begins it. Alone stand all that are not between the reading and the writing of a state, and those among weights."""
    groups: list[list[Step]] = []
    # By name, the group of the first operation that read a state since the last weight.
    reading: dict[str, int] = {}
    for step in steps:
        groups.append([step])
        name = step.arguments[STATES[step.kind]].name if step.kind in STATES else ""
        if any(is_weight(held[buffer]) for _, buffer in step.held):
            reading.clear()
        elif step.kind == "read_state":
            reading.setdefault(name, len(groups) - 1)
        elif name in reading:
            first = reading[name]
            groups[first:] = [[one for group in groups[first:] for one in group]]
            reading = {other: min(place, first) for other, place in reading.items()}
    return groups


def going_on(pairs: Sequence[tuple[Run, Values]]) -> Iterator[tuple[Run, Values]]:
    """Copies of runs, which are to be finished one after the other; the runs themselves stay where they are."""
    copies: dict[int, _Sequence] = {}
    for run, own in pairs:
        states = run.states
        if isinstance(states, _States):
            if id(states.sequence) not in copies:
                copies[id(states.sequence)] = states.sequence.copy()
            yield StepRun(run.held, states.copy(copies[id(states.sequence)]), None), dict(own)
        else:
            yield Run(run.held, {name: state.clone() for name, state in states.items()}, None), dict(own)
