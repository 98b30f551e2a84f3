"""What a refinement gave: the model, and how near its answers are to the original's before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corepress.json_numbers import plain
from corepress.metrics import METRICS, Row
from corepress.verification.result import Verification

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = ("snr", "cosine", "kl", "top1")
_ENDS = {
    "steps": "all steps were done",
    "time": "the time was up",
    "no gain": "the samples held back gained nothing any more",
    "stopped": "it was stopped",
}


@dataclass(frozen=True)
class Refinement:
    """A refined model, and how it came about.

    Args:
        model: Of the kind that was given as `small` (for a path: a `corepress.Model`).
        before: How near the compressed model's answers were to the original's: a row for each output.
        after: The same of the refined model.
        measured_on: "test_data", "held back", or "learnt from" where nothing else was there to measure on.
        loss: What was minimised of the outputs, on the samples held back and on new ones that are made of them, before
            and after: the energy of the difference over that of the original's, or of probabilities the divergence.
        steps: Steps that were done.
        best: The step whose state was kept, since it was the best on the samples to judge by; 0 is the start.
        ended: Why it ended: "steps", "time", "no gain" or "stopped".
        learnt: How many constants learn.
        frozen: By name, why compressed weights do not.
        notes: Sentences on what should be known besides.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> better = cto.refine("model.mlpackage", "small.mlpackage", samples, steps=20)
        >>> better.after.worst.snr >= better.before.worst.snr
        True
    """

    model: Any
    before: Verification
    after: Verification
    measured_on: str
    loss: tuple[float, float]
    steps: int
    best: int
    ended: str
    learnt: int
    frozen: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether anything was learnt that is kept."""
        return self.best > 0

    @property
    def basis(self) -> str:
        """On what the numbers were measured."""
        count = self.after.counted
        return {
            "test_data": f"{count} of test_data",
            "held back": f"{count} held back, by which the best state was chosen",
            "learnt from": f"{count} that were learnt from, which proves little",
        }[self.measured_on]

    @property
    def summary(self) -> str:
        """What was gained, in a sentence."""
        end = f"{self.steps} steps, {_ENDS[self.ended]}"
        if not self.improved:
            return f"nothing was gained, and the model stays as it was ({end})"
        new = min(self.after.rows, key=_snr)
        old = next(row for row in self.before.rows if row.name == new.name)
        return f"output {new.name!r}: SNR {_snr(old):.1f} to {_snr(new):.1f} dB ({end})"

    def __str__(self) -> str:
        return self.summary

    def table(self) -> Table:
        """The outputs before and after, for people."""
        from rich.table import Table

        rows = [*zip(self.before.rows, self.after.rows, strict=True)]
        shown = [name for name in _SHOWN if any(row.of(name) is not None for pair in rows for row in pair)]
        table = Table("output", *(f"{METRICS[name].label} {when}" for name in shown for when in ("before", "after")))
        for pair in rows:
            table.add_row(pair[0].name, *(_text(row.of(name), name) for name in shown for row in pair))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        words = ("measured_on", "loss", "steps", "best", "ended", "learnt", "improved", "summary")
        kept = {word: plain(getattr(self, word)) for word in words}
        rows = {"before": self.before.to_dict()["outputs"], "after": self.after.to_dict()["outputs"]}
        samples = {"samples": self.after.samples}
        return {**kept, **samples, **rows, "frozen": dict(self.frozen), "notes": list(self.notes)}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)


def _snr(row: Row) -> float:
    return -float("inf") if row.snr is None else row.snr


def _text(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.4g}{METRICS[metric].unit}"
