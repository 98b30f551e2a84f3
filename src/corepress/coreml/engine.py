"""Runs one compression over a model: which weights, in parallel, and back into the program."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import CorepressError, FormatError, ResourceError
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
# Called with the number of weights done, of all weights, and the name of the one just done.
Progress = Callable[[int, int, str], None]


class Skip(Exception):
    """Leave a weight as it is; the message says why. `quiet` when the user has asked for nothing else."""

    def __init__(self, reason: str, *, quiet: bool = False):
        super().__init__(reason)
        self.quiet = quiet


@dataclass
class Outcome:
    """What one run did: the weights that it compressed, their bytes before and after (what weights share counted once),
    and those left alone, with the reason. `quiet`: nothing is said of the latter."""

    done: list[Weight]
    left: list[tuple[Weight, str]]
    quiet: bool = False
    bytes_before: int = 0
    bytes_after: int = 0


class Job(NamedTuple):
    """One action on weights that share their data and their configuration."""

    weights: tuple[Weight, ...]
    action: Action


def run(
    model: Model,
    choose: Callable[[Weight], Action],
    *,
    weights: list[Weight] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    conclude: Callable[[Model, Outcome], None] | None = None,
    quiet: bool = False,
) -> Model:
    """Apply to every weight the action that `choose` gives for it, and return the new model.

    `choose` raises `Skip` for weights that are left alone. Weights that share their data and get equal actions
    (equal by `==`) are compressed once and go on sharing. `weights`: those of `model`, where they are listed already;
    then `model` itself is changed, which must be a copy of the caller's. `workers` threads (default: one for each core)
    work on weights at the same time; results do not depend on their number. `conclude` is called with the new model and
    what was done. `quiet`: don't warn of weights that are left alone, since a run before did.
    """
    result = model.copy() if weights is None else model
    outcome = Outcome([], [], quiet)
    jobs = _plan(result, result.weights() if weights is None else weights, choose, outcome)
    # Most weights become one operation under their old name; the names in use matter to the others only.
    names = functools.cache(lambda: _output_names(result))
    replacements: list[tuple[Node, Sequence[Any]]] = []
    insertions: list[tuple[Node, Sequence[Any]]] = []
    done = 0
    threads = workers or os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    try:
        running: dict[Future[Any], Job] = {}
        waiting = list(reversed(jobs))
        while running or waiting:
            # Few jobs at a time: each holds a whole weight in memory.
            while waiting and len(running) < threads:
                job = waiting.pop()
                running[pool.submit(_compress, result, job, names)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                for weight, operations in _collect(result, job, future, outcome):
                    if weight.argument is not None:
                        _rebind(weight, operations[-1].outputs[0].name)
                        insertions.append((weight.node, operations))
                    else:
                        replacements.append((weight.node, operations))
                        replacements += [(node, []) for node in weight.chain()[1:]]
                done += 1
                if progress is not None:
                    progress(done, len(jobs), job.weights[0].name)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    edit(replacements, insertions)
    result.changed = model.changed | {(weight.function, weight.output) for weight in outcome.done}
    if conclude is not None:
        conclude(result, outcome)
    return result


def _plan(model: Model, weights: list[Weight], choose: Callable[[Weight], Action], outcome: Outcome) -> list[Job]:
    groups: dict[tuple[Any, ...], list[tuple[Action, list[Weight]]]] = {}
    for weight in weights:
        try:
            action = choose(weight)
        except Skip as skip:
            _note(model, weight, skip, outcome)
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


def _output_names(model: Model) -> dict[str, set[str]]:
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


def _compress(model: Model, job: Job, names: Callable[[], dict[str, set[str]]]) -> tuple[list[list[Any]], int]:
    """In a worker: the operations that replace each weight of a job, and the bytes of the new form."""
    weight = job.weights[0]
    try:
        form = job.action(weight)
    except FormatError:
        raise
    except CorepressError as reason:  # one bad weight must not stop the others
        raise Skip(str(reason)) from reason
    target = by_opset(weight.node.function.opset)
    if not isinstance(form, np.ndarray):
        check(form, target)
    generation = 2 if target.constexpr == "inputs" else 1
    file = weight.file or DEFAULT_WEIGHT_FILE
    stored: list[Any] = []
    operations = []
    for alias in job.weights:
        operations.append(_write(form, alias, generation, _sharing_store(model, file, stored), names))
    weight.release()
    return operations, stored_bytes(form)


def _sharing_store(model: Model, file: str, stored: list[Any]) -> Store:
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
    names: Callable[[], dict[str, set[str]]],
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
                fresh = output.name
                while fresh in taken:
                    fresh += "_"
                _rename(operations[index:], output.name, fresh)
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


def _collect(
    model: Model, job: Job, future: Future[tuple[list[list[Any]], int]], outcome: Outcome
) -> list[tuple[Weight, list[Any]]]:
    try:
        operations, size = future.result()
    except Skip as skip:
        for weight in job.weights:
            _note(model, weight, skip, outcome)
        return []
    except MemoryError as error:
        raise ResourceError(f"{job.weights[0].name}: not enough memory to compress it") from error
    outcome.done += job.weights
    outcome.bytes_before += job.weights[0].stored_bytes
    outcome.bytes_after += size
    return list(zip(job.weights, operations, strict=True))


def _rebind(weight: Weight, output: str) -> None:
    """Let the operation that held the tensor in place read the new operation instead."""
    for entry in weight.node.op.inputs:
        if entry.key == weight.argument:
            entry.value.arguments[0].name = output


def _note(model: Model, weight: Weight, skip: Exception, outcome: Outcome) -> None:
    outcome.left.append((weight, str(skip)))
    model.skipped[weight.function, weight.output] = str(skip)
    if not (outcome.quiet or getattr(skip, "quiet", False)):
        log.warning("%s: left as it is: %s", weight.name, skip, extra={"weight": weight.name})
