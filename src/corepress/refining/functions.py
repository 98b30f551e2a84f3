"""Several functions of a package, or stages of a pipeline, as one teacher and one student.

Weights that functions share get the gradients of the samples of each. A stage of a pipeline learns from what the stages
of the original before it give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from corepress.errors import ConfigError, UnsupportedError
from corepress.formats.mlprogram import Model
from corepress.refining.cuts import cuts
from corepress.refining.student import Answers, Batched, Parts, check_same
from corepress.runtime import load
from corepress.runtime.program import Program
from corepress.runtime.walk import each_program
from corepress.sequences import Sample


class Taken(NamedTuple):
    """A sample of the function, or stage, of this name."""

    name: str
    sample: Sample


@dataclass(frozen=True)
class Pair:
    """A function, or stage, of both models, with what it is given in the samples to learn from and to judge by."""

    teacher: Program
    student: Program
    learnt: Sequence[Sample]
    judged: Sequence[Sample]


class Several:
    """Programs by name as one, of which a batch is for one of them. A buffer has the name of its program before it."""

    def __init__(self, of: Mapping[str, Batched]):
        self._of = of

    @property
    def at_once(self) -> dict[str, bool]:
        """By name, whether it takes several samples at once."""
        return {name: one.at_once for name, one in self._of.items()}

    @at_once.setter
    def at_once(self, given: Mapping[str, bool]) -> None:
        for name, one in self._of.items():
            one.at_once = given[name]

    def batches(self, samples: Sequence[Taken], most: int) -> Iterator[tuple[Any, int]]:
        """The samples of each by themselves."""
        for name, one in self._of.items():
            mine = [taken.sample for taken in samples if taken.name == name]
            for batch, count in one.batches(mine, most):
                yield (name, batch), count

    def __call__(self, batch: Any, constants: Mapping[str, Tensor], *, inside: bool = False) -> Answers:
        """`inside`: whether values at cuts are wanted."""
        name, own = batch
        mine = {}
        for key, value in constants.items():
            place, _, buffer = key.rpartition("/")
            if place == name:
                mine[buffer] = value
        return self._of[name](own, mine, inside=inside)


def pairs_of(
    original: Model,
    small: Model,
    learnt: Sequence[Taken],
    judged: Sequence[Taken],
    device: str,
) -> dict[str, Pair]:
    """The functions that there are samples for, or the stages of a pipeline, by the names that weights know them by.

    Raises ConfigError where both models are not of one, and UnsupportedError where none is a program.
    """
    found: dict[str, Pair] = {}
    for function in dict.fromkeys(taken.name for taken in learnt):
        teacher, student = (
            load(model, device, precision="float32", function=function or None) for model in (original, small)
        )
        own = [[taken.sample for taken in part if taken.name == function] for part in (learnt, judged)]
        students = {name: stage for name, stage, _ in each_program(student, [])}
        for name, stage, values in each_program(teacher, [*own[0], *own[1]]):
            if name not in students:
                raise ConfigError(f"{small.path}: it has no {name!r} as the original has: is it the same model?")
            check_same(stage, students[name], small.path)
            found[name] = Pair(stage, students[name], values[: len(own[0])], values[len(own[0]) :])
    if not found:
        raise UnsupportedError(f"{small.path}: it holds no ML program that could learn")
    return found


def batched(pairs: Mapping[str, Pair], parts: Parts) -> tuple[Several, Several]:
    """The teacher and the student. `parts`: the weights that learn, at which programs are cut."""
    teachers, students = {}, {}
    for name, pair in pairs.items():
        keys = (key.rpartition("/") for part in parts.learning for key in part.buffers)
        known, buffers = pair.teacher.kinds(), {buffer for place, _, buffer in keys if place == name}
        names = [value for value in cuts(pair.student.module.plan, buffers) if value in known]
        teachers[name], students[name] = Batched(pair.teacher, names), Batched(pair.student, names)
    return Several(teachers), Several(students)


def alternating(draws: Mapping[str, Iterator[Sample]]) -> Iterator[Taken]:
    """One sample of each in turn, without end."""
    while True:
        for name, draw in draws.items():
            yield Taken(name, next(draw))
