"""What a search knows of a model: things to compress, forms that each can take, and a way to run what comes of it.

A package, a network and a PyTorch module each are a `Subject`; nothing else in this folder knows which one it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Sample = Mapping[str, Any]
# For each item, the index of its candidate.
Choice = tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A form that a weight could get.

    `label`: for people. `steps`: the verbs that make it, each with its arguments, as a recipe has them; none: it stays
    as it is. `slowness`: the factor by which its bytes count when speed matters, too.
    """

    label: str
    steps: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    slowness: float = 1.0


@dataclass(frozen=True)
class Item:
    """One thing to choose a form for: a weight, or several that share their data. The first candidate is dense.

    `name`: for people. `names`: those by which a recipe can name it. `kind`: of the operation that reads it.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    candidates: tuple[Candidate, ...]

    @property
    def elements(self) -> int:
        """Numbers that it holds."""
        return math.prod(self.shape)


class Value(NamedTuple):
    """What a candidate makes of a weight: the dense value that the model then computes with, and its stored bytes."""

    dense: Array
    size: int


class Part(NamedTuple):
    """A program that can be differentiated: a model, or one stage of a pipeline.

    `outputs`: what it computes of a sample, as tensors. `leaves`: its copies of the items' values, by the index of the
    item; a tensor may be changed in place. `samples`: its inputs.
    """

    outputs: Callable[[Sample], Sequence[Tensor]]
    leaves: Mapping[int, Tensor]
    samples: Sequence[Sample]


class Subject(Protocol):
    """A model that is searched."""

    @property
    def items(self) -> Sequence[Item]:
        """What there is to choose."""
        ...

    def original(self, item: int) -> Array:
        """The dense value of an item as it is now."""
        ...

    def value(self, item: int, candidate: int) -> Value:
        """What a candidate makes of an item. Raises `Skip` where it can't be had."""
        ...

    def parts(self, samples: Sequence[Sample]) -> Sequence[Part]:
        """The programs that `samples` run through, in order."""
        ...

    def answers(self, choice: Choice | None, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """The outputs by name for each sample, with every item in its chosen form; None: as the model is."""
        ...

    def make(self, choice: Choice) -> Any:
        """The model with every item in its chosen form, as the recipe of the choice makes it."""
        ...

    def size(self, model: Any) -> int:
        """Bytes of a model, all files included."""
        ...
