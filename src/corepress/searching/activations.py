"""Activations as one more choice: which operations compute with 8 bits, once the weights have their forms.

What the outputs may lose is split: weights leave as much of it as activations were measured to take, or half where they
take more. Then the fewest operations are found that have to stay in floating point, by real runs of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from corepress import recipe
from corepress.coreml.activations.exceptions import MARGIN, Found
from corepress.coreml.activations.exceptions import Goal as Kept
from corepress.coreml.activations.quantize import quantized
from corepress.engine import Progress, Stopped, silence
from corepress.errors import ConfigError
from corepress.fields import some
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import nodes
from corepress.searching.goals import Goal
from corepress.searching.integers import ARGUMENTS, CONFIG, in_floating_point
from corepress.searching.packages import PackageSubject
from corepress.searching.quality import Judge, Metric, Quality
from corepress.searching.result import Activations, Result
from corepress.searching.run import Split

# What 8-bit activations may cost at most if nothing else is said, in dB of SNR: half of the noise.
LOSS = 10 * math.log10(2)
# They cost more on the quantized weights than on the original ones, but not so much more.
_CAUTION = 1.25
# If the goal is missed on samples that nothing saw, they get so much of their part.
_PARTS = (1.0, 0.5, 0.25)
_ONLY_INT8 = (
    "for {} the weights that activations multiply by are int8, or stay dense: "
    'target="iOS18" has tables of integers, with fewer bits'
)

# Searches for weights that keep a goal.
OfWeights = Callable[[Goal], Result]


def with_activations(
    of_weights: OfWeights,
    subject: PackageSubject,
    split: Split,
    goal: Goal,
    loss: float | None = None,
    *,
    metric: Metric | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Result:
    """What a search of weights finds, with 8-bit activations wherever the goal of the whole allows it.

    A result that misses its goal on the samples that nothing saw gets fewer of them; none, if that does not help.

    Args:
        of_weights: The search of the weights.
        subject: The package.
        split: The samples.
        goal: What is asked of the whole.
        loss: What activations may cost, in dB of SNR; weights leave so much of a quality. None: what they are measured
            to cost, and at most half of the noise; with a size half of it.
        metric: The caller's, or None.
        name: What it is called.
        progress: Called with the steps done, of all, and the name of the stage.

    Raises:
        ConfigError: For a loss that is none.
        Stopped: Where Ctrl-C ends it, with the weights only.
    """
    if loss is not None and not (math.isfinite(loss) and loss > 0):
        raise ConfigError(f"activation_loss={loss}: it must be a positive number of dB")
    judge = Judge(subject, split.chosen_by, metric, name)
    tester = Judge(subject, split.tested, metric, name) if split.tested else None
    kept = _to_keep(goal, judge)
    at_last = kept if tester is None else _to_keep(goal, tester)
    if loss is None:
        loss = LOSS if kept is None else _measured_loss(subject, split, kept, judge, progress)
    try:
        result = of_weights(for_weights(goal, loss))
    except Stopped as stop:
        raise Stopped(_of_the_whole(stop.result, subject, kept, at_last)) from stop.__cause__
    plain = _of_the_whole(result, subject, kept, at_last)
    if not plain.met:
        return _without(plain, "the goal is missed even so")
    try:
        return _quantized(plain, subject, split, goal, kept, at_last, loss, judge, tester, progress)
    except KeyboardInterrupt as stop:
        raise Stopped(_without(plain, "the search was stopped before")) from stop


def for_weights(goal: Goal, loss: float) -> Goal:
    """The goal of the weights, which leaves `loss` dB to the activations; a size stays as it is."""
    part = 10 ** (-loss / 10)
    if goal.drop is not None:
        return replace(goal, drop=goal.drop * part)
    if goal.least is None:
        return goal
    if goal.metric == "cosine":
        return replace(goal, least=1 - (1 - goal.least) * part)
    return replace(goal, least=goal.least + loss)


def _to_keep(goal: Goal, judge: Judge) -> Kept | None:
    """The quality that is asked of the whole, as the search for exceptions takes it; None for a size."""
    if goal.drop is not None:
        return Kept(goal.metric, judge.before - goal.drop, judge.before)
    return None if goal.least is None else Kept(goal.metric, goal.least)


def _measured_loss(subject: PackageSubject, split: Split, kept: Kept, judge: Judge, progress: Progress | None) -> float:
    """What activations cost on the original weights if all operations have them, in dB of what may be lost."""
    _, found = _search(subject, split, kept._replace(least=-math.inf), judge, progress)
    allowed = kept.noise(kept.least)
    if allowed <= 0:
        return LOSS
    # The search for exceptions keeps a margin, too.
    part = (1 - MARGIN) + _CAUTION * max(kept.noise(found.value), 0) / allowed
    return min(LOSS, -10 * math.log10(1 - part)) if part < 1 else LOSS


def _search(
    subject: PackageSubject,
    split: Split,
    goal: Kept,
    judge: Judge,
    progress: Progress | None,
    weights: Result | None = None,
) -> tuple[Model, Found]:
    """A model with the fewest exceptions that keep a goal. `weights`: what is done to these; None leaves them, and is
    content with ranges that take no search."""
    how: dict[str, Any] = {"observer": "min_max"}
    if weights is not None:
        how = {
            "observer": "auto",
            "always": in_floating_point(weights.model),
            "compress": lambda source: _with_weights(source, weights, subject),
            # What is fitted to samples would be fitted once more.
            "equalize": "auto" if subject.learnt is None else False,
        }
    made, found = quantized(
        subject.model, CONFIG, split.learnt, exceptions="auto", bias_correction=None, held_back=split.chosen_by,
        function=subject.function, target=subject.target.name, device=subject.device, workers=subject.workers,
        progress=progress, goal=goal, value_of=lambda other: judge.measure(other)[goal.metric], **how,
    )  # fmt: skip
    assert found is not None
    return made, found


def _with_weights(source: Model, weights: Result, subject: PackageSubject) -> Model:
    """A model with the weights in the forms that were found; its own may be others than those of the original."""
    if subject.learnt is not None or not weights.recipe["steps"]:
        kept: Model = weights.model.copy()
        return kept
    with silence():
        made: Model = recipe.run(source, recipe.parse(weights.recipe), workers=subject.workers, spare_constants=True)
    return made


def _quantized(
    plain: Result,
    subject: PackageSubject,
    split: Split,
    goal: Goal,
    kept: Kept | None,
    at_last: Kept | None,
    loss: float,
    judge: Judge,
    tester: Judge | None,
    progress: Progress | None,
) -> Result:
    """The result of the weights with quantized activations, as far as the goal allows."""
    alone = judge.measure(plain.model)
    if kept is None and math.isinf(alone["snr"]):
        return _without(plain, "no weight lost anything, so that nothing says what they may lose; ask for a quality")
    asked = kept or Kept("snr", alone["snr"] - loss)
    reason = "none could be within the goal"
    for part in _within(asked, alone):
        model, found = _search(subject, split, part, judge, progress, plain)
        if not found.operations:
            reason = "no operation has weights of 8-bit integers"
            break
        if found.operations == len(found.left) or not found.met:
            reason = "each operation does too much harm"
            break
        if goal.size is not None and model.size() > goal.size:
            continue
        tested = {} if tester is None else tester.measure(model)
        whole = _changed(plain, model, found, judge.measure(model), tested, alone, subject)
        if _meets(whole, kept, at_last):
            return whole
    return _without(plain, reason)


def _within(kept: Kept, alone: Quality) -> Iterator[Kept]:
    """The goal, and stricter ones that leave the activations a part of what they had."""
    of_weights, allowed = kept.noise(alone[kept.metric]), kept.noise(kept.least)
    for part in _PARTS:
        yield kept._replace(least=kept.value(of_weights + part * (allowed - of_weights)))


def _of_the_whole(result: Result, subject: PackageSubject, kept: Kept | None, at_last: Kept | None) -> Result:
    """The result of the weights, held against the goal of the whole, and without the bytes that were set aside."""
    pairs = subject.size(result.model) - result.model.size()
    notes = [] if "int8" in subject.target.lut_dtypes else [_ONLY_INT8.format(subject.target.name)]
    points = tuple(replace(point, size=point.size - pairs) for point in result.points)
    found = replace(result, points=points, notes=(*result.notes, *notes))
    counts = at_last if result.tested else kept
    return found if counts is None else replace(found, least=counts.least, met=_meets(found, kept, at_last))


def _meets(result: Result, kept: Kept | None, at_last: Kept | None) -> bool:
    """Whether a result keeps what it must on the samples that choosing saw, and on those that nothing saw: what a
    caller's metric may fall to is another number there."""
    pairs = [(result.chosen.quality, kept), *([(result.tested, at_last)] if result.tested else [])]
    return all(goal is None or quality.get(goal.metric, math.nan) >= goal.least for quality, goal in pairs)


