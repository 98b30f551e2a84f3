"""Equalization: channels with small numbers are enlarged, so that all of a value make use of 8 bits; no answer changes.

Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(arXiv 1906.04721), section 4.1: a layer makes a channel 1/s as large, and those that read it multiply by s. Which s is
good depends on the layers: Xiao, Lin, Seznec, Wu, Demouth, Han 2022, "SmoothQuant" (arXiv 2211.10438), equation 4,
takes max|x|**alpha / max|w|**(1 - alpha) of each channel. Some alphas are tried, with and without the denominator, and
the one is taken after which 8 bits cost the outputs of the reading layers least, on samples.

Where a value is clipped, as ReLU6 does, a channel that reaches the bound on some sample stays as it is, and no other
comes nearer to the bound than `_HEADROOM`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from corepress.coreml.activations.channels import Bound, Group, Reader, groups
from corepress.coreml.calibrated.constants import plain_constants, with_constants
from corepress.formats.mlprogram import Model
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.walk import each_program, walk
from corepress.sequences import Sample, each_step

# Samples that channels are measured on, and factors tried, evenly chosen.
SAMPLES = 8
# The exponents of a channel's largest number and of its largest weight: of the weight 0, or what is missing to 1.
_EXPONENTS = [(alpha, other) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0) for other in {0.0, 1 - alpha}][1:]
# Channels with less than this part of the largest one are treated as if they had this.
_LEAST = 1 / 64
# So much of a bound a channel may be enlarged to: on other samples there may be larger numbers.
_HEADROOM = 0.35

# No number grows beyond this, which is a quarter of what float16 holds.
_LARGEST = 2.0**14

Samples = Sequence[Sample]
# Of each label the least and the greatest number, or zero.
Ends = tuple[Tensor, Tensor]


def equalized(model: Model, samples: Samples, function: str | None = None, device: str = "cpu") -> Model | None:
    """The model with other weights that answers the same, whose activations lose less in 8 bits; None where none can
    take factors.

    Only dense weights change whose numbers nothing else shares, so that weights are to be compressed afterwards.
    """
    program = load(model, device, precision="float32", function=function)
    values: dict[tuple[str, str], Tensor] = {}
    for name, stage, given in each_program(program, samples):
        weights = plain_constants(model, stage, name)
        if not weights or not given:
            continue
        found = list(groups(stage, next(each_step(given)), weights))
        moved = changed(stage, found, _factors(stage, given, found)) if found else {}
        values |= {(name, weights[buffer].output): value for buffer, value in moved.items()}
    if not values:
        return None
    result = with_constants(model, values)
    result.changed = model.changed
    return result


def changed(program: Program, found: Sequence[Group], factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The new constants, by the name of their buffer."""
    constants = program.module.constants()
    result: dict[str, Tensor] = {}
    for group, factor in zip(found, factors, strict=True):
        if bool((factor == 1).all()):
            continue
        for power, held in [(-1, held) for held in group.makers.values()] + [(1, held) for held in group.readers]:
            before = result.get(held.buffer, constants[held.buffer])
            result[held.buffer] = before * (factor[held.labels] ** power).to(before.device)
    return result


