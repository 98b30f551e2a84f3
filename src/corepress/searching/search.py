"""`corepress.search`: from a model, data and a goal to the model that meets it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from corepress.coreml.interop import as_model
from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.runtime.load import interface as interface_of
from corepress.runtime.samples import checked, read_samples
from corepress.searching.candidates import FORMS
from corepress.searching.goals import Goal, goal_of
from corepress.searching.loop import Found, Search, Settings, in_turn
from corepress.searching.packages import PackageSubject
from corepress.searching.quality import Judge, Metric
from corepress.searching.result import Result
from corepress.searching.subject import Sample, Subject
from corepress.split import hold_back

Data = Iterable[Mapping[str, Any]] | str | Path
# Of the samples held back the part that choosing does not see either.
_UNSEEN = 0.5


class Split(NamedTuple):
    """Samples to fit to and predict with, to choose by, and to test with, which may be none."""

    learnt: Sequence[Sample]
    chosen_by: Sequence[Sample]
    tested: Sequence[Sample]
    notes: tuple[str, ...]


def search(
    model: Any,
    data: Data,
    *,
    max_size: int | str | None = None,
    bits: float | None = None,
    min_snr: float | None = None,
    min_cosine: float | None = None,
    max_drop: float | None = None,
    metric: Metric | None = None,
    test_data: Data | None = None,
    target: Any = None,
    forms: Sequence[str] = FORMS,
    min_group: int = 8,
    points: int = 12,
    method: str = "plain",
    cost: str = "size",
    safe: bool = False,
    function: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find for each weight the form with which the model fits a size, or keeps its answers, best.

    Give one goal: `max_size`, `bits`, `min_snr`, `min_cosine` or `max_drop`. The damage of each form in the outputs is
    predicted from gradients (`corepress.searching.damage`), forms are chosen exactly under the budget
    (`corepress.searching.allotment`), the result is run, and the choice is made again with what that taught.

    Args:
        model: A path, a `corepress.Model` or an `MLModel` of coremltools; it stays as it is.
        data: Samples, as for `verify`: an iterable of {input name: array}, or the path of an .npz, an image or a
            folder. Four fifths are learnt from, a tenth is chosen by, and a tenth is kept for the final number.
        max_size: Bytes that the whole package may have: a number, or such as "10MB" (10,000,000 bytes). It is never
            exceeded.
        bits: Stored bits for each element of the weights that can be compressed.
        min_snr: The least SNR of the outputs, in dB.
        min_cosine: The least cosine of the outputs, from -1 to 1.
        max_drop: How much of `metric` may be lost.
        metric: A function of the outputs for a sample, by name, and the sample, of which the mean counts; or of the
            loaded model (`corepress.runtime.Program`) alone. More is better.
        test_data: Other samples for the final number; then a fifth of `data` is chosen by.
        target: Raise the model to this system first, such as "iOS18".
        forms: Some of "palettized", "quantized", "sparse" and "joint" (the values of a sparse weight palettized or
            quantized). A weight may stay dense, too.
        min_group: The fewest channels that may share a look-up table: smaller groups are known to be slow on phones.
        points: How many models of the front are measured.
        method: "plain", or "fitted": what is made learns from the samples (lut-gptq, gptq, sparsegpt), which takes
            longer.
        cost: "size", or "speed": forms that are known to be slow on phones count as more bytes in the choice.
        safe: Leave out forms that devices are reported to get wrong, or to be slow with: see `corepress.lint`.
        function: Of a model with several, the one that the samples are for.
        device: Where PyTorch computes, such as "cpu" or "cuda".
        seed: Of the random signs in the prediction. The same seed gives the same result.
        workers: Threads; by default one for each core.
        progress: Called with the steps done, of all, and the name of the stage.

    Returns:
        The chosen model, the front of sizes and qualities, and the recipe of each.

    Raises:
        ConfigError: For a goal that makes no sense or can't be had, with the least that can; for samples that do not
            fit; for a metric that raises or gives no finite number.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, max_size="100kB")
        >>> found.model.save("small_enough.mlpackage").size() <= 100_000
        True
        >>> found.save_recipe("small_enough.yaml")
    """
    name = getattr(metric, "__name__", "metric") if metric is not None else ""
    goal = goal_of(max_size, bits, min_snr, min_cosine, max_drop, name, metric is not None)
    _check_words(method, cost, points)
    source = as_model(model)
    split = split_of(source, data, test_data, function)
    subject = PackageSubject(
        source,
        target=target,
        forms=forms,
        min_group=min_group,
        safe=safe,
        learnt=split.learnt if method == "fitted" else None,
        function=function,
        device=device,
        workers=workers,
    )
    if not subject.items:
        raise ConfigError(f"{source.path}: no weight of the model can be compressed")
    judge = Judge(subject, split.chosen_by, metric, name)
    if goal.drop is not None:
        goal = Goal(least=judge.before - goal.drop, metric=name)
    settings = Settings(points, seed, workers, cost == "speed")
    found = Search(subject, split.learnt, in_turn(subject, judge), goal, settings, progress).run()
    judge = Judge(subject, split.tested, metric, name)
    return _tested(subject, found, goal, judge, split.notes)


def _tested(subject: Subject, found: Found, goal: Goal, judge: Judge, notes: Sequence[str]) -> Result:
    """The result, with the final number. A model that misses the goal there gives way to the next larger one."""
    first = next(number for number, point in enumerate(found.points) if point.chosen)
    last = len(found.points) if found.met and goal.least is not None and judge.samples else first + 1
    model, tested, met = None, {}, found.met
    for number in range(first, last):
        model = subject.make(found.choices[number])
        tested = judge.measure(model) if judge.samples else {}
        met = found.met and (not tested or goal.least is None or tested.get(goal.metric, -math.inf) >= goal.least)
        if met:
            break
    points = tuple(replace(point, chosen=number == place) for place, point in enumerate(found.points))
    return Result(model, points, goal.metric, tested, met, (*notes, *found.notes), goal.least)


def _check_words(method: str, cost: str, points: int) -> None:
    if method not in ("plain", "fitted"):
        raise ConfigError(f'method must be "plain" or "fitted", not {method!r}')
    if cost not in ("size", "speed"):
        raise ConfigError(f'cost must be "size" or "speed", not {cost!r}')
    if points < 1:
        raise ConfigError(f"points must be at least 1, not {points}")


def split_of(model: Any, data: Data, test_data: Data | None, function: str | None) -> Split:
    """The samples of a caller, checked and split. Raises ConfigError for too few, and for those that do not fit."""
    interface = interface_of(model, function)

    def samples(given: Data, what: str) -> list[Sample]:
        if isinstance(given, str | Path):
            return list(checked(read_samples(given, interface), interface, str(given), finite=True))
        return list(checked(given, interface, what, finite=True))

    given = samples(data, "data")
    if not given:
        raise ConfigError("data holds no sample: a search needs some, typical for the app")
    learnt, held = hold_back(given)
    if test_data is not None:
        tested = samples(test_data, "test_data")
        return Split(learnt, held or learnt, tested, () if held else (_TOO_FEW,))
    chosen_by, unseen = hold_back(held, _UNSEEN) if len(held) > 1 else (held, [])
    if not held:
        return Split(learnt, learnt, [], (_TOO_FEW,))
    if not unseen:
        return Split(learnt, chosen_by, [], ("all numbers are of samples that the choice was made by",))
    return Split(learnt, chosen_by, unseen, ())


_TOO_FEW = "data holds too few different samples to hold some back: the choice is made by those it learns from"
