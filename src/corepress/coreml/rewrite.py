"""Puts what an action makes of the weights of a package into its program, in their place."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress import engine
from corepress.engine import Progress, Skip, skipping
from corepress.errors import FormatError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.constexpr import Store, set_name, write_weight
from corepress.formats.mlprogram.model import DEFAULT_WEIGHT_FILE
from corepress.formats.mlprogram.program import Function, Node, edit, nodes, programs
from corepress.targets import by_opset, check
from corepress.weights import CompressedWeight, stored_bytes

log = logging.getLogger(__name__)

Array = NDArray[Any]
# Turns one weight into its new form; raises `Skip`, or a CorepressError, with the reason to leave it alone.
Action = Callable[[Weight], "Array | CompressedWeight"]
# The action on a weight; raises `Skip` for one that is left alone.
Choose = Callable[[Weight], Action]
Names = Callable[[], dict[str, set[str]]]


@dataclass
class Outcome:
    """What one run did: the weights that it compressed, their bytes before and after (what weights share counted once),
    and those left alone, with the reason. `quiet`: nothing is said of the latter."""

    done: list[Weight] = field(default_factory=list)
    left: list[tuple[Weight, str]] = field(default_factory=list)
    quiet: bool = False
    bytes_before: int = 0
    bytes_after: int = 0


class Job(NamedTuple):
    """One action on weights that share their data and their configuration."""

    weights: tuple[Weight, ...]
    action: Action


class Written(NamedTuple):
    """What takes the place of the weights of a job: the operations for each of them, and the bytes that all take."""

    operations: list[list[Any]]
    size: int


def rewrite(
    model: Model,
    choose: Choose,
    *,
    weights: list[Weight] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    conclude: Callable[[Model, Outcome], None] | None = None,
    quiet: bool = False,
) -> Model:
    """Apply to every weight the action that `choose` gives for it, and return the new model.

    Weights that share their data and get equal actions (equal by `==`) are compressed once and go on sharing.
    `weights`: those of `model`, where they are listed already; then `model` itself is changed, which must be a copy of
    the caller's. `workers`, `progress`: see `engine.run`. `conclude` is called with the new model and what was done.
    `quiet`: don't warn of weights that are left alone, since a run before did.
    """
    result = model.copy() if weights is None else model
    program = _Program(result, Outcome(quiet=quiet))
    jobs = _plan(program, result.weights() if weights is None else weights, choose)
    # Most weights become one operation under their old name; the names in use matter to the others only.
    names = functools.cache(lambda: names_in_use(result))
    engine.run(
        jobs,
        lambda job: _compress(result, job, names),
        program,
        name=lambda job: job.weights[0].name,
        workers=workers,
        progress=progress,
    )
    edit(program.replacements, program.insertions)
    result.changed = model.changed | {(weight.function, weight.output) for weight in program.outcome.done}
    if conclude is not None:
        conclude(result, program.outcome)
    return result


class _Program:
    """The store of a package: gathers what its program gets in place of the weights."""

    def __init__(self, model: Model, outcome: Outcome):
        self.model, self.outcome = model, outcome
        self.replacements: list[tuple[Node, Sequence[Any]]] = []
        self.insertions: list[tuple[Node, Sequence[Any]]] = []

    def put(self, item: Job, result: Written) -> None:
        self.outcome.done += item.weights
        self.outcome.bytes_before += item.weights[0].stored_bytes
        self.outcome.bytes_after += result.size
        for weight, operations in zip(item.weights, result.operations, strict=True):
            if weight.argument is not None:
                _rebind(weight, operations[-1].outputs[0].name)
                self.insertions.append((weight.node, operations))
            else:
                self.replacements.append((weight.node, operations))
                self.replacements += [(node, []) for node in weight.chain()[1:]]

    def leave(self, item: Job, reason: Skip) -> None:
        for weight in item.weights:
            self.leave_one(weight, reason)

    def leave_one(self, weight: Weight, reason: Skip) -> None:
        self.outcome.left.append((weight, str(reason)))
        self.model.skipped[weight.function, weight.output] = str(reason)
        if not (self.outcome.quiet or reason.quiet):
            log.warning("%s: left as it is: %s", weight.name, reason, extra={"weight": weight.name})


def _plan(program: _Program, weights: list[Weight], choose: Choose) -> list[Job]:
    groups: dict[tuple[Any, ...], list[tuple[Action, list[Weight]]]] = {}
    for weight in weights:
        try:
            action = choose(weight)
        except Skip as skip:
            program.leave_one(weight, skip)
            continue
        alike = groups.setdefault(weight.key, [])
        for known, sharing in alike:
            if known == action:
                sharing.append(weight)
                break
        else:
            alike.append((action, [weight]))
    jobs = [Job(tuple(sharing), action) for alike in groups.values() for action, sharing in alike]
    # The largest first, so that no thread is left alone with one at the end.
    return sorted(jobs, key=lambda job: -job.weights[0].size)


def names_in_use(model: Model) -> dict[str, set[str]]:
    """The names in use, by function: of values and of the inputs of functions and blocks."""
    names: dict[str, set[str]] = {}
    for program, content in programs(model.spec):
        for entry in content.functions:
            function = str(Function(program, entry.key, entry.value.opset))
            names.setdefault(function, set()).update(value.name for value in entry.value.inputs)
    for node in nodes(model.spec):
        taken = names[str(node.function)]
        taken.update(output.name for output in node.op.outputs)
        taken.update(value.name for value in node.block.inputs)
    return names


def fresh(name: str, taken: set[str]) -> str:
    """The name, made longer until it is not among those that are taken; it is from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _compress(model: Model, job: Job, names: Names) -> Written:
    """In a worker: the operations that replace each weight of a job, and the bytes of the new form."""
    weight = job.weights[0]
    with skipping(but=(FormatError,)):
        form = model.storable(job.action(weight))
    target = by_opset(weight.node.function.opset)
    if not isinstance(form, np.ndarray):
        check(form, target)
    generation = target.generation
    file = weight.file or DEFAULT_WEIGHT_FILE
    stored: list[Any] = []
    operations = []
    for alias in job.weights:
        operations.append(_write(form, alias, generation, sharing_store(model, file, stored), names))
    weight.release()
    return Written(operations, stored_bytes(form))


