"""The verdict: what `verify` found, for people and for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from corepress.metrics import METRICS, Row

if TYPE_CHECKING:
    from rich.table import Table

OPERATION_SNR = 20.0


@dataclass(frozen=True)
class Verification:
    """How two models compare: `rows` for the outputs, `operations` for all values in program order, when asked for.

    `weak`: the inputs were random, so that good numbers prove little. `distinct`: how many of the `samples` differ
    from all others; None where that was not counted. `notes`: sentences on what makes the evidence weaker, such as
    outputs that are the same for every sample.
    """

    rows: tuple[Row, ...]
    operations: tuple[Row, ...]
    metric: str
    threshold: float
    samples: int
    weak: bool
    distinct: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        """The outputs that miss the threshold."""
        return tuple(row for row in self._judged if not _meets(row, self.metric, self.threshold))

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def worst(self) -> Row:
        """The output with the worst value of the metric."""
        sign = -1 if self.metric == "max_abs" else 1
        return min(self._judged, key=lambda row: _order(sign * getattr(row, self.metric)))

    @property
    def first_wrong(self) -> Row | None:
        """The first operation, in program order, whose SNR is below 20 dB."""
        return next((row for row in self.operations if row.snr is not None and row.snr < OPERATION_SNR), None)

    @property
    def counted(self) -> str:
        """How many samples there were, in words: "4 samples, 1 distinct"."""
        text = f"{self.samples} sample{'s' if self.samples != 1 else ''}"
        return text if self.distinct in (None, self.samples) else f"{text}, {self.distinct} distinct"

    @property
    def summary(self) -> str:
        """The verdict and the notes, in a few sentences."""
        label, unit, _ = METRICS[self.metric]
        worst = self.worst
        limit = "above" if self.metric == "max_abs" else "below"
        text = f"output {worst.name!r}: {label} {getattr(worst, self.metric):.4g}{unit}, "
        text += f"not {limit} {self.threshold:g}{unit}" if self.ok else f"{limit} {self.threshold:g}{unit}"
        text += f", on {self.counted}"
        if (wrong := self.first_wrong) is not None:
            text += f"; the first below {OPERATION_SNR:g} dB is {wrong.kind} {wrong.name!r} ({wrong.snr:.1f} dB)"
        return "; ".join((text, *self.notes))

    @property
    def _judged(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if getattr(row, self.metric) is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: numbers that are not finite become the words "inf", "-inf" and "nan"."""
        wrong = self.first_wrong
        return {
            "ok": self.ok,
            "metric": self.metric,
            "threshold": self.threshold,
            "samples": self.samples,
            "distinct_samples": self.distinct,
            "random_inputs": self.weak,
            "notes": list(self.notes),
            "summary": self.summary,
            "outputs": [_plain(row) for row in self.rows],
            "operations": [_plain(row) for row in self.operations],
            "first_wrong": None if wrong is None else wrong.name,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table of the outputs, after the operations if these were compared."""
        from corepress.tables import NamesTable

        table = NamesTable(
            *("value", "computed by", "SNR dB", "PSNR dB", "cosine", "top-1", "max difference"),
            lesser=("PSNR dB", "max difference", "top-1", "computed by"),
        )
        for row in (*self.operations, *self.rows):
            cells = (_cell(row.snr, ".1f"), _cell(row.psnr, ".1f"), _cell(row.cosine, ".5f"), _cell(row.top1, ".3f"))
            table.add_row(row.name, row.kind or "output", *cells, _cell(row.max_abs, ".4g"))
        return table


def _meets(row: Row, metric: str, threshold: float) -> bool:
    # Written so that NaN never passes.
    value: float = getattr(row, metric)
    return value <= threshold if metric == "max_abs" else value >= threshold


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _plain(row: Row) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(row).items()
    }


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
