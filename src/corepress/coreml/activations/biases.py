"""Bias correction: what rounding and clipping shift, on the whole, in a channel of a product is taken back by its bias.

Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(arXiv 1906.04721), section 4.2, with samples (appendix D). The operations are corrected in order, each as it is after
those before it. Of the errors of a channel in a sample the median is taken, not the mean: where a few spikes are
clipped, the mean would shift all other numbers by what these lack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from corepress.coreml.calibrated.constants import plain_constants, with_constants
from corepress.coreml.calibrated.layers import product_axis
from corepress.formats.mlprogram import Model
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.walk import each_program, values_of, walk
from corepress.sequences import Sample

# Samples that errors are gathered on, evenly chosen.
SAMPLES = 16
# Numbers of a channel and sample that its median is taken of, evenly chosen.
_NUMBERS = 1024
_WITH_BIAS = ("conv", "linear")


def corrected(
    model: Model,
    original: Model,
    samples: Sequence[Sample],
    function: str | None = None,
    device: str = "cpu",
) -> Model:
    """The model with other biases, so that its products are, on the whole, those of the original.

    Biases that several operations share stay as they are, as do those that are not constant or compressed.
    """
    few = samples[:: math.ceil(len(samples) / SAMPLES)]
    programs = [load(one, device, precision="float32", function=function) for one in (model, original)]
    values: dict[tuple[str, str], Tensor] = {}
    stages = zip(*(each_program(program, few) for program in programs), strict=True)
    for (name, program, given), (_, exact, exact_given) in stages:
        constants = plain_constants(model, program, name)
        changes = _changes(program, given, exact, exact_given, set(constants))
        values |= {(name, constants[buffer].output): value for buffer, value in changes.items()}
    result = with_constants(model, values)
    result.changed = model.changed
    return result


def _changes(
    program: Program,
    samples: Sequence[Sample],
    exact: Program,
    exact_samples: Sequence[Sample],
    buffers: set[str],
) -> dict[str, Tensor]:
    """The new biases of a program, by the name of their buffer."""
    computed = {name: step for step in exact.module.plan.steps for name in step.outputs}
    wanted = [
        step.outputs[0]
        for step in program.module.plan.steps
        if step.kind in _WITH_BIAS and step.outputs[0] in computed and dict(step.held).get("bias") in buffers
    ]
    reference = _Reference(values_of(exact, exact_samples, wanted))

    def visit(step: Step, arguments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if step.kind not in _WITH_BIAS or step.outputs[0] not in wanted:
            return {}
        assert step.function is not None
        shifts = [
            _shift(target - step.function(**own), product_axis(step))
            for own, target in zip(arguments, reference[step.outputs[0]], strict=True)
        ]
        bias = arguments[0]["bias"]
        return {"bias": bias + torch.stack(shifts).mean(0).to(bias)}

    return walk(program, samples, visit)


def _shift(difference: Tensor, axis: int) -> Tensor:
    """The median of the differences in each channel."""
    channels = difference.movedim(axis, 0).reshape(difference.shape[axis], -1)
    return channels[:, :: math.ceil(channels.shape[1] / _NUMBERS)].float().median(1).values


class _Reference:
    """Values that come in order, by their names."""

    def __init__(self, values: Iterator[tuple[str, list[Tensor]]]):
        self._values = values

    def __getitem__(self, name: str) -> list[Tensor]:
        return next(value for found, value in self._values if found == name)
