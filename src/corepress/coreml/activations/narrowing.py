"""Ranges of least error in what the model answers.

A few numbers are far larger than all others, and cost these their bits: the -10,000 by which an attention mask stands
for minus infinity, or the spikes of a few tokens. Whether it does harm to clip them can't be read from the values. So
it is tried: one activation is quantized, in narrower and narrower ranges, and the rest of the program runs on some
samples. The range after which the outputs are nearest is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.coreml.activations.pairs import Limits, Parameters, parameters
from corepress.coreml.activations.parts import Part, Ranges
from corepress.coreml.calibrated.judging import error
from corepress.engine import Progress
from corepress.runtime import load
from corepress.runtime.program import Program
from corepress.runtime.walk import WhatIf, each_program, outputs_in_steps, what_if
from corepress.sequences import Sample

# Samples that are tried, evenly chosen: the best range of one value hardly depends on more.
SAMPLES = 8
# Each range is so much of the one before it.
_STEP = math.sqrt(0.5)
_STEPS = 24  # down to 1/4096
# With no more noise than this part of the outputs' energy, a range stays as it is.
_NEGLIGIBLE = 1e-5
# A range with so many times the least noise ends the search.
_WORSE = 16.0


def narrowed(
    ranges: Ranges,
    samples: Sequence[Sample],
    function: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Ranges:
    """The ranges after which the outputs of the model (in a pipeline: of the stage) differ least.

    Values that must share a range with others keep it, and so do those that loops and branches compute.
    """
    program = load(ranges.model, device, precision="float32", function=function)
    parts = {part.function: part for part in ranges.parts()}
    few = samples[:: math.ceil(len(samples) / SAMPLES)] if samples else samples
    limits: dict[str, Limits] = {}
    for name, stage, given in each_program(program, few):
        if name not in parts:
            continue
        part = parts[name]
        known = {
            value: kind
            for value, kind in part.kinds().items()
            if (full := part.prefix + value) in ranges.observers and full not in ranges.trouble
        }

        def settle(value: str, answers: WhatIf, part: Part, known: Mapping[str, Any], exact: Any) -> None:
            config, dtype = known[value]
            whole = ranges.observers[part.prefix + value].limits(config.mode == "LINEAR_SYMMETRIC")

            def noise(ends: Limits) -> float:
                found = error(exact, _arrays(answers(rounding(parameters(ends, config, dtype)))))
                return math.inf if math.isnan(found) else found

            limits[part.prefix + value] = best_range(whole, noise)
            if progress is not None:
                progress(len(limits), len(known), f"range of {value}")

        what_if(stage, given, known, functools.partial(settle, part=part, known=known, exact=_exact(stage, given)))
    return ranges.with_limits(limits)


@torch.no_grad()
def _exact(stage: Program, samples: Sequence[Sample]) -> dict[str, list[NDArray[Any]]]:
    """What a program answers to each step of each sample."""
    return _arrays(outputs for sample in samples for outputs in outputs_in_steps(stage, sample))


def best_range(whole: Limits, noise: Callable[[Limits], float]) -> Limits:
    """Of ranges with narrower and narrower ends, that of the least noise; the whole one where nothing is gained."""
    best, least = whole, noise(whole)
    low, high = whole
    reach = max(-low, high)
    if least <= _NEGLIGIBLE or not reach > 0:
        return whole
    for _ in range(_STEPS):
        reach *= _STEP
        ends = max(low, -reach), min(high, reach)
        if (found := noise(ends)) < least:
            best, least = ends, found
        elif found > _WORSE * least:
            break
    return best


def rounding(chosen: Parameters) -> Callable[[Tensor], Tensor]:
    """What a pair makes of a value."""
    kind = torch.iinfo(getattr(torch, chosen.dtype))

    def rounded(value: Tensor) -> Tensor:
        steps = (value / chosen.scale).round() + chosen.zero_point
        return (steps.clamp(kind.min, kind.max) - chosen.zero_point) * chosen.scale

    return rounded


def _arrays(answers: Iterable[Sequence[Any]]) -> dict[str, list[NDArray[Any]]]:
    """By the number of each output of floating-point numbers, what it is in each step."""
    found: dict[str, list[NDArray[Any]]] = {}
    for outputs in answers:
        for number, output in enumerate(outputs):
            if isinstance(output, Tensor) and output.is_floating_point():
                found.setdefault(str(number), []).append(output.float().cpu().numpy())
    return found
