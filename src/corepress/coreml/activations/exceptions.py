"""The operations to leave in floating point so that a model keeps its answers: as few as a goal allows.

Operations are ranked by what each of them alone does to the outputs. The shortest beginning of that list that meets
the goal is found by bisection, then exceptions are taken back one by one, the least harmful first, where the goal
allows it. Where so few sets of one exception less exist that all can be tried, they are. Every step is a real run of
the package on samples that its ranges were not calibrated on.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from corepress.coreml.activations.parts import Ranges
from corepress.coreml.calibrated.judging import Split, answers_of
from corepress.engine import Progress
from corepress.errors import ConfigError, DataError
from corepress.formats.mlprogram import Model
from corepress.metrics import Sums, limit_of, worded, worst
from corepress.sequences import Sample

log = logging.getLogger(__name__)

Names = frozenset[str]
# A set is good with so much of the noise that the goal allows: on other samples there may be a little more of it.
MARGIN = 0.9
# If the goal can't be had, exceptions that lower the noise by less than this are none.
_NEARLY = 1.05
# Sets of one exception less that are tried, at most.
_FEW = 256
# Samples that operations are ranked by.
_RANKED_BY = 8


class Goal(NamedTuple):
    """What the outputs must keep: a `metric`, "snr", "cosine" or one of a caller's, and its least value. `best`: of a
    caller's metric, its value without any noise."""

    metric: str
    least: float
    best: float | None = None

    def noise(self, value: float) -> float:
        """A number that is the larger the worse a value of the metric is: of `snr` the noise in parts of the signal."""
        if math.isnan(value):
            return math.inf
        if self.best is not None:
            return self.best - value
        return 1 - value if self.metric == "cosine" else 10 ** (-value / 10)

    def value(self, noise: float) -> float:
        """The value of the metric with so much noise: the other way round."""
        if self.best is not None:
            return self.best - noise
        if self.metric == "cosine":
            return 1 - noise
        return -10 * math.log10(noise) if noise > 0 else math.inf


def goal_of(min_snr: float | None = None, min_cosine: float | None = None) -> Goal:
    """The goal that is given; a ConfigError if that is not exactly one, or none that a value can reach."""
    given = [(metric, least) for metric, least in (("snr", min_snr), ("cosine", min_cosine)) if least is not None]
    if len(given) != 1:
        raise ConfigError("to find exceptions takes one goal that the outputs must keep: min_snr or min_cosine")
    return Goal(given[0][0], limit_of(*given[0]))


class Way(NamedTuple):
    """A way to quantize activations: their ranges, by which observer these are, whether channels were equalized before,
    and what is done to a model with pairs at last: its biases are corrected, or nothing."""

    ranges: Ranges
    observer: str
    equalized: bool = False
    finish: Callable[[Model], Model] | None = None

    @property
    def words(self) -> str:
        """The observer, and what is done beside."""
        more = [(self.equalized, "equalized channels"), (self.finish is not None, "corrected biases")]
        return ", ".join([self.observer, *(words for done, words in more if done)])

    def written(self, exceptions: Collection[str] = (), *, quiet: bool = True) -> Model:
        """The model with its pairs, all done; see `Ranges.written`."""
        result = self.ranges.written(exceptions, quiet=quiet)
        return result if self.finish is None else self.finish(result)


class Left(NamedTuple):
    """An operation that is left in floating point: its name and type, and its harm, the noise in the outputs, in parts
    of their energy, when it alone is quantized."""

    name: str
    type: str
    harm: float


