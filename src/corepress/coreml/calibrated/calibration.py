"""One pass through a model with all samples: each weight is compressed when its operation is reached.

So its inputs are what the weights before it, compressed already, make of the samples, and their errors are made up for
where that can be done.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.hessian import Hessian
from corepress.algorithms.layout import Layout
from corepress.coreml.calibrated.fit import fit
from corepress.coreml.calibrated.layers import layout_of, reads, vectors_of
from corepress.coreml.engine import Progress, Skip
from corepress.errors import ConfigError, CorepressError
from corepress.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Computed, Step
from corepress.runtime.samples import by_name
from corepress.runtime.walk import walk
from corepress.weights import CompressedWeight, decompress

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
    shared = _Shared({buffer for buffer in weights if readers[buffer] > 1})
    if shared.wanted:
        walk(program, given, shared.visit)
    fitting = _Fitting(weights, shared.hessians, progress)
    walk(program, given, fitting.visit)
    return fitting.forms


class _Shared:
    """Gathers the inputs of weights that several operations read: all of them count."""

    def __init__(self, wanted: set[str]):
        self.wanted = wanted
        self.hessians: dict[str, tuple[Layout, Hessian]] = {}

    def visit(self, step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        for key, buffer in step.held:
            layout = layout_of(step.kind, key, arguments[0]) if buffer in self.wanted else None
            if layout is None:
                continue
            known, hessian = self.hessians.setdefault(buffer, (layout, Hessian(layout.columns, layout.groups)))
            if known == layout:
                _add(hessian, step.kind, key, arguments, layout)
        return {}


class _Fitting:
    """Compresses each weight when the first operation that reads it is reached. `shared`: what is known before."""

    def __init__(
        self,
        weights: dict[str, tuple[Weight, Any]],
        shared: Mapping[str, tuple[Layout, Hessian]],
        progress: Progress | None,
    ):
        self.forms: dict[tuple[Any, ...], Given] = {}
        self.waiting, self.shared, self.progress = weights, shared, progress
        self.total = len(weights)
        self.last: tuple[Any, Hessian] | None = None

    def visit(self, step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compress the weights that an operation reads first of all; their new values."""
        changed = {}
        for key, buffer in step.held:
            weight, action = self.waiting.pop(buffer, (None, None))
            if weight is None:
                continue
            layout, hessian = self.shared.get(buffer) or self._statistics(step, key, arguments)
            form = _form(weight, action, layout, hessian)
            if form is not None:
                self.forms[weight.key] = Given(form)
                before = arguments[0][key]
                changed[key] = torch.from_numpy(decompress(form).copy()).to(before.device, before.dtype)
                for own in arguments:
                    own[key] = changed[key]
            if self.progress is not None:
                self.progress(self.total - len(self.waiting), self.total, weight.name)
        return changed

    def _statistics(
        self, step: Step, key: str, arguments: list[dict[str, Any]]
    ) -> tuple[Layout, Hessian] | tuple[None, None]:
        """Of the vectors that a weight meets; operations in a row that read the same share them."""
        layout = layout_of(step.kind, key, arguments[0])
        if layout is None:
            return None, None
        source = step.arguments[{"matmul": "y" if key == "x" else "x"}.get(step.kind, "x")]
        name = source.name if isinstance(source, Computed) else step.name
        same = reads(step.kind, name, arguments[0], layout)
        if self.last is None or self.last[0] != same:
            self.last = same, Hessian(layout.columns, layout.groups)
            _add(self.last[1], step.kind, key, arguments, layout)
        return layout, self.last[1]


def _add(hessian: Hessian, kind: str, key: str, arguments: list[dict[str, Any]], layout: Layout) -> None:
    for own in arguments:
        for vectors in vectors_of(kind, key, own, layout):
            hessian.add(vectors)


def _form(weight: Weight, action: Any, layout: Layout | None, hessian: Hessian | None) -> CompressedWeight | None:
    """None if it can't be compressed: the compression itself will find the same, and say so."""
    try:
        form = None
        if layout is not None and hessian is not None:
            form = fit(action, weight.read(), layout, hessian)
        if form is None:
            log.info("%s: compressed without data", weight.name)
            form = action(weight)
    except (Skip, CorepressError):
        return None
    return form
