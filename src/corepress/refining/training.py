"""The steps of a refinement: gradients, rates, what is held back, and the best state.

Each step draws samples and asks the teacher for its answers, and the student for its own. The gradient with regard to
each dense weight, summed over the batch, then goes through the rounding of that weight once. Values at cuts (`cuts.py`)
have a part in what is minimised, a whole at first and none at the end. Learning rates count steps between neighbours
(`algorithms/learned/stored.py`); they rise at the start and fall to zero along a cosine, and are the smaller the more
steps there are.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from corepress.errors import ConfigError
from corepress.refining.distance import distance, guide
from corepress.refining.student import Answers, Parts
from corepress.sequences import Sample

# How far indices and integers can move in all, in steps between neighbours, and other numbers, in their own; and how
# far in one step at most, where there are few. With more steps each is smaller: then noise averages out, and a long run
# does not wander off further than a short one.
LATENT_WAY, WAY = 3.0, 0.2
LATENT_RATE, RATE = 0.02, 0.01
_WARM_UP = 0.05
# How often the samples held back are looked at in all, and after how many looks without gain it is enough: nearly all,
# since much comes only as the rates fall, and before the first gain it never is.
_LOOKS, _PATIENCE = 20, 18
# Where the loss held back has grown by so much, the rates were too large for this network: from the best state on they
# are a third. While nothing was gained less is too much: what was fitted is near to a best state already, and large
# steps only lead away from it (MiniLM in 2 bits, fitted, then 400 steps of 8: loss 0.298 -> 0.259, so 0.255; with a
# third of the rates from the beginning 0.249).
_TOO_MUCH, _TOO_MUCH_AT_FIRST = 3.0, 1.1
_BETAS = (0.9, 0.95)
# How many new samples follow each that was given: few, seen again and again, would be learnt by heart.
_NEW = 3
# Numbers that the teacher answers to the samples held back, up to which they are kept in memory.
_REMEMBERED = 1 << 24


# What a run needs to go on: numbers, texts and tensors.
State = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How long: `steps`, or `seconds`, whichever ends first. `batch`: samples in a step. `seed`: of all chance."""

    steps: int
    seconds: float | None
    batch: int
    seed: int = 0


@dataclass
class Course:
    """How a refinement went: the distance on the samples held back before, at best and now; the steps done, and that
    of the best state; why it ended: "steps", "time", "no gain" or "stopped", by `stop`.

    `rate`: what learning rates are multiplied with. `back`: the step at which it last went back to the best state, 0
    for never. `seconds`: so long it took. `look`: the number of the last look at the samples held back; `looked`: how
    many there were since the best.
    """

    before: float
    after: float
    now: float
    steps: int = 0
    best: int = 0
    ended: str = "steps"
    stop: BaseException | None = None
    rate: float = 1.0
    back: int = 0
    seconds: float = 0.0
    look: int = 0
    looked: int = 0


class Answering(Protocol):
    """A teacher or a student: something that answers batches with some of its constants replaced.

    `at_once`: whether it takes several samples at once, or more of that kind, which a run that goes on sets again.
    """

    at_once: Any

    def batches(self, samples: Sequence[Any], most: int) -> Iterator[tuple[Any, int]]:
        """The samples as batches of at most so many, in the form that it takes; and how many each holds."""

    def __call__(self, batch: Any, constants: Mapping[str, Tensor], *, inside: bool = False) -> Answers:
        """`inside`: whether values at cuts are wanted."""