def sharing_store(model: Model, file: str, stored: list[Any]) -> Store:
    """Stores arrays on the first round; on later rounds gives the same values again, so that blobs are shared."""
    position = iter(range(1 << 30))

    def store(array: Array, bits: int | None) -> Any:
        number = next(position)
        if number == len(stored):
            stored.append(model.store(array, bits, file))
        return stored[number]

    return store


def _write(
    form: Array | CompressedWeight,
    weight: Weight,
    generation: int,
    store: Store,
    names: Names,
) -> list[Any]:
    """The operations of one weight. Its own names stay; new ones are such as the function does not use yet."""
    operations = write_weight(form, weight.output, generation=generation, store=store)
    set_name(operations[-1], weight.name)
    if len(operations) == 1 and weight.argument is None:
        return operations
    taken = names()[weight.function]
    if weight.argument is None:
        taken = taken - {weight.output}
    for index, operation in enumerate(operations):
        for output in operation.outputs:
            if output.name in taken:
                _rename(operations[index:], output.name, fresh(output.name, set(taken)))
    return operations


def _rename(operations: list[Any], old: str, new: str) -> None:
    for operation in operations:
        for output in operation.outputs:
            if output.name == old:
                output.name = new
        for entry in operation.inputs:
            for binding in entry.value.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name == old:
                    binding.name = new


def _rebind(weight: Weight, output: str) -> None:
    """Let the operation that held the tensor in place read the new operation instead."""
    for entry in weight.node.op.inputs:
        if entry.key == weight.argument:
            entry.value.arguments[0].name = output