@dataclass(frozen=True)
class Found:
    """The exceptions that a search found, the most harmful first, and the way that was nearest without any.

    `value`: of the metric, measured with both, on so many `samples`, that ranges do not come from if these were
    `held_back`. `operations`: how many could be quantized. `always`: the names of others, which were to be left
    whatever they do.
    """

    left: tuple[Left, ...]
    way: Way
    goal: Goal
    value: float
    operations: int
    samples: int
    held_back: bool
    always: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operations that are left in floating point."""
        return (*(left.name for left in self.left), *self.always)

    @property
    def keys(self) -> dict[str, Any]:
        """What a recipe says to quantize the same again, with the same samples to learn from."""
        return {
            "exceptions": list(self.names),
            "observer": self.way.observer,
            "bias_correction": self.way.finish is not None,
            "equalize": self.way.equalized,
        }

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.value >= self.goal.least

    @property
    def summary(self) -> str:
        """What was found, in a sentence."""
        label, unit = worded(self.goal.metric)
        basis = "held back for choosing" if self.held_back else "that ranges come from, too"
        counted = f"{self.samples} sample{'' if self.samples == 1 else 's'}"
        reached = f"{label} {self.value:.4g}{unit} on {counted} {basis}"
        kept = f"{len(self.left)} of {self.operations} operations stay in floating point"
        if self.met:
            return f"{kept}: {reached}"
        asked = f"{label} {self.goal.least:g}{unit}"
        short = f"{self.goal.least - self.value:.3g}{unit} too little"
        return f"the goal, {asked}, can't be reached: {kept}, {reached}, {short}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "met": self.met,
            "metric": self.goal.metric,
            "goal": self.goal.least,
            "value": self.value,
            "samples": self.samples,
            "observer": self.way.observer,
            "bias_correction": self.way.finish is not None,
            "equalize": self.way.equalized,
            "operations": self.operations,
            "left": [left._asdict() for left in self.left],
        }


def find(
    ways: Sequence[Way],
    original: Model,
    split: Split,
    goal: Goal,
    *,
    refine: Callable[[Way], Iterable[Way]] | None = None,
    always: Collection[str] = (),
    value_of: Callable[[Model], float] | None = None,
    function: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Found:
    """The smallest set of operations found that has to stay in floating point.

    Args:
        ways: To quantize the activations of the model. Of those with which the goal can be had one is taken: without
            exceptions, or with as many as the nearest without needs, its outputs are nearest.
        original: The model whose answers count.
        split: The samples that the ranges come from, and those to judge by, which are others where there are enough.
        goal: What the outputs must keep; a warning says so if they can't.
        refine: Gives the ways to choose from at last, of the one that was taken: those that take long to make.
        always: Names of operations that are left whatever they do, such as those whose weights are no integers.
        value_of: Measures the metric of a model; by default its worst output on the samples.
        function: Of a model with several, the one that runs.
        device: Where PyTorch computes.
        progress: Called after each run with the number of runs, 0, and a text.

    Raises:
        DataError: Where no output is a number.
    """
    samples = split.judged
    exact = answers_of(original, samples, function, device)
    if not any(value.size for arrays in exact.values() for value in arrays):
        raise DataError("no output of the model is a number, so that there is nothing to keep near")
    known = ways[0].ranges.operations()
    kept = tuple(name for name in known if name in frozenset(always))
    operations = {name: kind for name, kind in known.items() if name not in kept}
    allowed = MARGIN * goal.noise(goal.least)

    def nearest(ways: Iterable[Way]) -> _Judge:
        judges = [
            _Judge(way, exact, samples, goal, frozenset(kept), value_of, function, device, progress) for way in ways
        ]
        return _nearest(judges, operations, allowed)

    judge = nearest(ways)
    if refine is not None:
        judge = nearest(refine(judge.way))
    chosen, left = _chosen(judge, operations, allowed)
    held_back = samples is not split.learnt
    found = Found(left, judge.way, goal, judge.value(chosen), len(operations), len(samples), held_back, kept)
    if not found.met:
        log.warning("%s", found.summary)
    return found


def _nearest(judges: Sequence[_Judge], operations: Mapping[str, str], allowed: float) -> _Judge:
    """The judge of the way with least noise without exceptions.

    If they are needed, it is, of the ways with which they help (where weights are coarse, corrected biases may be worse
    than none), the one that needs the fewest, of operations as the nearest way ranks them: what a few harmful ones do
    says nothing about the way that is best for all others.
    """
    if len(judges) == 1:
        return judges[0]
    nearest = min(judges, key=lambda one: one.noise(frozenset()))
    if nearest.noise(frozenset()) <= allowed:
        return nearest
    able = [one for one in judges if one.noise(frozenset(operations)) <= allowed]
    if not able:
        return nearest
    nearest = min(able, key=lambda one: one.noise(frozenset()))
    ranked = _ranked(nearest.harms(operations))
    needed = [_shortest(ranked, _within(one, allowed)) for one in able]
    fewest = min(needed)
    able = [one for one, count in zip(able, needed, strict=True) if count == fewest]
    return min(able, key=lambda one: one.noise(frozenset(ranked[:fewest])))


def _within(judge: _Judge, allowed: float) -> Callable[[Names], bool]:
    """Whether there is no more noise than is allowed with some exceptions."""
    return lambda names: judge.noise(names) <= allowed


def _ranked(harm: Mapping[str, float]) -> list[str]:
    return sorted(harm, key=lambda name: -harm[name])


def _chosen(judge: _Judge, operations: Mapping[str, str], allowed: float) -> tuple[Names, tuple[Left, ...]]:
    """The operations to leave so that there is no more noise than is allowed; where that can't be had, hardly more than
    the least that can."""
    if judge.noise(frozenset()) <= allowed:
        return frozenset(), ()
    harm = judge.harms(operations)
    ranked = _ranked(harm)
    if not judge.noise(frozenset(ranked)) <= allowed:
        allowed = _NEARLY * judge.noise(frozenset(ranked))
    chosen = smallest(ranked, _within(judge, allowed))
    return chosen, tuple(Left(name, operations[name], harm[name]) for name in ranked if name in chosen)


def _shortest(ranked: Sequence[str], good: Callable[[Names], bool]) -> int:
    """The length of the shortest beginning of a list of which `good` is true, by bisection."""
    low, high = -1, len(ranked)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(frozenset(ranked[:middle])) else (middle, high)
    return high


def smallest(ranked: Sequence[str], good: Callable[[Names], bool]) -> Names:
    """The smallest set found of which `good` is true; it is true of all of them. `ranked`: the likeliest first."""
    chosen = frozenset(ranked[: _shortest(ranked, good)])
    while True:
        chosen = _taken_back(chosen, ranked, good)
        fewer = next((names for names in _one_less(chosen, ranked) if good(names)), None)
        if fewer is None:
            return chosen
        chosen = fewer


def _taken_back(chosen: Names, ranked: Sequence[str], good: Callable[[Names], bool]) -> Names:
    for name in reversed(ranked):
        if name in chosen and good(chosen - {name}):
            chosen -= {name}
    return chosen


def _one_less(chosen: Names, ranked: Sequence[str]) -> Iterator[Names]:
    """All sets of one name less, if they are few."""
    count = len(chosen) - 1
    if count >= 0 and math.comb(len(ranked), count) <= _FEW:
        yield from map(frozenset, itertools.combinations(ranked, count))


class _Judge:
    """Measures what a model with some exceptions answers, each set of them once. `exact`: what the original answers."""

    def __init__(
        self,
        way: Way,
        exact: Mapping[str, list[Any]],
        samples: Sequence[Sample],
        goal: Goal,
        always: Names,
        value_of: Callable[[Model], float] | None,
        function: str | None,
        device: str,
        progress: Progress | None,
    ):
        self.way, self.samples, self.goal, self.progress = way, samples, goal, progress
        self.always, self.value_of = always, value_of
        self.exact, self.function, self.device = exact, function, device
        self._known: dict[Names, float] = {}
        self._harms: dict[str, float] = {}
        self._runs = 0

    def value(self, exceptions: Names) -> float:
        """The metric of the worst output."""
        if exceptions not in self._known:
            model = self.way.written(exceptions | self.always)
            if self.value_of is None:
                self._known[exceptions] = self._measured(model, len(self.samples))
            else:
                self._known[exceptions] = self.value_of(model)
                self._ran()
        return self._known[exceptions]

    def noise(self, exceptions: Names) -> float:
        return self.goal.noise(self.value(exceptions))

    def harms(self, operations: Collection[str]) -> dict[str, float]:
        """The noise that each operation adds when it alone is quantized; each is measured once."""
        new = [name for name in operations if name not in self._harms]
        self._harms |= self._alone(new) if new else {}
        return {name: self._harms[name] for name in operations}

    def _alone(self, operations: Collection[str]) -> dict[str, float]:
        count = min(_RANKED_BY, len(self.samples))
        snr = Goal("snr", 0)
        without = snr.noise(self._measured(self.way.ranges.model, count, "snr"))
        found = {}
        for name in operations:
            alone = snr.noise(self._measured(self.way.ranges.written(only=[name], quiet=True), count, "snr"))
            found[name] = max(alone - without, 0.0)
        return found

    def _measured(self, model: Model, count: int, metric: str | None = None) -> float:
        metric = metric or self.goal.metric
        answers = answers_of(model, self.samples[:count], self.function, self.device)
        rows = []
        for name, arrays in self.exact.items():
            sums = Sums()
            for before, now in zip(arrays, answers[name], strict=False):
                sums.add_output(name, before, now)
            rows.append(sums.row(name))
        self._ran()
        found = worst(rows, metric)
        return math.inf if found is None else found

    def _ran(self) -> None:
        self._runs += 1
        if self.progress is not None:
            self.progress(self._runs, 0, "exceptions")
