"""One pass through a model with all samples: each weight is compressed when its operation is reached.

So its inputs are what the weights before it, compressed already, make of the samples. The original program runs beside,
and each layer is fitted to the outputs that it has there (`statistics`). Inputs count as much as the model's outputs
depend on what their layer makes of them (`sensitivity.of_vectors`): those of padding, which is masked later, don't.
Of a pipeline the stages are fitted one after the other, each to its own outputs.

A weight is fitted to the samples to learn from. Where there are some to judge by, it takes that form only if its
layer's outputs are nearer on them than with the form that the plain method gives.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.fitted.statistics import Statistics
from corepress.coreml.calibrated.fit import Given, fitted_form
from corepress.coreml.calibrated.judging import Split
from corepress.coreml.calibrated.layers import layout_of, vectors_of
from corepress.coreml.calibrated.sensitivity import Counting, of_vectors
from corepress.engine import Progress, Skip
from corepress.errors import CorepressError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.walk import each_program, walk
from corepress.sequences import each_step
from corepress.weights import decompress

# What an operation reads in each sample.
Arguments = list[dict[str, Any]]
# What the samples to learn from say, and those to judge by.
Known = tuple[Statistics, Statistics]
# The weights with their actions, by the name under which a program keeps their values.
Waiting = dict[str, tuple[Weight, Any]]

log = logging.getLogger(__name__)

UNREACHED = "no sample reaches it"


def fitted(
    model: Model,
    choose: Callable[[Weight], Any],
    split: Split,
    unfitted: dict[tuple[str, str], str],
    function: str | None,
    device: str,
    progress: Progress | None,
) -> Callable[[Weight], Any]:
    """The function that gives, instead of the plain action that `choose` gives, the form that was fitted to samples.

    `unfitted`: why weights, by function and output name, get none; it takes more of them.
    """
    forms = _forms(model, choose, split, unfitted, function, device, progress)

    def chosen(weight: Weight) -> Any:
        given = forms.get(weight.key)
        action = given or choose(weight)
        if reason := UNREACHED if given is None else given.unfitted:
            unfitted[weight.function, weight.output] = reason
        return action

    return chosen


def _forms(
    model: Model,
    choose: Callable[[Weight], Any],
    split: Split,
    unfitted: Mapping[tuple[str, str], str],
    function: str | None,
    device: str,
    progress: Progress | None,
) -> dict[tuple[Any, ...], Given]:
    """The form of each weight that the samples reach, by its `key`."""
    program = load(model, device, precision="float32", function=function)
    # Compressed stages of a pipeline give those behind them other inputs; the original has its own.
    beside = load(model, device, precision="float32") if isinstance(program, Pipeline) else program
    chosen = _chosen(model, choose)
    waiting: dict[str, Waiting] = {
        name: {
            stage.constants[output]: found
            for output, found in chosen.get(name, {}).items()
            if output in stage.constants
        }
        for name, stage, _ in each_program(program, [])
    }
    tell = _counter(progress, sum(map(len, waiting.values())))
    forms: dict[tuple[Any, ...], Given] = {}
    samples = split.samples
    for (name, stage, given), (_, _, originals) in zip(
        each_program(program, samples), each_program(beside, samples), strict=True
    ):
        weights = waiting[name]
        if not weights:
            continue
        readers = Counter(buffer for step in stage.module.plan.steps for _, buffer in step.held)
        counting = of_vectors(stage, set(weights), given)
        shared = _Shared(
            {buffer for buffer in weights if readers[buffer] > 1}, counting, len(list(each_step(split.learnt)))
        )
        if shared.wanted:
            walk(stage, given, shared.visit)
        fitting = _Fitting(weights, shared, unfitted, tell)
        for buffer, value in walk(stage, given, fitting.visit, originals=originals).items():
            stage.module.get_buffer(buffer).copy_(value)
        forms |= fitting.forms
    return forms


def _chosen(model: Model, choose: Callable[[Weight], Any]) -> dict[str, dict[str, tuple[Weight, Any]]]:
    """The weights to compress, with their actions, by function and output name."""
    found: dict[str, dict[str, tuple[Weight, Any]]] = {}
    for weight in model.weights():
        try:
            found.setdefault(weight.function, {})[weight.output] = weight, choose(weight)
        except Skip:
            continue  # the compression itself will say so
    return found


def _counter(progress: Progress | None, total: int) -> Callable[[str], None]:
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, name)

    return tell


class _Shared:
    """Gathers the inputs of weights that several operations read: all of them count. `learnt`: how many steps, the
    first ones, are to learn from."""

    def __init__(self, wanted: set[str], counting: Mapping[str, Counting], learnt: int):
        self.wanted, self.counting, self.learnt = wanted, counting, learnt
        self.known: dict[str, Known] = {}

    def visit(self, step: Step, arguments: Arguments) -> dict[str, Tensor]:
        for key, buffer in step.held:
            layout = layout_of(step.kind, key, arguments[0]) if buffer in self.wanted else None
            if layout is not None:
                known = self.known.setdefault(buffer, (Statistics(layout), Statistics(layout)))
                if known[0].layout == layout:
                    self.add(known, step, key, arguments, None)
        return {}

    def add(self, known: Known, step: Step, key: str, arguments: Arguments, originals: Arguments | None) -> None:
        """What an operation multiplies its weight by, in the samples."""
        layout, factors = known[0].layout, self.counting.get(step.name)
        if factors is not None:
            for statistics in known:
                statistics.rows = factors.rows if statistics.rows is None else (statistics.rows + factors.rows) / 2
        for number, own in enumerate(arguments):
            statistics = known[number >= self.learnt]
            others = repeat(None) if originals is None else vectors_of(step.kind, key, originals[number], layout)
            first = 0
            for vectors, original in zip(vectors_of(step.kind, key, own, layout), others, strict=False):
                last = first + vectors.shape[1]
                statistics.add(vectors, original, None if factors is None else factors.vectors[number][first:last])
                first = last


class _Fitting:
    """Compresses each weight when the first operation that reads it is reached. `shared`: what is known before."""

    def __init__(
        self,
        weights: Waiting,
        shared: _Shared,
        unfitted: Mapping[tuple[str, str], str],
        tell: Callable[[str], None],
    ):
        self.forms: dict[tuple[Any, ...], Given] = {}
        self.waiting, self.shared, self.unfitted, self.tell = dict(weights), shared, unfitted, tell

    def visit(self, step: Step, arguments: Arguments, originals: Arguments) -> dict[str, Tensor]:
        """Compress the weights that an operation reads first of all; their new values."""
        changed = {}
        for key, buffer in step.held:
            if buffer not in self.waiting:
                continue
            weight, action = self.waiting.pop(buffer)
            try:
                if reason := self.unfitted.get((weight.function, weight.output)):
                    given = Given(action(weight), reason)
                else:
                    known = self.shared.known.get(buffer) or self._known(step, key, arguments, originals)
                    learnt, judged = known or (None, None)
                    has_judged = judged is not None and judged.hessian.count
                    given = fitted_form(weight, action, learnt, judged if has_judged else None)
            except CorepressError:
                continue  # the compression itself will find the same, and say so
            finally:
                self.tell(weight.name)
            self.forms[weight.key] = given
            before = arguments[0][key]
            changed[key] = torch.from_numpy(decompress(given.form).copy()).to(before.device, before.dtype)
            for own in arguments:
                own[key] = changed[key]
        return changed

    def _known(self, step: Step, key: str, arguments: Arguments, originals: Arguments) -> Known | None:
        layout = layout_of(step.kind, key, arguments[0])
        if layout is None:
            return None
        known = Statistics(layout), Statistics(layout)
        self.shared.add(known, step, key, arguments, originals)
        return known
