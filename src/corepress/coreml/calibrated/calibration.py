"""One pass through a model with all samples: each weight is compressed when its operation is reached.

So its inputs are what the weights before it, compressed already, make of the samples, and their errors are made up for
where that can be done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.hessian import Hessian
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
    fitting = _Fitting(model, choose, program.constants, program.function, progress)
    if walk(program, by_name(samples, program.interface), fitting.visit) == 0:
        raise ConfigError("sample_data is empty: at least one {input name: array} is needed")
    return fitting.forms


class _Fitting:
    """The state of the pass. `buffers`: of a constant's value, the name under which the program keeps it."""

    def __init__(
        self,
        model: Model,
        choose: Callable[[Weight], Any],
        buffers: Mapping[str, str],
        function: str,
        progress: Progress | None,
    ):
        self.forms: dict[tuple[Any, ...], Given] = {}
        self.progress = progress
        self.hessian: tuple[tuple[Any, ...], Hessian] | None = None
        self.waiting: dict[str, tuple[Weight, Any]] = {}
        for weight in model.weights():
            if weight.function == function and weight.output in buffers:
                try:
                    self.waiting[buffers[weight.output]] = weight, choose(weight)
                except Skip:
                    continue  # the compression itself will say so
        self.total = len(self.waiting)

    def visit(self, step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compress the weights that an operation reads first of all; their new values."""
        changed = {}
        for key, buffer in step.held:
            weight, action = self.waiting.pop(buffer, (None, None))
            if weight is None:
                continue
            form = self._form(weight, action, step, key, arguments)
            if form is not None:
                self.forms[weight.key] = Given(form)
                before = arguments[0][key]
                changed[key] = torch.from_numpy(decompress(form).copy()).to(before.device, before.dtype)
                for own in arguments:
                    own[key] = changed[key]
            if self.progress is not None:
                self.progress(self.total - len(self.waiting), self.total, weight.name)
        return changed

    def _form(
        self, weight: Weight, action: Any, step: Step, key: str, arguments: list[dict[str, Any]]
    ) -> CompressedWeight | None:
        layout = layout_of(step.kind, key, arguments[0])
        try:
            form = None
            if layout is not None:
                source = step.arguments[{"matmul": "y" if key == "x" else "x"}.get(step.kind, "x")]
                name = source.name if isinstance(source, Computed) else step.name
                hessian = self._hessian(reads(step.kind, name, arguments[0], layout), layout, step.kind, key, arguments)
                form = fit(action, weight.read(), layout, hessian)
            if form is None:
                log.info("%s: compressed without data", weight.name)
                form = action(weight)
        except (Skip, CorepressError):
            return None  # the compression itself will find the same, and say so
        return form

    def _hessian(self, reads: Any, layout: Any, kind: str, key: str, arguments: list[dict[str, Any]]) -> Hessian:
        """That of the vectors that a weight meets; operations in a row that read the same share it."""
        if self.hessian is None or self.hessian[0] != reads:
            hessian = Hessian(layout.columns, layout.groups)
            for own in arguments:
                for vectors in vectors_of(kind, key, own, layout):
                    hessian.add(vectors)
            self.hessian = reads, hessian
        return self.hessian[1]