class Training:
    """A student, its teacher, and the samples.

    `draw`: gives one sample after another to learn from. `judged`: to judge by. `progress`: is called with the part
    done, from 0 to 1, and the distance on the latter.
    """

    def __init__(
        self,
        teacher: Answering,
        student: Answering,
        parts: Parts,
        draw: Iterator[Any],
        judged: Sequence[Any],
        settings: Settings,
        progress: Callable[[float, Course], None] | None,
    ):
        self.teacher, self.student, self.parts = teacher, student, parts
        self.draw, self.settings, self.progress = draw, settings, progress
        self.judged = [*student.batches(judged, settings.batch)]
        self._wanted: dict[int, list[Tensor]] = {}  # by the number of a batch, what the teacher answers
        latent = {id(p): p for part in parts.learning for p in part.module.latent}
        others = [p for part in parts.learning for p in part.module.parameters() if id(p) not in latent]
        groups = [
            {"params": [*latent.values()], "way": LATENT_WAY, "most": LATENT_RATE},
            {"params": others, "way": WAY, "most": RATE},
        ]
        self.optimizer = torch.optim.Adam([group for group in groups if group["params"]], betas=_BETAS, fused=True)

    def run(self, begun: Mapping[str, Any] | None = None, keep: Callable[[State], None] | None = None) -> Course:
        """Learn; the parts are left in the state that was best on the samples to judge by.

        `begun`: what `keep` was given of a run that ended early, from which this one goes on to the same bytes.
        `keep`: is called after each look at the samples held back.
        """
        settings, began = self.settings, time.monotonic()
        course = self._start() if begun is None else self._go_on(begun)
        spent = course.seconds

        def part_done() -> float:
            course.seconds = spent + time.monotonic() - began
            passed = course.seconds / settings.seconds if settings.seconds else 0.0
            return max(course.steps / settings.steps, passed)

        try:
            while course.ended != "no gain" and (done := part_done()) < 1:
                self.step(done, done / course.steps if course.steps else 1 / settings.steps, _eased(course))
                course.steps += 1
                done = part_done()
                if self.progress is not None:
                    self.progress(min(done, 1.0), course)
                if (look := math.floor(done * _LOOKS)) > course.look:
                    course.look = look
                    self._look(course)
                    if keep is not None:
                        keep(self._kept(course))
            if course.ended != "no gain":
                course.ended = "steps" if course.steps >= settings.steps else "time"
        except KeyboardInterrupt as stop:
            course.ended, course.stop = "stopped", stop
        self._put(self._best)
        return course

    def _start(self) -> Course:
        error = self.error()
        self._best = self._state()
        return Course(error, error, error)

    def _look(self, course: Course) -> None:
        """Judge, and remember the state if it is the best until now."""
        course.now = self.error()
        course.looked += 1
        if course.now < course.after:
            course.after, course.best, course.looked = course.now, course.steps, 0
            self._best = self._state()
        elif course.best and course.looked >= _PATIENCE:
            course.ended = "no gain"
        if not course.now <= (_TOO_MUCH if course.best else _TOO_MUCH_AT_FIRST) * course.after:
            course.rate /= 3
            course.back = course.steps
            self._put(self._best)
            self.optimizer.state.clear()

    def _kept(self, course: Course) -> State:
        """All that a run needs to go on from here, but for what it was made of."""
        return {
            "course": {field.name: getattr(course, field.name) for field in fields(course) if field.name != "stop"},
            "parts": self._state(),
            "best": self._best,
            "optimizer": self.optimizer.state_dict(),
            "at_once": (self.teacher.at_once, self.student.at_once),
        }

    def _go_on(self, begun: Mapping[str, Any]) -> Course:
        course = Course(**begun["course"])
        self._put(begun["parts"])
        self._best = begun["best"]
        self.optimizer.load_state_dict(begun["optimizer"])
        self.teacher.at_once, self.student.at_once = begun["at_once"]
        for _ in range(course.steps * self.settings.batch):
            next(self.draw)
        return course

    def step(self, done: float, part: float, rate: float = 1.0) -> float:
        """One step, which is this `part` of all, of which `done` is done. Returns the distance before it."""
        factor = rate * min(1.0, (done + _WARM_UP / 10) / _WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        for group in self.optimizer.param_groups:
            # The mean of the cosine's half wave is a half.
            group["lr"] = min(group["most"], 2 * group["way"] * part) * factor
        dense = self.parts.dense()
        leaves = {buffer: value.detach().requires_grad_() for buffer, value in dense.items()}
        batches = [*self.student.batches([next(self.draw) for _ in range(self.settings.batch)], self.settings.batch)]
        total = 0.0
        for batch, count in batches:
            with torch.no_grad():
                wanted = self.teacher(batch, {}, inside=True)
            answers = self.student(batch, leaves, inside=True)
            # First the blocks, then the model as a whole.
            guide(answers.inside, wanted.inside, (1 - done) * count / self.settings.batch)
            loss = distance(answers.outputs, wanted.outputs)
            (loss * (count / self.settings.batch)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) * count / self.settings.batch
        self.optimizer.zero_grad()
        reached = [buffer for buffer in dense if leaves[buffer].grad is not None]
        torch.autograd.backward([dense[b] for b in reached], [leaves[b].grad for b in reached])
        self.optimizer.step()
        return total

    @torch.no_grad()
    def error(self) -> float:
        """The distance on the samples to judge by, with what would be stored now."""
        dense = self.parts.dense()
        total = 0.0
        for number, (batch, count) in enumerate(self.judged):
            wanted = self._wanted.get(number) or self.teacher(batch, {}).outputs
            if sum(map(Tensor.numel, wanted)) * len(self.judged) <= _REMEMBERED:
                self._wanted[number] = wanted
            total += float(distance(self.student(batch, dense).outputs, wanted)) * count
        return total / sum(count for _, count in self.judged)

    def _put(self, states: Sequence[Mapping[str, Any]]) -> None:
        for part, state in zip(self.parts.learning, states, strict=True):
            part.module.load_state_dict(state)

    def _state(self) -> list[dict[str, Tensor]]:
        return [copy.deepcopy(part.module.state_dict()) for part in self.parts.learning]


def _eased(course: Course) -> float:
    """What learning rates are multiplied with. The first steps of Adam go as far as if all gradients agreed, and only
    the mean of several makes later ones short; what just fell to pieces would do so again."""
    return course.rate * (1 - _BETAS[0] ** (course.steps - course.back + 1) if course.back else 1)


def drawn(samples: Sequence[Sample], random: np.random.Generator, more: Iterator[Sample] | None) -> Iterator[Sample]:
    """Samples in a random order, again and again; after each of them some of `more`, if there are such."""
    if not samples:
        raise ConfigError("there is no sample to learn from")
    while True:
        for number in random.permutation(len(samples)):
            yield samples[int(number)]
            if more is not None:
                yield from islice(more, _NEW)
