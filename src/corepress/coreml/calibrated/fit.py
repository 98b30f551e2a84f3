"""One weight and what samples say about it to a compressed form: fitted to them, where that is better."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from corepress.coreml.action import Action
from corepress.formats.mlprogram import Weight
from corepress.weights import CompressedWeight, decompress

log = logging.getLogger(__name__)

UNSUITED = "weights of its operation, or in this form, can't be fitted to samples"
WORSE = "fitted to the samples, it was worse on those held back"


class Known(Protocol):
    """What some samples say about a weight: `Statistics` or `Sensitivity` of `algorithms.fitted.statistics`."""

    def error(self, weight: NDArray[Any], other: NDArray[Any]) -> float:
        """What `other` in place of the weight costs, to compare forms by."""


@dataclass(frozen=True, eq=False)
class Given:
    """The action that gives a form which was found before. `unfitted`: why samples have no part in it, if so."""

    form: CompressedWeight
    unfitted: str = ""

    def __call__(self, weight: Weight) -> CompressedWeight:
        return self.form


def fitted_form(weight: Weight, action: Action, learnt: Known | None, judged: Known | None) -> Given:
    """The form that is fitted to what is learnt about a weight; the one without data where there is nothing to fit to,
    or where it is better by what is known to judge by, if anything."""
    form = None if learnt is None else action.fit(weight.read(), learnt)
    if form is None:
        return Given(action(weight), UNSUITED)
    if judged is None:
        return Given(form)
    exact, plain = weight.dense(), action(weight)
    # Written so that NaN never wins.
    if judged.error(exact, decompress(form)) < judged.error(exact, decompress(plain)):
        return Given(form)
    log.info("%s: %s", weight.name, WORSE)
    return Given(plain, WORSE)
