"""The last step of a search: what was chosen learns from the samples to answer as the original does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from corepress.engine import Progress, Stopped
from corepress.metrics import METRICS
from corepress.refining.options import Refining
from corepress.refining.refine import refine
from corepress.refining.result import Refinement
from corepress.searching.goals import meets
from corepress.searching.packages import PackageSubject
from corepress.searching.quality import Judge, Metric, Quality
from corepress.searching.result import Result
from corepress.searching.run import Split
from corepress.sequences import Sample


def refined(
    result: Result,
    subject: PackageSubject,
    split: Split,
    how: Refining,
    *,
    metric: Metric | None = None,
    name: str = "",
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """A result whose chosen model was refined on the samples that are learnt from, and measured again; the same one,
    with a note, where nothing was gained by what was searched by.

    Args:
        result: What a search of a package found.
        subject: The package.
        split: The samples.
        how: How it learns, and for how long.
        metric: The caller's, or None.
        name: What it is called.
        resume: The folder to go on from, or None.
        progress: Called with the steps done, of all, and what the samples held back say.

    Raises:
        Stopped: Where Ctrl-C ends it, with the best until then.
    """
    if not any(weight.compression for weight in result.model.weights()):
        return _without(result, "the chosen model has no compressed weight")
    stop: BaseException | None = None
    keywords = {**how.keywords(), "device": subject.device, "resume": resume, "progress": progress}
    try:
        found = refine(subject.model, result.model, split.learnt, **keywords)
    except Stopped as stopped:
        found, stop = stopped.result, stopped.__cause__

    def quality(samples: Sequence[Sample]) -> Quality:
        return Judge(subject, samples, metric, name).measure(found.model)

    whole = _changed(result, found, how, quality(split.chosen_by), quality(split.tested) if split.tested else {})
    if stop is not None:
        raise Stopped(whole) from stop
    return whole


def _changed(result: Result, found: Refinement, how: Refining, quality: Quality, tested: Quality) -> Result:
    """The result with the refined model in the place of the chosen one, if that is better."""
    chosen, metric = result.chosen, result.metric
    if not found.improved:
        return _without(result, "the samples held back gained nothing")
    if _order(metric, quality[metric]) < _order(metric, chosen.quality[metric]):
        return _without(result, f"{metric} was better before")
    recipe = {**chosen.recipe, "steps": [*chosen.recipe["steps"], how.step()]}
    point = replace(chosen, size=found.model.size(), quality=quality, recipe=recipe)
    met = result.met if result.least is None else meets(metric, (tested or quality)[metric], result.least)
    notes = ("the other models of the front are not refined",) if len(result.points) > 1 else ()
    return replace(
        result,
        model=found.model,
        points=tuple(point if one.chosen else one for one in result.points),
        tested=tested,
        met=met,
        notes=(*result.notes, *notes, *found.notes),
        refinement=found,
    )


def _without(result: Result, reason: str) -> Result:
    return replace(result, notes=(*result.notes, f"the chosen model is not refined: {reason}"))


def _order(metric: str, value: float) -> float:
    """The greater the better."""
    return METRICS[metric].order(value) if metric in METRICS else value
