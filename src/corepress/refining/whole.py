"""A refinement as a whole, of packages and of modules: the training, what came of it, and what that gained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corepress.durations import seconds_of
from corepress.engine import Progress, Stopped
from corepress.errors import ConfigError
from corepress.refining.kept import Kept
from corepress.refining.result import Refinement
from corepress.refining.student import Parts
from corepress.refining.training import Answering, Course, Settings, Training
from corepress.verification import Verification
from corepress.version import __version__

# Of MiniLM, 22 million parameters and 32 tokens, so many take five minutes on two cores.
STEPS = 400

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What is refined.

    `same`: gives the compressed model as it was. `written`: gives it with what the parts hold now. `compare`: how near
    such a model is to the original on samples. `returned`: makes of such a model what the caller gets.
    """

    teacher: Answering
    student: Answering
    parts: Parts
    same: Callable[[], Any]
    written: Callable[[], Any]
    compare: Callable[[Any, Sequence[Any]], Verification]
    returned: Callable[[Any], Any]


@dataclass(frozen=True)
class Data:
    """Samples to learn from, those held back to judge by, and others to measure on at the end, if there are any."""

    learnt: Sequence[Any]
    judged: Sequence[Any]
    tested: Sequence[Any] | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of them."""
        few = "sample_data holds too few different samples to hold some back: all are learnt from"
        return () if self.judged else (few,)

    @property
    def measured(self) -> tuple[str, Sequence[Any]]:
        """What the numbers at the end are of, and its name."""
        if self.tested:
            return "test_data", self.tested
        return ("held back", self.judged) if self.judged else ("learnt from", self.learnt)


def settings_of(steps: int | None, time: float | str | None, batch: int, seed: int) -> Settings:
    """How long it takes. Raises ConfigError for numbers that make no sense."""
    for name, value in (("steps", steps), ("batch", batch)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name}={value}: it must be above 0")
    # As many as the time allows: no step is so short.
    return Settings(
        steps or (STEPS if time is None else 1 << 30), None if time is None else seconds_of(time), batch, seed
    )


def refined(
    subject: Subject,
    data: Data,
    settings: Settings,
    draw: Iterator[Any],
    judges: Sequence[Any],
    *,
    resume: str | Path | None = None,
    asked: Callable[[], Mapping[str, str]],
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> Refinement:
    """Let a student learn, and say what that gained.

    `draw`: gives one sample after another to learn from. `judges`: what the best state is chosen by. `asked`: what the
    refinement depends on, by words for people. `notes`: what else should be known.

    Raises Stopped where Ctrl-C ends it, with the best until then.
    """
    parts = subject.parts
    training = Training(
        subject.teacher, subject.student, parts, draw, judges, settings, _teller(settings, progress)
    )  # fmt: skip
    if resume is None:
        course = training.run()
    else:
        kept = Kept(resume, {**asked(), "version of corepress": __version__})
        course = training.run(kept.get(), kept.put)
    model = subject.written() if course.best else subject.same()
    kind, measured = data.measured
    before, after = (subject.compare(one, measured) for one in (subject.same(), model))
    said = [*data.notes, *notes]
    if kind == "held back" and (after.worst.snr or 0) < (before.worst.snr or 0):
        said.append(
            "the samples held back lost, and new ones made of them gained: whatever made the small model was probably "
            "fitted to these samples, so that only others can tell (test_data)"
        )
    for note in (*said, *(f"{name} is not refined: {reason}" for name, reason in parts.frozen.items())):
        log.warning(note)
    refinement = Refinement(
        model=subject.returned(model),
        before=before,
        after=after,
        measured_on=kind,
        loss=(course.before, course.after),
        steps=course.steps,
        best=course.best,
        ended=course.ended,
        learnt=len(parts.learning),
        frozen=parts.frozen,
        notes=tuple(said),
    )
    if course.stop is not None:
        raise Stopped(refinement) from course.stop
    return refinement


def _teller(settings: Settings, progress: Progress | None) -> Any:
    def tell(done: float, course: Course) -> None:
        if progress is not None:
            total = settings.steps if settings.seconds is None else 1000
            now = course.steps if settings.seconds is None else int(done * total)
            losses = f"{course.now:.4g} (start {course.before:.4g}, best {course.after:.4g})"
            progress(now, total, f"step {course.steps}, loss held back {losses}")

    return tell
