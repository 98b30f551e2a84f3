"""How far the fit of a layer follows what the samples say: chosen by what was held back from it.

A fit is tried with the Hessian dampened more or less, with all, half or nothing of the correction for the errors of the
layers before, and with or without the mean of its error in the bias. The sums over the vectors that were held back
price each (`Statistics.error`), so that nothing is run. What keeps most of the gain and follows the samples less is
taken instead of the best (as by the rule of one standard error, Breiman et al. 1984): other inputs differ more from
the samples held back than these do from those learnt from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.fitted.statistics import Shrinkage, Statistics
from corepress.coreml.action import Action
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
    value, exact = weight.read(), weight.dense()

    def tried(how: Shrinkage, form: CompressedWeight) -> _Tried:
        dense = decompress(form)
        shift = learnt.shift(exact, dense) if how.intercept else None
        return _Tried(how, form, shift, judged.error(exact, dense, shift))

    def fit(how: Shrinkage) -> _Tried | None:
        form = action.fit(value, learnt.shrunk(how))
        return None if form is None else tried(how, form)

    unfitted, intercepts = action(weight), (False, True) if folds else (False,)
    plain = min((tried(Shrinkage(intercept=own), unfitted) for own in intercepts), key=_error)
    # By few vectors one can tell whether a fit is any good, but not the best of many.
    choosing = judged.vectors >= FEW
    starts = [Shrinkage(intercept=folds)]
    if choosing:
        share = _share(exact, learnt, judged)
        starts = [Shrinkage(DAMPENINGS[_FIRST], share, own) for own in intercepts]
    fits = [found for start in starts if (found := fit(start)) is not None]
    if not fits:
        return plain.given(UNSUITED)
    best = min(fits, key=_error)
    if choosing:
        best = _dampened(best, plain.error, fit)
    # Written so that NaN never wins.
    if best.error < plain.error:
        return best.given()
    log.info("%s: %s", weight.name, WORSE)
    return plain.given(WORSE)


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
