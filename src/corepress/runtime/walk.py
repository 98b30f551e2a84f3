"""Runs a program on several samples at once, operation by operation, so that constants or values can change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.errors import ConfigError
from corepress.runtime.aside import Store
from corepress.runtime.carried import StepRun, beside, going_on, in_turns, sequence_of, side_by_side
from corepress.runtime.executor import Run
from corepress.runtime.plan import Block, Computed, Step
from corepress.runtime.program import Program
from corepress.runtime.runnable import Observe, Runnable, State
from corepress.runtime.samples import finite_tensors
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.threaded import written_at_once
from corepress.sequences import Sample, like, steps_of

# Called before each operation with the arguments that it has in each step of each sample; may return new values for
# constants that it reads, by the name of the argument.
Visit = Callable[..., Mapping[str, Tensor]]
Samples = Iterable[Sample]
# What the program answers to each step, its outputs in order, when a value is changed by the function that is given.
WhatIf = Callable[[Callable[[Tensor], Tensor]], Iterator[Sequence[Any]]]
# See `walking`.
Walking = Generator[tuple[Step, list[Sequence[dict[str, Any]]]], Mapping[str, Tensor], dict[str, Tensor]]
# Runs, each with the values that it has so far.
Pairs = Sequence[tuple[Run, dict[str, Any]]]
# The name of a function, its program, and the inputs that this has in each sample.
Stage = tuple[str, Program, Sequence[Sample]]


def outputs_of(
    program: Program, step: Mapping[str, Any], observe: Observe | None = None, state: State | None = None
) -> tuple[Any, ...]:
    """What a program computes of a sample, in order, as tensors that may have a derivative. Of a classifier these are
    the probabilities, not the label.

    `observe`, `state`: as in `Program.predict`, but that without a state a stateful program starts anew. Raises
    ConfigError for inputs that do not fit, or are not finite.
    """
    given = program.tensors(finite_tensors(program.interface.inputs, step))
    module, plan = program.module, without_labels(program.module.plan)
    state = program.make_state() if state is None else state
    if state and observe is None and torch.is_grad_enabled():
        observe = _nothing  # with an observer no state is changed in place, which would end the derivative
    if plan is module.plan:
        outputs: tuple[Any, ...] = module(*given, states=state, observe=observe)
        return outputs
    run = Run(module.constants(), state, observe)
    return run.block(plan, dict(zip(plan.inputs, given, strict=True)))


def outputs_in_steps(program: Program, sample: Sample, observe: Observe | None = None) -> list[tuple[Any, ...]]:
    """What `outputs_of` gives for each step of a sample, which carry one state."""
    state = program.make_state()
    return [outputs_of(program, step, observe, state) for step in steps_of(sample)]


def _nothing(name: str, value: Any) -> None:
    """Observe nothing."""


def without_labels(plan: Block) -> Block:
    """A plan that gives the probabilities of a classifier as a tensor, in the place of its label and its dictionary."""
    classifying = [step for step in plan.steps if step.kind == "classify"]
    if not classifying:
        return plan
    labelled = {name for step in classifying for name in step.outputs}
    named = list(zip(plan.outputs, plan.output_names, strict=True))
    kept = [pair for pair in named if not (isinstance(pair[0], Computed) and pair[0].name in labelled)]
    # They go out under the name of the dictionary.
    kept += [(step.arguments["probabilities"], step.outputs[-1]) for step in classifying]
    outputs, names = zip(*kept, strict=True)
    steps = [step for step in plan.steps if step.kind != "classify"]
    return replace(plan, steps=steps, outputs=outputs, output_names=names)


@torch.no_grad()
def walk(program: Program, samples: Samples, visit: Visit, *, originals: Samples | None = None) -> dict[str, Tensor]:
    """Show `visit` every operation of a program in order, outside of loops and branches.

    `samples`: inputs by name, or steps. All values that are still needed are kept for all of them, on disk beyond a
    budget of memory (`aside.py`), and arguments are made as they are asked for. A stateful model starts each sample
    anew, and carries its state from step to step (`carried.py`). A constant that `visit` changes is changed from this
    operation on; the program itself stays as it is.
    `originals`: the unchanged program runs on them, as many, next to it, and `visit` also gets the arguments that the
    operation has there.
    Returns the changed constants, by the name of their buffer. Raises ConfigError, with the number of the sample, for
    one that does not fit.
    """
    on_the_way = walking(program, samples, originals=originals)
    try:
        step, arguments = next(on_the_way)
        while True:
            step, arguments = on_the_way.send(visit(step, *arguments))
    except StopIteration as end:
        changes: dict[str, Tensor] = end.value
        return changes


@torch.no_grad()
def walking(program: Program, samples: Samples, *, originals: Samples | None = None) -> Walking:
    """A walk that waits at each operation, for those who take several programs with them: gives the operation and its
    arguments, in the samples and maybe in the originals, and is sent what a `visit` of `walk` returns."""
    held = program.module.constants()
    plan = written_at_once(program.module.plan, held)
    known = dict(held)
    store, given = Store(), list(samples)
    pairs = _begin(program, plan, held, given, store)
    streams = [pairs]
    if originals is not None:
        originals = list(originals)
        same = len(originals) == len(given) and all(one is other for one, other in zip(originals, given, strict=True))
        streams.append(_begin(program, plan, known, originals, store, pairs if same else ()))
    changes: dict[str, Tensor] = {}
    for group in _groups(plan.steps, pairs):
        alone = group[0] if len(group) == 1 and group[0].function is not None else None
        if pairs and alone is not None:
            changed = yield alone, [_Arguments(alone, stream) for stream in streams]
            _change(alone, changed, held, changes)
        seen = [_taken(group, stream) for stream in streams]
        for number, step in enumerate(group):
            if pairs and len(group) > 1 and step.function is not None:
                changed = yield step, [_Seen([own[number] for own in arguments]) for arguments in seen]
                _change(step, changed, held, changes)
        for own in (own for arguments in seen for of_run in arguments for own in of_run):
            own.computed.clear()
    return changes


class _Arguments(Sequence[dict[str, Any]]):
    """What an operation is given in each run, made anew whenever it is asked for."""

    def __init__(self, step: Step, pairs: Pairs):
        self._step, self._pairs = step, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: Any) -> Any:
        run, own = self._pairs[number]
        return run.arguments(self._step, own)


class _Given(NamedTuple):
    """The arguments of an operation in one run; `computed`: those that may be large."""

    others: dict[str, Any]
    computed: dict[str, Any]


class _Seen(Sequence[dict[str, Any]]):
    """What an operation was given in each run."""

    def __init__(self, given: Sequence[_Given]):
        self._given = given

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, number: Any) -> Any:
        found = self._given[number]
        return found.others | dict(found.computed)


def _change(step: Step, changed: Mapping[str, Tensor], held: dict[str, Any], changes: dict[str, Tensor]) -> None:
    """Give a program other constants, by the argument of an operation that reads them."""
    found = {name: changed[key] for key, name in step.held if key in changed}
    held.update(found)
    changes.update(found)


def _groups(steps: Sequence[Step], pairs: Pairs) -> list[list[Step]]:
    """The operations, in the groups that each step of a sequence takes at once; alone where there are no sequences."""
    held = next((run.held for run, _ in pairs if isinstance(run, StepRun)), None)
    return [[step] for step in steps] if held is None else in_turns(steps, held)


def _taken(group: Sequence[Step], pairs: Pairs) -> list[list[_Given]]:
    """Take all runs through a group of operations; what each operation of several was given in each run."""
    seen = []
    for run, own in pairs:
        arguments = []
        for step in group:
            if len(group) > 1:
                found = run.arguments(step, own) if step.function is not None else {}
                computed = {key: found.pop(key) for key, _ in step.computed if key in found}
                arguments.append(_Given(found, beside(own, computed)))
            run.step(step, own)
        seen.append(arguments)
    return seen


@torch.no_grad()
def what_if(program: Program, samples: Samples, names: Collection[str], visit: Callable[[str, WhatIf], None]) -> None:
    """Show `visit` the values of these names, outside of loops and branches, as soon as they are computed.

    It gets the name, and a function that tells what the program would answer, as `outputs_of` does, if the value were
    another; what came before is not computed again. Inputs of the program are values, too.
    """
    held = program.module.constants()
    plan = written_at_once(without_labels(program.module.plan), held)
    pairs = _begin(program, plan, held, samples)

    def answers(name: str, first: int, change: Callable[[Tensor], Tensor]) -> Iterator[Sequence[Any]]:
        for rest, values in going_on(pairs):
            values[name] = change(values[name])
            for step in plan.steps[first:]:
                rest.step(step, values)
            yield [rest.value(output, values) for output in plan.outputs]

    def show(found: Iterable[str], first: int) -> None:
        for name in found:
            if name in names and all(isinstance(own.get(name), Tensor) for _, own in pairs):
                visit(name, partial(answers, name, first))

    if pairs:
        show(plan.inputs, 0)
    done = 0
    for group in _groups(plan.steps, pairs) if pairs else ():
        _taken(group, pairs)
        done += len(group)
        show([name for step in group for name in step.outputs], done)


@torch.no_grad()
def values_of(program: Program, samples: Samples, names: Collection[str]) -> Iterator[tuple[str, list[Tensor]]]:
    """The values of these names that are computed outside of loops and branches, in order: in each step."""
    held = program.module.constants()
    plan = written_at_once(program.module.plan, held)
    pairs = _begin(program, plan, held, samples, Store())
    for group in _groups(plan.steps, pairs) if pairs else ():
        found: dict[str, list[Tensor]] = {}
        for run, own in pairs:
            for step in group:
                run.step(step, own)
                for name in step.outputs:
                    if name in names and name in own:
                        found.setdefault(name, []).append(own[name])
        yield from ((name, values) for name, values in found.items() if len(values) == len(pairs))


def _begin(
    program: Program,
    plan: Block,
    held: Mapping[str, Any],
    samples: Samples,
    store: Store | None = None,
    like: Pairs = (),
) -> list[tuple[Run, dict[str, Any]]]:
    """A run for each step of each sample through a plan of the program, with the values that it begins with.

    `store`: keeps their values. `like`: the runs of the same samples with the same constants, at their beginning.
    """
    pairs: list[tuple[Run, dict[str, Any]]] = []
    for number, sample in enumerate(samples):
        given = (program.tensors(_tensors(program, step, number)) for step in steps_of(sample))
        steps = [dict(zip(plan.inputs, own, strict=True)) for own in given]
        known = sequence_of(like[len(pairs)][0]) if like else None
        pairs += side_by_side(plan, held, program.make_state(), steps, store, known)
    return pairs


def _tensors(program: Runnable, step: Mapping[str, Any], number: int) -> dict[str, Tensor]:
    try:
        return finite_tensors(program.interface.inputs, step)
    except ConfigError as error:
        raise ConfigError(f"sample {number} of sample_data: {error}") from error


def each_program(
    program: Runnable, samples: Sequence[Sample], stage: str = "", *, networks: bool = False
) -> Iterator[Stage]:
    """The ML program, or those of the stages of a pipeline in order: the name of its function, as weights have it, the
    program itself, and the inputs that it has in each sample.

    `networks`: neural networks (and suppressions) as well, which have no function: by the name of their stage.

    A stage whose constants were changed before the next one is asked for gives the next ones other inputs.
    """
    yield from _stages(program, samples, stage, whole=True, networks=networks)


def _stages(
    program: Runnable, samples: Sequence[Sample], place: str, whole: bool, networks: bool
) -> Generator[Stage, None, Sequence[list[dict[str, Any]]]]:
    """Of one stage; returns its outputs in each step of each sample, unless it is the `whole` model."""
    if isinstance(program, Pipeline):
        values = [
            [{**_tensors(program, step, number), **step} for step in steps_of(sample)]
            for number, sample in enumerate(samples)
        ]
        for name, stage in program.stages.items():
            inputs = [
                like(sample, [program.inputs_of(stage, own) for own in steps])
                for sample, steps in zip(samples, values, strict=True)
            ]
            outputs = yield from _stages(stage, inputs, f"{place}/{name}" if place else name, False, networks)
            for steps, answers in zip(values, outputs, strict=True):
                for own, found in zip(steps, answers, strict=True):
                    own |= found
        return values
    if isinstance(program, Program) and program.function:  # which networks and suppressions do not have
        yield f"{place}/{program.function}" if place else program.function, program, samples
    elif isinstance(program, Program) and networks:
        yield place, program, samples
    return [] if whole else [program.run_sequence(sample) for sample in samples]
