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

from corepress.fields import some
from corepress.language import Words
from corepress.sequences import Sample

Array = NDArray[Any]
# The outputs by name for a sample; of a sequence those of each step.
Answer = Mapping[str, Any] | tuple[Mapping[str, Any], ...]
# For each item, the index of its candidate.
Choice = tuple[int, ...]
# An item, and which of its tensors: by their indices.
Place = tuple[int, int]


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
    """One thing to choose a form for: a weight; or several that have one name, in the stages of a pipeline.

    `name`: for people. `names`: those by which a recipe can name it. `shapes`: of its tensors; what is read in several
    places is one of them. `kind`: of the operation that reads it. The first of the `candidates` is dense.
    """

    name: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kind: str
    candidates: tuple[Candidate, ...]

    @property
    def elements(self) -> int:
        """Numbers that it holds."""
        return sum(math.prod(shape) for shape in self.shapes)


class Value(NamedTuple):
    """What a candidate makes of a tensor: the dense value that the model then computes with, and its stored bytes.

    `left`: where the candidate will be fitted to samples, the part of this value's damage that fitting leaves.
    """

    dense: Array
    size: int
    left: float = 1.0


class Part(NamedTuple):
    """A program that can be differentiated: a model, or one stage of a pipeline.

    `outputs`: what it computes of a sample, as tensors. `leaves`: where it holds the items' tensors, maybe in several
    copies, which may be changed in place. `samples`: its inputs.
    """

    outputs: Callable[[Sample], Sequence[Tensor]]
    leaves: Mapping[Place, Sequence[Tensor]]
    samples: Sequence[Sample]


class Subject(Protocol):
    """A model that is searched."""

    @property
    def items(self) -> Sequence[Item]:
        """What there is to choose."""
        ...

    def original(self, place: Place) -> Array:
        """The dense value of a tensor as it is now."""
        ...

    def value(self, place: Place, candidate: int) -> Value:
        """What a candidate makes of a tensor. Raises `Skip` where it can't be had."""
        ...

    def parts(self, samples: Sequence[Sample]) -> Sequence[Part]:
        """The programs that `samples` run through, in order."""
        ...

    def put(self, place: Place, dense: Array) -> None:
        """Let the programs of `parts` compute with another value of a tensor from now on."""
        ...

    def loaded(self, model: Any | None) -> Any:
        """A model that `make` made, ready to run; None: the one that is searched, as it was given."""
        ...

    def answer(self, loaded: Any, sample: Sample) -> Answer:
        """The outputs, by name, that a loaded model has for a sample, or for each step of a sequence."""
        ...

    def recipe(self, choice: Choice) -> dict[str, Any]:
        """How others make the model of a choice, as plain data."""
        ...

    def plain(self, choice: Choice) -> Any:
        """A model of the same size as that of `make`, made without data where that takes long."""
        ...

    def draft(self, choice: Choice) -> Any:
        """A model to measure: that of `make`, or where this takes long one that is hardly worse."""
        ...

    def make(self, choice: Choice) -> Any:
        """The model with every item in its chosen form, as the recipe of the choice makes it."""
        ...

    @property
    def words(self) -> Words | None:
        """What makes it a model of language, or None."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on what is left as it is, and why."""
        ...

    def size(self, model: Any) -> int:
        """Bytes of a model, all files included."""
        ...


def left_alone(reasons: Mapping[str, str]) -> list[str]:
    """Sentences on weights that stay as they are. `reasons`: by name, why."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{some(names)} {'is' if len(names) == 1 else 'are each'} left alone: {reason}"
        for reason, names in by_reason.items()
    ]
