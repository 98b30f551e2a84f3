"""How much of the error of a form fitting leaves, tried layer by layer, without making a model.

On its way through the program, with nothing compressed before it, each layer is fitted to three of four samples in a
few forms; the others tell the squared error of its outputs, over that of the same form without data.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from corepress.algorithms.fitted.statistics import Statistics
from corepress.coreml.action import Action
from corepress.coreml.calibrated.layers import counted_vectors, fitted_layout
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.errors import CorepressError
from corepress.formats.mlprogram import Weight
from corepress.runtime.plan import Step
from corepress.runtime.runnable import Runnable
from corepress.runtime.walk import each_program, walk
from corepress.sequences import Sample, number_of_each_step
from corepress.weights import decompress

# One sample of so many is to judge by.
_JUDGED = 4
# Of a weight, by its function and output name, the part of the error that is left, for each form that was tried.
Gains = dict[tuple[str, str], dict[str, float]]


class Tried(NamedTuple):
    """A weight, and by a name for each form the actions that make it without data and fitted to them."""

    weight: Weight
    actions: Mapping[str, tuple[Action, Action]]


def gains(program: Runnable, samples: Sequence[Sample], tried: Sequence[Tried]) -> Gains:
    """The part of each form's error that fitting leaves: 0 to 1. What can't be fitted has none.

    A weight that several operations read is fitted to the inputs of the first.
    """
    found: Gains = {}
    for name, stage, given in each_program(program, samples):
        own = {entry.weight.output: entry for entry in tried if entry.weight.function == name}
        waiting = {stage.constants[output]: entry for output, entry in own.items() if output in stage.constants}
        if not waiting:
            continue
        counting = of_vectors(stage, set(waiting), given)
        numbers = number_of_each_step(given)

        def visit(
            step: Step,
            arguments: Sequence[dict[str, Any]],
            name: str = name,
            waiting: dict[str, Tried] = waiting,
            counting: Mapping[str, Sequence[Tensor]] = counting,
            numbers: Sequence[int] = numbers,
        ) -> dict[str, Tensor]:
            for key, buffer in step.held:
                if buffer in waiting:
                    entry = waiting.pop(buffer)
                    known = _known(step, key, arguments, counting, numbers)
                    if known is not None:
                        found[name, entry.weight.output] = _left(entry, *known)
            return {}

        walk(stage, given, visit)
    return found


def _known(
    step: Step,
    key: str,
    arguments: Sequence[dict[str, Any]],
    counting: Mapping[str, Sequence[Tensor]],
    numbers: Sequence[int],
) -> tuple[Statistics, Statistics] | None:
    """What the samples to learn from say about a weight, and those to judge by. `numbers`: of each step's sample."""
    layout = fitted_layout(step, key, arguments[0], counting)
    if layout is None:
        return None
    known, several = (Statistics(layout), Statistics(layout)), numbers[-1] > 0
    for number, own in enumerate(arguments):
        statistics = known[numbers[number] % _JUDGED == 0 and several]
        counts = counting[step.name][number] if step.name in counting else None
        for vectors, count in counted_vectors(step.kind, key, own, layout, counts):
            statistics.add(vectors, None, count)
    return known if several else (known[0], known[0])


def _left(entry: Tried, learnt: Statistics, judged: Statistics) -> dict[str, float]:
    exact, found = entry.weight.dense(), {}
    for form, (plain, fitted) in entry.actions.items():
        with contextlib.suppress(CorepressError):
            value = fitted.fit(entry.weight.read(), learnt)
            if value is not None:
                before = judged.error(exact, decompress(plain(entry.weight)))
                after = judged.error(exact, decompress(value))
                if before > 0 and math.isfinite(after):
                    found[form] = min(1.0, max(after, 0.0) / before)
    entry.weight.release()
    return found
