"""How far the fit of a layer follows what the samples say: chosen by what was held back from it.

A fit is tried with the Hessian dampened more or less, with all, half or nothing of the correction for the errors of the
layers before, and with or without the mean of its error in the bias. The sums over the vectors that were held back
price each (`Statistics.error`), so that nothing is run, and some rows of the weight tell for all. What keeps most of
the gain and follows the samples less is taken instead of the best (as by the rule of one standard error, Breiman et al.
1984): other inputs differ more from the samples held back than these do from those learnt from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.fitted.statistics import Shrinkage, Statistics
from corepress.coreml.action import Action, Value
from corepress.coreml.calibrated.fit import UNSUITED, WORSE, Given
from corepress.formats.mlprogram import Weight
from corepress.split import FEW
from corepress.weights import CompressedWeight, decompress

log = logging.getLogger(__name__)

# Weakest first.
DAMPENINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHARES = (1.0, 0.5, 0.0)
_FIRST = DAMPENINGS.index(0.1)
# Of what a fit gains over the form without data so much may be lost by following the samples less.
_PART = 0.2
# Rows by which a way is chosen. They don't know of each other, and a few hundred tell for all.
_LEAST_ROWS, _MOST_ROWS = 64, 512


class _Tried(NamedTuple):
    """A form, what it adds to the bias, and what both cost on the vectors held back."""

    how: Shrinkage
    form: CompressedWeight
    shift: NDArray[np.float32] | None
    error: float

    def given(self, unfitted: str = "") -> Given:
        return Given(self.form, unfitted, self.shift, self.how)


def fitted_as(weight: Weight, action: Action, learnt: Statistics | None, how: Shrinkage, reason: str = "") -> Given:
    """The form that is fitted in a known way; where there is a `reason` not to, the one without data."""
    form = None if learnt is None or reason else action.fit(weight.read(), learnt.shrunk(how))
    unfitted = "" if form is not None else reason or UNSUITED
    form = action(weight) if form is None else form
    shift = learnt.shift(weight.dense(), decompress(form)) if learnt is not None and how.intercept else None
    return Given(form, unfitted, shift, how)


def best_form(weight: Weight, action: Action, learnt: Statistics, judged: Statistics, folds: bool) -> Given:
    """The form of least error on vectors that it was not fitted to, or the one without data if that is better.

    `folds`: whether a bias can take up the mean of the error.
    """
    whole, intercepts = _Trials(action, weight.read(), weight.dense(), learnt, judged), (False, True)[: 1 + folds]
    unfitted = action(weight)
    plain = min((whole.tried(Shrinkage(intercept=own), unfitted) for own in intercepts), key=_error)
    how = Shrinkage(intercept=folds)
    # By few vectors one can tell whether a fit is any good, but not the best of many.
    if judged.vectors >= FEW:
        how = _best_way(*whole.some(plain), intercepts) or how
    best = whole.fit(how)
    if best is None:
        return plain.given(UNSUITED)
    # Written so that NaN never wins.
    if best.error < plain.error:
        return best.given()
    log.info("%s: %s", weight.name, WORSE)
    return plain.given(WORSE)


class _Trials:
    """The fits of a weight, each made once. `value`, `exact`: as it is stored, and dense."""

    def __init__(self, action: Action, value: Value, exact: NDArray[Any], learnt: Statistics, judged: Statistics):
        self.action, self.value, self.exact = action, value, exact
        self.learnt, self.judged = learnt, judged
        self._fits: dict[Shrinkage, _Tried | None] = {}

    def fit(self, how: Shrinkage) -> _Tried | None:
        """The form that follows the samples so far; None where it can't be fitted."""
        if how not in self._fits:
            form = self.action.fit(self.value, self.learnt.shrunk(how))
            self._fits[how] = None if form is None else self.tried(how, form)
        return self._fits[how]

    def tried(self, how: Shrinkage, form: CompressedWeight) -> _Tried:
        dense = decompress(form)
        shift = self.learnt.shift(self.exact, dense) if how.intercept else None
        return _Tried(how, form, shift, self.judged.error(self.exact, dense, shift))

    def some(self, plain: _Tried) -> tuple[_Trials, _Tried]:
        """The same of some rows, by which a way can be chosen for all; and what the form without data costs there."""
        layout, value = self.learnt.layout, self.value
        rows = some_rows(layout.rows, self.action.together(layout.rows))
        if layout.groups > 1 or not isinstance(value, np.ndarray) or len(rows) == layout.rows:
            return self, plain
        axis = 1 if layout.transposed else 0
        exact, dense = (np.take(array, rows, axis) for array in (self.exact, decompress(plain.form)))
        known = (statistics.of_rows(len(rows)) for statistics in (self.learnt, self.judged))
        part = _Trials(self.action, np.take(value, rows, axis), exact, *known)
        shift = None if plain.shift is None else plain.shift[rows]
        return part, plain._replace(shift=shift, error=part.judged.error(exact, dense, shift))


def some_rows(count: int, together: int) -> NDArray[np.intp]:
    """A quarter of the rows, or so: whole groups of so many neighbours, spread evenly."""
    groups = -(-min(max(count // 4, _LEAST_ROWS), _MOST_ROWS) // together)
    if 2 * groups * together > count:
        return np.arange(count)
    first = np.arange(groups) * (count // together) // groups * together
    return (first[:, None] + np.arange(together)).reshape(-1)


def _best_way(trials: _Trials, plain: _Tried, intercepts: Sequence[bool]) -> Shrinkage | None:
    """How far samples are to be followed; None where there is no fit."""
    share = _share(trials.exact, trials.learnt, trials.judged)
    fits = [trials.fit(Shrinkage(DAMPENINGS[_FIRST], share, own)) for own in intercepts]
    made = [found for found in fits if found is not None]
    return _dampened(min(made, key=_error), plain.error, trials.fit).how if made else None


def _error(tried: _Tried) -> float:
    return math.inf if math.isnan(tried.error) else tried.error


def _share(exact: NDArray[Any], learnt: Statistics, judged: Statistics) -> float:
    """How much of the correction for the layers before is best, before anything is rounded."""
    if learnt.drift is None:
        return 1.0
    costs = {
        share: judged.error(exact, learnt.shrunk(Shrinkage(share=share)).refitted(exact.astype(np.float32)))
        for share in SHARES
    }
    return min(costs, key=lambda share: costs[share])


def _dampened(start: _Tried, plain: float, fit: Callable[[Shrinkage], _Tried | None]) -> _Tried:
    """The best of fits with more or less dampening, from one on, as long as it gets better."""
    found = {_FIRST: start}

    def at(place: int) -> float:
        if place not in found and 0 <= place < len(DAMPENINGS):
            made = fit(start.how._replace(dampening=DAMPENINGS[place]))
            if made is not None:
                found[place] = made
        return _error(found[place]) if place in found else math.inf

    best = _FIRST
    while at(best + 1) < at(best):
        best += 1
    while best <= _FIRST and at(best - 1) < at(best):
        best -= 1
    allowed = at(best) + _PART * max(plain - at(best), 0.0)
    return found[best + 1] if at(best + 1) <= allowed else found[best]
