"""The search itself, over any subject: predict, choose, measure, learn from what was measured, and choose again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.fields import some
from corepress.metrics import METRICS
from corepress.searching.allotment import allot, least, neighbours, steps, total
from corepress.searching.damage import FEWEST, MOST, Prices, as_they_are, predicted, worthwhile
from corepress.searching.goals import Goal
from corepress.searching.quality import Quality
from corepress.searching.result import Chosen, Point
from corepress.searching.subject import Array, Candidate, Choice, Place, Subject
from corepress.sequences import Sample

# How often a choice is measured and, half-way to the values that it has, the damages are predicted anew.
ROUNDS = 2
# How often a size that came out too large is corrected.
_CORRECTIONS = 8
# Blobs begin at multiples of so many bytes, so that the sizes of few choices are known better than that for each item.
_ALIGNED, _UNSURE = 64, 16
# How many choices with one form for all weights are measured besides.
_ALIKE = 2
# Measured changes of what was chosen: at most, for all items together, and at a time.
_ATTEMPTS, _ATTEMPTS_OF_ALL, _AT_A_TIME = 24, 160, 4


class Measured(NamedTuple):
    """What a choice turned out to be: bytes of the whole model, and its quality."""

    size: int
    quality: Quality


# Makes and measures choices, maybe several at a time; in the order in which they were given.
Evaluate = Callable[[Sequence[Choice]], Iterable[Measured]]
# Predicts damages with the values of a choice (None: the original's), of what the prices known before have (None: all).
Predict = Callable[[Choice | None, Prices | None], Prices]


@dataclass(frozen=True)
class Settings:
    """How a search is done. `points`: of the front. `prefers_speed`: bytes that are slow to read cost more."""

    points: int = 12
    seed: int = 0
    workers: int | None = None
    prefers_speed: bool = False


class Found(NamedTuple):
    """The front, the choice for each of its points, one of which is chosen; whether the goal is met."""

    points: list[Point]
    choices: list[Choice]
    met: bool
    notes: list[str]

    @property
    def place(self) -> int:
        """Which of the points is chosen."""
        return next(number for number, point in enumerate(self.points) if point.chosen)


class Search:
    """One search over a subject."""

    def __init__(
        self,
        subject: Subject,
        predict: Predict,
        evaluate: Evaluate,
        goal: Goal,
        settings: Settings,
        progress: Progress | None = None,
    ):
        self.subject, self.goal, self.settings = subject, goal, settings
        self.progress, self._predict, self._evaluate = progress, predict, evaluate
        self.measured: dict[Choice, Measured] = {}
        self.prices = as_they_are(subject)
        self.dense: Choice = (0,) * len(subject.items)
        self.elements = sum(item.elements for item in subject.items)
        self.whole = subject.size(subject.plain(self.dense))
        # Bytes of all that is not chosen.
        self.rest = self.whole - self._stored(self.dense)
        # Of each candidate: bytes in the file, what counts for the budget, and what counts in the choice.
        self.sizes = self.spent = self.costs = self.prices.sizes

    def run(self) -> Found:
        """Measure what is good for the goal, and the front around it; then choose among all that was measured."""
        if self.goal.is_budget and self._taken(self.dense) <= self._budget():
            return self._as_it_is()
        self._learn()
        if self.goal.is_budget:
            self._under(self._budget())
        else:
            self._reaching()
        self._measure_front()
        found = self.best()
        assert found is not None  # the search would have said so
        return found

    def _as_it_is(self) -> Found:
        self._measure([self.dense])
        found = self._found(self.dense, True)
        note = "the model is within the budget and stays as it is: nothing is compressed, and a target has no effect"
        return found._replace(notes=[note, *found.notes])

    def _learn(self) -> None:
        """Predict the damages, and know what all candidates take; only damages are predicted anew later."""
        self.prices = self._predict(None, None)
        self.sizes = self._with_what_is_around(self.whole)
        self.spent = self.sizes if self.goal.bits is None else self.prices.sizes
        self.costs = self._slowed(self.spent) if self.settings.prefers_speed else self.spent
        self.prices = worthwhile(self.prices, self.costs)

    def best(self) -> Found | None:
        """The best of what is measured so far, without more work; None if nothing is within the budget."""
        if self.goal.is_budget:
            best = self._best_within(self._budget())
            return None if best is None else self._found(best, True)
        return self._found(*self._nearest()) if self.measured else None

    def _with_what_is_around(self, whole: int) -> list[list[float]]:
        """The stored bytes of each candidate, with those around them, for its operations and the heads of its blobs:
        for each way to make a form these are tried on the smallest item. `whole`: bytes of the original."""
        item = min(range(len(self.dense)), key=lambda number: self.subject.items[number].elements)
        around: dict[tuple[str, ...], int] = {(): 0}
        for index, candidate in enumerate(self.subject.items[item].candidates):
            if _verbs(candidate) not in around and self.prices.sizes[item][index] < math.inf:
                choice = (*self.dense[:item], index, *self.dense[item + 1 :])
                more = self.subject.size(self.subject.plain(choice)) - whole
                around[_verbs(candidate)] = more - self._stored(choice) + self._stored(self.dense)
        return [
            [size + around.get(_verbs(candidate), 0) for size, candidate in zip(row, item.candidates, strict=True)]
            for row, item in zip(self.prices.sizes, self.subject.items, strict=True)
        ]

    def _slowed(self, sizes: list[list[float]]) -> list[list[float]]:
        """Bytes, times the slowness of what they are."""
        return [
            [size * candidate.slowness for size, candidate in zip(row, item.candidates, strict=True)]
            for row, item in zip(sizes, self.subject.items, strict=True)
        ]

    def _stored(self, choice: Choice) -> int:
        return int(total(self.prices.sizes, choice))

    def _size(self, choice: Choice) -> int:
        """Bytes of the whole model, as far as they are known."""
        known = self.measured.get(choice)
        return int(self.rest + total(self.sizes, choice)) if known is None else known.size

    def _measure(self, choices: Sequence[Choice]) -> None:
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.measured]
        for number, (choice, found) in enumerate(zip(new, self._evaluate(new), strict=True), 1):
            self.measured[choice] = found
            if self.progress is not None:
                self.progress(number, len(new), "measuring models")

    def _order(self, choice: Choice) -> float:
        """A number that is greater the better the measured quality of a choice is."""
        return order(self.measured[choice].quality, self.goal.metric)

    # A budget of bytes.

    def _budget(self) -> int:
        """The bytes that a choice may take: of the whole model, or where bits are asked for, of its weights alone."""
        if self.goal.size is not None:
            return self.goal.size
        assert self.goal.bits is not None
        return math.floor(self.goal.bits * self.elements / 8)

    def _taken(self, choice: Choice) -> int:
        """What a choice takes of a budget, as far as it is known."""
        return self._size(choice) if self.goal.bits is None else self._stored(choice)

    def _for_weights(self, budget: int) -> int:
        """What a budget leaves for the weights, and a little more: what fits is known for sure once it is measured."""
        if self.goal.bits is not None:
            return budget
        return budget - self.rest + _ALIGNED * min(len(self.subject.items), _UNSURE)

    def _under(self, budget: int) -> None:
        """Measure choices that do not take more than `budget`."""
        smallest = math.ceil(least(self.spent, self.prices.damages))
        if smallest > self._for_weights(budget):
            raise ConfigError(self._too_small(smallest + (self.rest if self.goal.bits is None else 0)))
        chosen = self._fitting(budget)
        for _ in range(ROUNDS):
            self.prices = self._predict(chosen, self.prices)  # they add up only nearly
            before, chosen = chosen, self._fitting(budget)
            if chosen == before:
                break
        self._measure(self._alike(budget))
        self._climb(budget)

    def _too_small(self, smallest: int) -> str:
        if self.goal.size is not None:
            size = f"{self.goal.size:,} bytes"
            return f"the model can't be made as small as {size}: with these forms the least is about {smallest:,}"
        bits = math.ceil(800 * smallest / self.elements) / 100
        return f"{self.goal.bits:g} bits are too few: with these forms the least is {bits:.2f}"

    def _fitting(self, budget: int) -> Choice:
        """The choice of least predicted damage that, once made, does not exceed the budget."""
        limit = float(self._for_weights(budget))
        for _ in range(_CORRECTIONS):
            choice = allot(self.spent, self.prices.damages, limit, self.costs if self.settings.prefers_speed else None)
            if choice is None:
                break
            self._measure([choice])
            if (excess := self._taken(choice) - budget) <= 0:
                return choice
            # Alignment is known no better than this.
            limit = min(limit, total(self.spent, choice)) - excess
        smallest = steps(self.spent, self.prices.damages)[0][1]
        self._measure([smallest])
        if self._taken(smallest) > budget:
            raise ConfigError(self._too_small(self._taken(smallest)))
        return smallest

    def _alike(self, budget: int) -> list[Choice]:
        """Choices with one form for all weights that can take it: of those that fit, the two of least predicted damage,
        and the largest. Where few weights decide, the steps between sizes are coarse, and such a choice may fill a
        budget better."""
        found: dict[Choice, float] = {}
        for label in dict.fromkeys(candidate.label for item in self.subject.items for candidate in item.candidates):
            choice = tuple(
                self._there(number, next((k for k, one in enumerate(item.candidates) if one.label == label), 0))
                for number, item in enumerate(self.subject.items)
            )
            if total(self.spent, choice) <= self._for_weights(budget):
                found[choice] = total(self.prices.damages, choice)
        largest = [max(found, key=lambda choice: total(self.spent, choice))] if found else []
        return [*sorted(found, key=found.__getitem__)[:_ALIKE], *largest]

    def _there(self, item: int, index: int) -> int:
        """A candidate, or what beats it where that is so; dense where it can't be had."""
        spent, damages = self.spent[item], self.prices.damages[item]
        if damages[index] < math.inf or spent[index] == math.inf:
            return index if damages[index] < math.inf else 0
        others = (k for k, damage in enumerate(damages) if damage < math.inf and spent[k] <= spent[index])
        return min(others, key=damages.__getitem__, default=0)

    def _climb(self, budget: int) -> None:
        """From the best within a budget, measure changes of one or two items that are predicted to do least harm, as
        long as one of them turns out to be better. Few items are worth many attempts: there the prediction says
        least."""
        left = min(_ATTEMPTS, _ATTEMPTS_OF_ALL // len(self.subject.items))
        while left > 0 and (best := self._best_within(budget)) is not None:
            around = neighbours(self.spent, self.prices.damages, best, self._for_weights(budget))
            known = {self.dense, *self.measured}  # that the original is good needs no proof
            new = [choice for choice in around if choice not in known][: min(left, _AT_A_TIME)]
            if not new:
                break
            left -= len(new)
            self._measure(new)

    def _best_within(self, budget: int) -> Choice | None:
        """The best choice that is measured and takes no more than a budget; None if none does."""
        fitting = (choice for choice in self.measured if self._taken(choice) <= budget)
        return max(fitting, key=self._order, default=None)

    # A quality that must be kept.

    def _reaching(self) -> None:
        """Measure choices around the smallest that meets the goal."""
        for _ in range(ROUNDS):
            self.prices = self._predict(self._first_good(self._path()), self.prices)
        self._first_good(self._path())
        nearest, met = self._nearest()
        self._climb((self._size(nearest) if met else self.whole) - 1)  # something smaller may do, or something better

    def _nearest(self) -> tuple[Choice, bool]:
        """Of what is measured the smallest that meets the goal; if there is none, the best, and False."""
        good = [choice for choice in self.measured if self.meets(choice)]
        if not good:
            return max(self.measured, key=self._order), False
        return min(good, key=lambda choice: (self._size(choice), -self._order(choice))), True

    def _first_good(self, path: Sequence[Choice]) -> Choice:
        """By halving, the first choice of a path that meets the goal, as if all after it did; the last if none does."""
        low, high = -1, len(path) - 1
        while high - low > 1:
            middle = (low + high) // 2
            self._measure([path[middle]])
            if self.meets(path[middle]):
                high = middle
            else:
                low = middle
        self._measure([path[high]])
        return path[high]

    def meets(self, choice: Choice) -> bool:
        """Whether what was measured of a choice is as good as the goal asks for."""
        return self.goal.meets(self.measured[choice].quality.get(self.goal.metric, math.nan))

    def _path(self) -> list[Choice]:
        """The choices that are best for some price of a byte, from the smallest on, without the original."""
        found = [choice for _, choice in steps(self.costs, self.prices.damages)]
        return [choice for choice in found if choice != self.dense] or found

    # The front.

    def _measure_front(self) -> None:
        """Measure models from the smallest to nearly the original, in even steps of the logarithm of their sizes."""
        path = self._path()
        sizes = [self._size(choice) for choice in path]
        wanted = self.settings.points - 1
        if not wanted or sizes[0] >= sizes[-1]:
            return
        ratio = sizes[-1] / sizes[0]
        goals = [sizes[0] * ratio ** (number / wanted) for number in range(wanted)]
        places = [min(range(len(path)), key=lambda place: abs(sizes[place] - goal)) for goal in goals]
        self._measure([path[place] for place in places])

    def _found(self, chosen: Choice, met: bool) -> Found:
        """The measured choices that no other beats in both size and quality, the chosen one among them."""
        front: list[Choice] = []
        for choice in sorted(self.measured, key=lambda one: (self._size(one), -self._order(one))):
            if choice == chosen or not front or self._order(choice) > self._order(front[-1]):
                front.append(choice)
        points = [self._point(choice, choice == chosen) for choice in front]
        notes = list(self.subject.notes)
        unreached = [self.subject.items[item].name for item in self.prices.unreached]
        if unreached:
            notes.append(f"no output depends on {some(unreached)} in the samples: the damage is guessed from the error")
        return Found(points, front, met, notes)

    def _point(self, choice: Choice, chosen: bool) -> Point:
        found = self.measured[choice]
        weights = tuple(
            Chosen(
                name=item.name,
                shape=item.shapes[0],
                kind=item.kind,
                form=item.candidates[index].label,
                bits=8 * sizes[index] / item.elements,
                bytes=int(sizes[index]),
                damage=damages[index],
            )
            for item, index, sizes, damages in zip(
                self.subject.items, choice, self.prices.sizes, self.prices.damages, strict=True
            )
        )
        bits = 8 * self._stored(choice) / self.elements
        return Point(found.size, bits, found.quality, self.subject.recipe(choice), weights, chosen)


def _verbs(candidate: Candidate) -> tuple[str, ...]:
    return tuple(verb for verb, _ in candidate.steps)


def order(quality: Quality, metric: str) -> float:
    """A number that is greater the better a quality is by a metric; of the caller's own, more is better."""
    value = quality.get(metric, math.nan)
    if metric in METRICS:
        return METRICS[metric].order(value)
    return -math.inf if math.isnan(value) else value


def predictor(subject: Subject, samples: Sequence[Sample], settings: Settings, progress: Progress | None) -> Predict:
    """Predicts damages from samples: those of small changes, or half-way from the original to a choice. The mean of the
    derivative over that way gives the change of the outputs exactly, and half-way it is nearly its mean."""
    items = range(len(subject.items))
    places = [(item, piece) for item in items for piece in range(len(subject.items[item].shapes))]
    prices_of = functools.partial(
        predicted, subject, samples, seed=settings.seed, workers=settings.workers, progress=progress
    )

    def predict(at: Choice | None, among: Prices | None) -> Prices:
        most = FEWEST if among is None else MOST  # what is known roughly at first will be predicted anew
        for place in places if at is not None else ():
            subject.put(place, _half_way(subject, place, at[place[0]]))  # type: ignore[index]
        try:
            return prices_of(among=among, most=most)
        finally:
            for place in places if at is not None else ():
                subject.put(place, subject.original(place))

    return predict


def _half_way(subject: Subject, place: Place, candidate: int) -> Array:
    """A value half-way to one that does as much harm as the candidate will: what is fitted does less than the value
    without data."""
    dense, _, left = subject.value(place, candidate)
    exact = subject.original(place).astype(np.float32)
    return np.asarray(exact + np.float32(math.sqrt(left) / 2) * (dense - exact))
