"""Activations as one more choice: which operations compute with 8 bits, once the weights have their forms.

What the outputs may lose is split: weights get so much of it that activations have `loss` dB left, by default half of
the noise. Then the fewest operations are found that have to stay in floating point, by real runs of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from corepress.coreml.activations.exceptions import Found
from corepress.coreml.activations.exceptions import Goal as Kept
from corepress.coreml.activations.quantize import quantized
from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model
from corepress.searching.goals import Goal
from corepress.searching.integers import ARGUMENTS, CONFIG, in_floating_point
from corepress.searching.quality import Judge, Metric, Quality
from corepress.searching.result import Activations, Result
from corepress.searching.run import Split, Stopped
from corepress.searching.subject import Subject

# What 8-bit activations may cost, in dB of SNR: half of the noise is theirs then.
LOSS = 3.0
# If the goal is missed on samples that nothing saw, they get so much of their part.
_PARTS = (1.0, 0.5, 0.25)


def for_weights(goal: Goal, loss: float) -> Goal:
    """The goal of the weights, which leaves `loss` dB to the activations; a size stays as it is."""
    if not (math.isfinite(loss) and loss > 0):
        raise ConfigError(f"activation_loss={loss}: it must be a positive number of dB")
    part = 10 ** (-loss / 10)
    if goal.drop is not None:
        return replace(goal, drop=goal.drop * part)
    if goal.least is None:
        return goal
    if goal.metric == "cosine":
        return replace(goal, least=1 - (1 - goal.least) * part)
    return replace(goal, least=goal.least + loss)


def with_activations(
    result: Result,
    subject: Subject,
    split: Split,
    goal: Goal,
    loss: float,
    *,
    metric: Metric | None = None,
    name: str = "",
    function: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """What a search of weights found, with 8-bit activations wherever the goal of the whole allows it.

    With a size as the goal the activations may cost `loss` dB of the SNR that the weights left. A result that misses
    its goal on the samples that nothing saw gets fewer of them; none, if that does not help.

    Raises:
        Stopped: Where Ctrl-C ends it, with the result as it was.
    """
    judge = Judge(subject, split.chosen_by, metric, name)
    tester = Judge(subject, split.tested, metric, name) if split.tested else None
    alone = judge.measure(result.model)
    kept = _to_keep(goal, loss, judge, alone)
    plain = _of_the_whole(result, subject.size(result.model) - result.model.size(), goal, kept)
    if goal.least is not None and not _meets(plain, kept):
        return _without(plain, "the goal is missed even so")
    count = 0
    try:
        always = in_floating_point(result.model)
        for part in _within(kept, alone):
            model, found = quantized(
                result.model, CONFIG, split.learnt, observer="auto", exceptions="auto", bias_correction=None,
                held_back=split.chosen_by, function=function, device=device, workers=workers, progress=progress,
                goal=part, always=always, value_of=lambda made: judge.measure(made)[part.metric],  # noqa: B023
            )  # fmt: skip
            assert found is not None
            if not (count := found.operations - len(found.left)):
                break
            if goal.size is not None and model.size() > goal.size:
                continue
            tested = {} if tester is None else tester.measure(model)
            whole = _changed(plain, model, found, judge.measure(model), tested, alone, function)
            if plain.least is None or _meets(whole, kept):
                return replace(whole, met=result.met if plain.least is None else True)
    except KeyboardInterrupt as stop:
        raise Stopped(_without(plain, "the search was stopped before")) from stop
    return _without(plain, "none could be quantized within the goal" if count else "each of them does too much harm")


def _to_keep(goal: Goal, loss: float, judge: Judge, alone: Quality) -> Kept:
    """What the whole must keep, as the search for exceptions takes it."""
    if goal.drop is not None:
        return Kept(goal.metric, judge.before - goal.drop, judge.before)
    if goal.least is not None:
        return Kept(goal.metric, goal.least)
    return Kept("snr", alone.get("snr", math.nan) - loss)


def _within(kept: Kept, alone: Quality) -> Iterator[Kept]:
    """The goal, and stricter ones that leave the activations a part of what they had."""
    of_weights, allowed = kept.noise(alone[kept.metric]), kept.noise(kept.least)
    for part in _PARTS:
        yield kept._replace(least=kept.value(of_weights + part * (allowed - of_weights)))


def _of_the_whole(result: Result, pairs: int, goal: Goal, kept: Kept) -> Result:
    """The result of the weights, held against the goal of the whole, and without the bytes that were set aside."""
    points = tuple(replace(point, size=point.size - pairs) for point in result.points)
    if goal.is_budget:
        return replace(result, points=points)
    found = replace(result, points=points, least=kept.least)
    return replace(found, met=_meets(found, kept))


def _meets(result: Result, kept: Kept) -> bool:
    number = (result.tested or result.chosen.quality).get(kept.metric, math.nan)
    return number >= kept.least and result.chosen.quality.get(kept.metric, math.nan) >= kept.least


def _without(result: Result, reason: str) -> Result:
    return replace(result, notes=(*result.notes, f"no activation was quantized: {reason}"))


def _changed(
    result: Result,
    model: Model,
    found: Found,
    quality: Quality,
    tested: Quality,
    alone: Quality,
    function: str | None,
) -> Result:
    """The result with another model in the place of the chosen one."""
    step: Mapping[str, Any] = {"activations": ARGUMENTS, **found.keys, **({"function": function} if function else {})}
    chosen = result.chosen
    recipe = {**chosen.recipe, "steps": [*chosen.recipe["steps"], dict(step)]}
    point = replace(chosen, size=model.size(), quality=quality, recipe=recipe)
    activations = Activations(
        operations=found.operations + len(found.always),
        quantized=found.operations - len(found.left),
        left=tuple(left.name for left in found.left),
        weights=found.always,
        observer=found.way.observer,
        bias_correction=found.way.finish is not None,
        alone=alone,
    )
    note = "the other models of the front have no quantized activations" if len(result.points) > 1 else ""
    return replace(
        result,
        model=model,
        points=tuple(sorted((point if one.chosen else one for one in result.points), key=lambda one: one.size)),
        tested=tested,
        notes=(*result.notes, *([note] if note else [])),
        activations=activations,
    )
