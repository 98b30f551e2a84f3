"""What a compression does with one weight: without data, or fitted to what samples say about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, ClassVar

from numpy.typing import NDArray

from corepress.coreml.choose import DENSE_FIRST
from corepress.engine import Skip
from corepress.formats.mlprogram import Weight
from corepress.weights import CompressedWeight

Value = NDArray[Any] | CompressedWeight


class Evidence(Enum):
    """What an action can be fitted to."""

    INPUTS = "the vectors that a weight is multiplied with: `algorithms.fitted.statistics.Statistics`"
    SENSITIVITY = "how much the outputs depend on each element: `algorithms.fitted.statistics.Sensitivity`"


class Action(ABC):
    """What to do with one weight. Equal ones do the same.

    `verb`: what becomes of a weight, for messages. `joint_forms`: the forms of compressed weights that it can compress
    further. `evidence`: what its `fit` learns from; None for an action without data.
    """

    verb: ClassVar[str]
    joint_forms: ClassVar[tuple[str, ...]]
    evidence: ClassVar[Evidence | None] = None

    @classmethod
    @abstractmethod
    def on(cls, weight: Weight, config: Any, named: bool) -> Action:
        """The action on a weight, by the configuration that was chosen for it; `named`: by its exact name.

        Raises `Skip` for a weight that is left alone.
        """

    def __call__(self, weight: Weight) -> CompressedWeight:
        """The form of a weight, without data. Raises `Skip`, or another CorepressError, where it stays as it is."""
        form = self.compress(weight.read())
        if form is None:
            raise Skip(f"it is {weight.compression} already, which can't be {self.verb} further: {DENSE_FIRST}")
        return form

    def adapted(self, shape: tuple[int, ...]) -> str:
        """How what was asked is changed to suit a shape, for messages; empty where it is done as asked."""
        return ""

    def together(self, rows: int) -> int:
        """How many neighbouring rows of so many, output channels, have something in common, such as a table; 1 where
        they don't, or all have."""
        return 1

    @abstractmethod
    def compress(self, value: Value) -> CompressedWeight | None:
        """The form of a value, without data; None for one that is compressed in a way that allows no more."""

    def fit(self, value: Value, statistics: Any) -> CompressedWeight | None:
        """The form that suits the `evidence` about the weight; None where only the form without data will do."""
        return None


def worth_it(form: CompressedWeight, value: NDArray[Any], adapted: str) -> CompressedWeight:
    """The form of a value. Raises `Skip` where smaller groups or blocks, to which it was `adapted`, would take more
    bytes than they save."""
    if adapted and form.nbytes >= value.nbytes:
        raise Skip(f"its channels divide into {adapted} only, which would take more bytes than they save")
    return form