def _factors(program: Program, samples: Samples, found: Sequence[Group]) -> list[Tensor]:
    """The best factors s of each group, by label; that of label 0 is 1."""
    ends = _ends(program, samples, found)
    tried = [_candidates(group, ends, program.module.constants()) for group in found]
    noise = [[0.0] * len(candidates) for candidates in tried]
    reading = {reader.step.name: (number, reader) for number, group in enumerate(found) for reader in group.readers}

    def visit(step: Step, arguments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if step.name in reading:
            number, reader = reading[step.name]
            exact = [step.function(**own) for own in arguments]  # type: ignore[misc]
            for place, factors in enumerate(tried[number]):
                noise[number][place] += _noise(reader, arguments, exact, factors)
        return {}

    walk(program, samples[:: math.ceil(len(samples) / SAMPLES)], visit)
    return [candidates[min(range(len(own)), key=own.__getitem__)] for candidates, own in zip(tried, noise, strict=True)]


def _ends(program: Program, samples: Samples, found: Sequence[Group]) -> dict[str, Ends]:
    """Of each value of the groups, by its name, the ends of each label."""
    wanted = {name: (labels, group.channels) for group in found for name, labels in group.values.items()}
    ends: dict[str, Ends] = {}

    def visit(step: Step, arguments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        for argument, name in step.computed:
            if name in wanted and name not in ends:
                labels, channels = wanted[name]
                zeros = torch.zeros(channels + 1)
                values = [own[argument] for own in arguments]
                ends[name] = (
                    functools.reduce(torch.minimum, (_by_label(zeros, labels, value, "amin") for value in values)),
                    functools.reduce(torch.maximum, (_by_label(zeros, labels, value, "amax") for value in values)),
                )
        return {}

    walk(program, samples, visit)
    return ends


def _by_label(zeros: Tensor, labels: Tensor, values: Tensor, reduce: str) -> Tensor:
    """Of each label, what the numbers with it come to together with zero. `labels` can be broadcast to `values`."""
    same = [axis for axis in range(values.dim()) if labels.shape[axis] == 1]
    if same:
        values = getattr(values, reduce)(same, keepdim=True)
    return zeros.scatter_reduce(0, labels.reshape(-1), values.float().cpu().reshape(-1), reduce)


def _candidates(group: Group, ends: Mapping[str, Ends], constants: Mapping[str, Any]) -> list[Tensor]:
    """Factors to try; the first are all 1."""
    zeros = torch.zeros(group.channels + 1)
    ones, numbers, weights = zeros + 1, zeros, zeros
    for reader in group.readers:
        numbers = numbers.maximum(_shares(_reach(ends[reader.value])))
        if reader.labels.shape[1 - reader.rows] > 1:  # of a depthwise convolution each channel has a scale of its own
            labels = reader.labels.expand_as(constants[reader.buffer])
            weights = weights.maximum(_shares(_by_label(zeros, labels, constants[reader.buffer].abs(), "amax")))
    alive = numbers > 0
    if not bool(alive.any()):
        return [ones]
    numbers, weights = numbers.clamp(min=_LEAST), weights.clamp(min=_LEAST)
    largest = functools.reduce(torch.maximum, (_reach(ends[name]) for name in group.values))
    found = [ones]
    for alpha, other in _EXPONENTS:
        factors = numbers**alpha / weights**other
        # The largest number that is read stays as large.
        factors = (factors * (numbers / factors)[alive].max()).maximum(largest / _LARGEST)
        found.append(_within(group.bounds, torch.where(alive, factors, ones), ends))
    return found


def _reach(ends: Ends) -> Tensor:
    low, high = ends
    return torch.maximum(-low, high)


def _shares(values: Tensor) -> Tensor:
    """In parts of the largest."""
    return values / values.max().clamp(min=torch.finfo(torch.float32).tiny)


def _within(bounds: Sequence[Bound], factors: Tensor, ends: Mapping[str, Ends]) -> Tensor:
    """Factors with which no number comes nearer to a bound than it may."""
    clipped = torch.zeros_like(factors, dtype=torch.bool)
    for bound in bounds:
        low, high = ends[bound.value]
        for end, reach in ((bound.high, high), (-bound.low, -low)):
            if end > 0:
                factors = factors.maximum(reach / (_HEADROOM * end))
                clipped |= reach >= end
    return torch.where(clipped, torch.ones_like(factors), factors)


def _noise(reader: Reader, arguments: Sequence[Mapping[str, Any]], exact: Sequence[Tensor], factors: Tensor) -> float:
    """The energy of the error that 8 bits make in what a product answers, over that of the answers."""
    weight = arguments[0][reader.argument]
    factors = factors.to(weight.device)
    given = [own[reader.multiplied] / factors[reader.given] for own in arguments]
    low = min(0.0, *(float(value.min()) for value in given))
    high = max(0.0, *(float(value.max()) for value in given))
    step = (high - low) / 255 or 1.0
    weight = weight * factors[reader.labels]
    others = tuple(axis for axis in range(weight.dim()) if axis != reader.rows)
    scale = (weight.abs().amax(others, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    weight = (weight / scale).round() * scale
    signal = noise = 0.0
    assert reader.step.function is not None
    for own, value, answer in zip(arguments, given, exact, strict=True):
        rounded = (value / step).round() * step
        found = reader.step.function(**{**own, reader.multiplied: rounded, reader.argument: weight})
        signal += float(answer.square().sum())
        noise += float((found - answer).square().sum())
    return noise / signal if signal else 0.0
