"""One weight and what samples say about it to a compressed form: fitted to them, where that is better."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.statistics import Shrinkage
from corepress.coreml.action import Action
from corepress.formats.mlprogram import Weight
from corepress.weights import CompressedWeight, decompress

Place = tuple[str, str]

PLAINLY = Shrinkage()

log = logging.getLogger(__name__)

UNSUITED = "weights of its operation, or in this form, can't be fitted to samples"
WORSE = "fitted to the samples, it was worse on those held back"


class Known(Protocol):
    """What some samples say about a weight: `Statistics` or `Sensitivity` of `algorithms.fitted.statistics`."""

    def error(self, weight: NDArray[Any], other: NDArray[Any]) -> float:
        """What `other` in place of the weight costs, to compare forms by."""


@dataclass(frozen=True, eq=False)
class Given:
    """The action that gives a form which was found before.

    `unfitted`: why samples have no part in it, if so. `shift`: what the bias of its operation takes up, a number for
    each output channel. `how`: how far the samples were followed.
    """

    form: CompressedWeight
    unfitted: str = ""
    shift: NDArray[np.float32] | None = None
    how: Shrinkage = PLAINLY

    def __call__(self, weight: Weight) -> CompressedWeight:
        return self.form


@dataclass
class Decided:
    """What was decided about weights, by their functions and the names of their outputs.

    `unfitted`: why samples have no part in them. `ways`: how far the fit of others follows the samples. `biases`: new
    values of biases, which take up what forms shift. `few`: for fits to few vectors, to how many that count, and the
    columns of the weight.
    """

    unfitted: dict[Place, str] = field(default_factory=dict)
    ways: dict[Place, Shrinkage] = field(default_factory=dict)
    biases: dict[Place, Tensor] = field(default_factory=dict)
    few: dict[Place, tuple[int, int]] = field(default_factory=dict)


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
