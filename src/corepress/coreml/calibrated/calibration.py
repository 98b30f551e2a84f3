"""One pass through a model with all samples: each weight is compressed when its operation is reached.

So its inputs are what the weights before it, compressed already, make of the samples. The original program runs beside,
and each layer is fitted to the outputs that it has there (`statistics`). Inputs count as much as the model's outputs
depend on what their layer makes of them (`sensitivity.of_vectors`): those of padding, which is masked later, don't.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.statistics import Statistics
from corepress.coreml.calibrated.fit import fit
from corepress.coreml.calibrated.layers import layout_of, vectors_of
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.coreml.engine import Progress, Skip
from corepress.errors import ConfigError, CorepressError
from corepress.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.samples import by_name
from corepress.runtime.walk import walk
from corepress.weights import CompressedWeight, decompress

# What an operation reads in each sample; how much each vector counts there, by the name of the operation.
Arguments = list[dict[str, Any]]
Counting = Mapping[str, list[Tensor]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Given:
    """The action that gives a form which was found before."""

    form: CompressedWeight

    def __call__(self, weight: Weight) -> CompressedWeight:
        return self.form


def fit_weights(
    model: Model,
    choose: Callable[[Weight], Any],
    samples: Iterable[Mapping[Any, Any]],
    function: str | None,
    device: str,
    progress: Progress | None,
) -> dict[tuple[Any, ...], Given]:
    """The fitted form of each weight that the samples reach, by its `key`."""
    program = load(model, device, precision="float32", function=function)
    weights: dict[str, tuple[Weight, Any]] = {}  # by the name under which the program keeps the value
    for weight in model.weights():
        if weight.function == program.function and weight.output in program.constants:
            try:
                weights[program.constants[weight.output]] = weight, choose(weight)
            except Skip:
                continue  # the compression itself will say so
    given = list(by_name(samples, program.interface))
    if not given:
        raise ConfigError("sample_data is empty: at least one {input name: array} is needed")
    readers = Counter(buffer for step in program.module.plan.steps for _, buffer in step.held)
    counting = of_vectors(program, set(weights), given)
    shared = _Shared({buffer for buffer in weights if readers[buffer] > 1}, counting)
    if shared.wanted:
        walk(program, given, shared.visit)
    fitting = _Fitting(weights, shared.statistics, counting, progress)
    walk(program, given, fitting.visit, beside=True)
    return fitting.forms


class _Shared:
    """Gathers the inputs of weights that several operations read: all of them count."""

    def __init__(self, wanted: set[str], counting: Counting):
        self.wanted, self.counting = wanted, counting
        self.statistics: dict[str, Statistics] = {}

    def visit(self, step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        for key, buffer in step.held:
            layout = layout_of(step.kind, key, arguments[0]) if buffer in self.wanted else None
            if layout is not None:
                known = self.statistics.setdefault(buffer, Statistics(layout))
                if known.layout == layout:
                    _add(known, step, key, arguments, None, self.counting)
        return {}


class _Fitting:
    """Compresses each weight when the first operation that reads it is reached. `shared`: what is known before."""

    def __init__(
        self,
        weights: dict[str, tuple[Weight, Any]],
        shared: Mapping[str, Statistics],
        counting: Counting,
        progress: Progress | None,
    ):
        self.forms: dict[tuple[Any, ...], Given] = {}
        self.waiting, self.shared, self.counting, self.progress = weights, shared, counting, progress
        self.total = len(weights)

    def visit(self, step: Step, arguments: Arguments, originals: Arguments) -> dict[str, Tensor]:
        """Compress the weights that an operation reads first of all; their new values."""
        changed = {}
        for key, buffer in step.held:
            weight, action = self.waiting.pop(buffer, (None, None))
            if weight is None:
                continue
            form = _form(weight, action, self.shared.get(buffer) or self._statistics(step, key, arguments, originals))
            if form is not None:
                self.forms[weight.key] = Given(form)
                before = arguments[0][key]
                changed[key] = torch.from_numpy(decompress(form).copy()).to(before.device, before.dtype)
                for own in arguments:
                    own[key] = changed[key]
            if self.progress is not None:
                self.progress(self.total - len(self.waiting), self.total, weight.name)
        return changed

    def _statistics(self, step: Step, key: str, arguments: Arguments, originals: Arguments) -> Statistics | None:
        layout = layout_of(step.kind, key, arguments[0])
        if layout is None:
            return None
        found = Statistics(layout)
        _add(found, step, key, arguments, originals, self.counting)
        return found


def _add(
    statistics: Statistics,
    step: Step,
    key: str,
    arguments: Arguments,
    originals: Arguments | None,
    counting: Counting,
) -> None:
    layout, factors = statistics.layout, counting.get(step.name)
    for number, own in enumerate(arguments):
        others = repeat(None) if originals is None else vectors_of(step.kind, key, originals[number], layout)
        first = 0
        for vectors, original in zip(vectors_of(step.kind, key, own, layout), others, strict=False):
            last = first + vectors.shape[1]
            statistics.add(vectors, original, None if factors is None else factors[number][first:last])
            first = last


def _form(weight: Weight, action: Any, statistics: Statistics | None) -> CompressedWeight | None:
    """None if it can't be compressed: the compression itself will find the same, and say so."""
    try:
        form = None
        if statistics is not None:
            form = fit(action, statistics.refitted(weight.read()), statistics.layout, statistics.hessian)
        if form is None:
            log.info("%s: compressed without data", weight.name)
            form = action(weight)
    except (Skip, CorepressError):
        return None
    return form
