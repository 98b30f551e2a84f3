"""A search over any subject, from samples and a goal to the result: here or in other processes, and gone on with."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from corepress.engine import Progress, Stopped
from corepress.errors import ConfigError
from corepress.resuming import digest_of
from corepress.searching.damage import Prices
from corepress.searching.goals import Goal
from corepress.searching.kept import Kept
from corepress.searching.loop import Evaluate, Found, Measured, Predict, Search, Settings, predictor
from corepress.searching.quality import Judge, Metric
from corepress.searching.result import Result
from corepress.searching.subject import Choice, Subject
from corepress.searching.workers import Plan, crew
from corepress.sequences import Sample
from corepress.split import FEW, digest, hold_back
from corepress.version import __version__

# Of the samples held back the part that choosing does not see either.
_UNSEEN = 0.5
# Samples to choose by: more of them would cost time with each model that is measured.
_ENOUGH = 64


class Split(NamedTuple):
    """Samples to fit to and predict with, to choose by, and to test with, which may be none."""

    learnt: Sequence[Sample]
    chosen_by: Sequence[Sample]
    tested: Sequence[Sample]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {"learnt": len(self.learnt), "chosen": len(self.chosen_by), "tested": len(self.tested)}


class Ways(NamedTuple):
    """How a search is run. `jobs`, `ray`: see `workers.crew`. `resume`: the folder to go on from, or None."""

    jobs: int = 1
    ray: str | None = None
    resume: str | Path | None = None


class Elsewhere(NamedTuple):
    """How others come by the subject. `plan`: builds it, on another machine if that is asked. `identity`: a text that
    is the same for the same model and settings of the subject."""

    plan: Callable[[bool], Plan]
    identity: Callable[[], str]


def searched(
    subject: Subject,
    split: Split,
    goal: Goal,
    settings: Settings,
    elsewhere: Elsewhere,
    *,
    metric: Metric | None = None,
    name: str = "",
    ways: Ways = Ways(),  # noqa: B008 - a tuple
    progress: Progress | None = None,
) -> Result:
    """Search a subject.

    Args:
        subject: The model.
        split: The samples.
        goal: What is asked for.
        settings: How the search is done.
        elsewhere: How other processes build the subject.
        metric: The caller's, or None.
        name: What it is called.
        ways: Where it runs, and from where it goes on.
        progress: Called with the steps done, of all, and the name of the stage.

    Raises:
        ConfigError: If nothing can be compressed, the goal can't be had, or the folder is of another search.
        Stopped: Where Ctrl-C ends it after something was found.
    """
    if not subject.items:
        raise ConfigError("no weight of the model can be compressed" + "".join(f"; {note}" for note in subject.notes))
    if ways.jobs < 1:
        raise ConfigError(f"jobs={ways.jobs}: at least 1 is needed")
    kept = None if ways.resume is None else Kept(Path(ways.resume), _asked(elsewhere, split, goal, settings, metric))
    judge = Judge(subject, split.chosen_by, metric, name)
    if goal.drop is not None:
        goal = replace(goal, least=judge.before - goal.drop)

    def plan() -> Plan:
        return Plan(_built, (elsewhere.plan(ways.ray is not None), split.chosen_by, metric, name))

    with crew((subject, judge), plan, jobs=ways.jobs, ray=ways.ray) as workers:
        predict = _remembered(predictor(subject, split.learnt, settings, progress), kept)
        evaluate = _evaluated(lambda choices: workers.each(_measured, choices), kept)
        search = Search(subject, predict, evaluate, goal, settings, progress)
        try:
            found = search.run()
            tester = Judge(subject, split.tested, metric, name) if split.tested else None
            return _tested(subject, found, goal, tester, split)
        except KeyboardInterrupt as stop:
            best = search.best()
            if best is None:
                raise
            if progress is not None:
                progress(0, 1, "making the best that was found; Ctrl-C again leaves without it")
            notes = (*split.notes, "the search was stopped: this is the best that it had found")
            untested = split._replace(tested=[], notes=notes)
            raise Stopped(_tested(subject, best, goal, None, untested)) from stop


def _tested(subject: Subject, found: Found, goal: Goal, judge: Judge | None, split: Split) -> Result:
    """The result, with the final number. A model that misses the goal there gives way to the next larger one, and one
    that is larger than its draft was, and than the budget, to the next smaller one. `judge`: None without samples."""
    if judge is not None and goal.drop is not None:
        goal = replace(goal, least=judge.before - goal.drop)  # of these samples
    first = found.place
    numbers = list(range(first, -1, -1) if goal.size is not None else range(first, len(found.points)))
    model, tested, met, number = None, {}, found.met, first
    for number in numbers if found.met else [first]:
        model = subject.make(found.choices[number])
        if goal.size is not None and subject.size(model) > goal.size:
            continue
        tested = {} if judge is None else judge.measure(model)
        met = found.met and (not tested or goal.meets(tested.get(goal.metric, math.nan)))
        if met:
            break
    met = met and (goal.size is None or subject.size(model) <= goal.size)
    points = [replace(point, chosen=number == place) for place, point in enumerate(found.points)]
    points[number] = replace(points[number], size=subject.size(model))
    notes = (*split.notes, *found.notes)
    if 0 < (count := len({digest(sample) for sample in split.tested})) < FEW:
        notes = (*notes, f"the final number is of {count} different samples: below {FEW} or so it is rough")
    return Result(model, tuple(points), goal.metric, tested, met, notes, goal.least, split.counts)


def parted(given: Sequence[Sample], tested: Sequence[Sample] | None, *, fits: bool = False) -> Split:
    """The samples of a caller, split. `tested`: others for the final number, or None: some of those given. `fits`: what
    is made is fitted to those learnt from, so that these say little about it; else they are chosen by, too."""
    split = _parted(given, tested)
    if fits or split.chosen_by is split.learnt:
        return split
    both = [*split.learnt, *split.chosen_by]
    return split._replace(chosen_by=both[:: max(1, math.ceil(len(both) / _ENOUGH))])


def _parted(given: Sequence[Sample], tested: Sequence[Sample] | None) -> Split:
    if not given:
        raise ConfigError('"data" holds no sample: a search needs some, typical for the app')
    learnt, held = hold_back(given)
    if tested is not None:
        return Split(learnt, held or learnt, tested, () if held else (_TOO_FEW,))
    chosen_by, unseen = hold_back(held, _UNSEEN) if len(held) > 1 else (held, [])
    if not held:
        return Split(learnt, learnt, [], (_TOO_FEW,))
    if not unseen:
        return Split(learnt, chosen_by, [], ("all numbers are of samples that the choice was made by",))
    return Split(learnt, chosen_by, unseen, ())


_TOO_FEW = '"data" holds too few different samples to hold some back: the choice is made by those it learns from'


# What other processes do.


def _built(plan: Plan, samples: Sequence[Sample], metric: Metric | None, name: str) -> tuple[Subject, Judge]:
    subject = plan.build(*plan.arguments)
    return subject, Judge(subject, samples, metric, name)


def _measured(built: tuple[Subject, Judge], choice: Choice) -> Measured:
    subject, judge = built
    model = subject.draft(choice)
    return Measured(subject.size(model), judge.measure(model))


# What is kept of a search.


def _asked(elsewhere: Elsewhere, split: Split, goal: Goal, settings: Settings, metric: Metric | None) -> dict[str, str]:
    """What the numbers of a search are of, by words for people."""
    return {
        "model": elsewhere.identity(),
        "data": digest_of(split.learnt, split.chosen_by),
        "settings": repr((goal, replace(settings, workers=None))),
        "metric": "" if metric is None else source_of(metric),
        "version of corepress": __version__,
    }


def source_of(function: Callable[..., Any]) -> str:
    """What a function is: its name, and the text of its file, since it may call others there."""
    function = inspect.unwrap(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        file = Path(inspect.getsourcefile(function) or "")
        text = file.read_text(encoding="utf-8") if file.is_file() else inspect.getsource(function)  # of a notebook
    except (OSError, TypeError):  # typed in a session, or of a kind that has no text
        text = ""
    return f"{name} {hashlib.sha256(text.encode()).hexdigest()}"


def _remembered(predict: Predict, kept: Kept | None) -> Predict:
    if kept is None:
        return predict

    def remembered(at: Choice | None, among: Prices | None) -> Prices:
        known = kept.get("prices", at)
        if known is None:
            found = predict(at, among)
            kept.put("prices", at, value=found._asdict())
            return found
        sizes, damages = ([[float(number) for number in row] for row in known[key]] for key in ("sizes", "damages"))
        return Prices(sizes, damages, known["unreached"])

    return remembered


def _evaluated(evaluate: Evaluate, kept: Kept | None) -> Evaluate:
    if kept is None:
        return evaluate

    def evaluated(choices: Sequence[Choice]) -> Iterable[Measured]:
        new = iter(evaluate([choice for choice in choices if kept.get("measured", choice) is None]))
        for choice in choices:
            known: Any = kept.get("measured", choice)
            if known is None:
                found = next(new)
                kept.put("measured", choice, value=found._asdict())
                known = kept.get("measured", choice)
            yield Measured(known["size"], {name: float(value) for name, value in known["quality"].items()})

    return evaluated