def _without(result: Result, reason: str) -> Result:
    return replace(result, notes=(*result.notes, f"no activation was quantized: {reason}"))


def _changed(
    result: Result,
    model: Model,
    found: Found,
    quality: Quality,
    tested: Quality,
    alone: Quality,
    subject: PackageSubject,
) -> Result:
    """The result with another model in the place of the chosen one."""
    function = {"function": subject.function} if subject.function else {}
    step: Mapping[str, Any] = {"activations": ARGUMENTS, **found.keys, **function}
    chosen = result.chosen
    steps = {**chosen.recipe, "steps": [*chosen.recipe["steps"], dict(step)]}
    point = replace(chosen, size=model.size(), quality=quality, recipe=steps)
    activations = Activations(
        operations=found.operations + len(found.always),
        quantized=found.operations - len(found.left),
        left=tuple(left.name for left in found.left),
        weights=found.always,
        observer=found.way.observer,
        bias_correction=found.way.finish is not None,
        equalize=found.way.equalized,
        alone=alone,
    )
    notes = ["the other models of the front have no quantized activations"] if len(result.points) > 1 else []
    if others := {str(node.function) for node in nodes(model.spec)}.difference(subject.functions):
        notes.append(f"the activations of {some(sorted(others))} are not quantized: no sample runs through it")
    return replace(
        result,
        model=model,
        points=tuple(sorted((point if one.chosen else one for one in result.points), key=lambda one: one.size)),
        tested=tested,
        notes=(*result.notes, *notes),
        activations=activations,
    )
