"""The verdict: what `verify` found, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from corepress.json_numbers import plain
from corepress.language import Position
from corepress.metrics import METRICS, Row

if TYPE_CHECKING:
    from rich.table import Table

OPERATION_SNR = 20.0
# Steps that a table shows, beside the worst.
_STEPS = 6


@dataclass(frozen=True)
class Verification:
    """How two models compare. `verify` makes it; `summary` is the verdict in a sentence.

    Args:
        rows: One for each output.
        operations: One for each value in program order, where that was asked for.
        metric: What decides.
        threshold: From where on it is good.
        samples: How many inputs.
        weak: The inputs were random, so that good numbers prove little.
        distinct: How many of the samples differ from all others; None where that was not counted.
        notes: Sentences on what makes the evidence weaker, such as outputs that are the same for every sample.
        by_step: Of sequences, the rows of each step, over all samples; empty without any.
        by_position: Of a language model, what it predicts after each place of the texts; empty of others.

    Examples:
        >>> result = cto.verify("model.mlpackage", "small.mlpackage", "samples.npz", per_op=True)
        >>> result.ok, result.first_wrong is None
        (True, True)
    """

    rows: tuple[Row, ...]
    operations: tuple[Row, ...]
    metric: str
    threshold: float
    samples: int
    weak: bool
    distinct: int | None = None
    notes: tuple[str, ...] = ()
    by_step: tuple[tuple[Row, ...], ...] = ()
    by_position: tuple[Position, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        """The outputs that miss the threshold."""
        decides = METRICS[self.metric]
        judged = _judged(self.rows, self.metric)
        return tuple(row for row, value in judged if not decides.meets(value, self.threshold))

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def worst(self) -> Row:
        """The output with the worst value of the metric."""
        worst = self.worst_of(self.metric)
        assert worst is not None  # `verify` refuses a comparison without a number to judge by
        return worst[0]

    def worst_of(self, metric: str) -> tuple[Row, float] | None:
        """The output with the worst value of a metric, and this value; None where no output has the metric."""
        order = METRICS[metric].order
        return min(_judged(self.rows, metric), key=lambda judged: order(judged[1]), default=None)

    @property
    def worst_step(self) -> tuple[int, Row] | None:
        """The number of the step with the worst value of the metric, from 0, and its output with that; None without
        sequences."""
        order = METRICS[self.metric].order
        judged = [
            (order(value), number, row)
            for number, rows in enumerate(self.by_step)
            for row, value in _judged(rows, self.metric)
        ]
        worst = min(judged, key=lambda one: one[:2], default=None)
        return None if worst is None else worst[1:]

    @property
    def first_wrong(self) -> Row | None:
        """The first operation, in program order, whose SNR is below 20 dB."""
        return next((row for row in self.operations if row.snr is not None and row.snr < OPERATION_SNR), None)

    @property
    def counted(self) -> str:
        """How many samples there were, in words: "4 samples, 1 distinct"."""
        text = f"{self.samples} sample{'s' if self.samples != 1 else ''}"
        return text if self.distinct in (None, self.samples) else f"{text}, {self.distinct} distinct"

    def __str__(self) -> str:
        return self.summary

    @property
    def summary(self) -> str:
        """The verdict and the notes, in a few sentences, which is also what `print` shows."""
        label, unit, _, at_most = METRICS[self.metric]
        worst = self.worst
        limit = "above" if at_most else "below"
        text = f"output {worst.name!r}: {label} {worst.of(self.metric):.4g}{unit}, "
        text += f"not {limit} {self.threshold:g}{unit}" if self.ok else f"{limit} {self.threshold:g}{unit}"
        text += f", on {self.counted}"
        if (step := self.worst_step) is not None and len(self.by_step) > 1:
            number, row = step
            text += f"; of {len(self.by_step)} steps the worst is step {number} ({row.of(self.metric):.4g}{unit})"
        if (wrong := self.first_wrong) is not None:
            text += f"; the first below {OPERATION_SNR:g} dB is {wrong.kind} {wrong.name!r} ({wrong.snr:.1f} dB)"
        elif self.operations:
            count = len(self.operations)
            text += f"; of the {count} values that both models compute, none is below {OPERATION_SNR:g} dB"
        return "; ".join((text, *self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: numbers that are not finite become the words "inf", "-inf" and "nan"."""
        wrong, step = self.first_wrong, self.worst_step
        return {
            "ok": self.ok,
            "metric": self.metric,
            "threshold": plain(self.threshold),
            "samples": self.samples,
            "distinct_samples": self.distinct,
            "random_inputs": self.weak,
            "notes": list(self.notes),
            "summary": self.summary,
            "outputs": [plain(asdict(row)) for row in self.rows],
            "steps": [[plain(asdict(row)) for row in rows] for rows in self.by_step],
            "positions": [plain(asdict(position)) for position in self.by_position],
            "worst_step": None if step is None else step[0],
            "operations": [plain(asdict(row)) for row in self.operations],
            "first_wrong": None if wrong is None else wrong.name,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table of the operations, if these were compared, the outputs, and some steps of sequences."""
        from corepress.tables import NamesTable

        # What a network only reshapes for its output is not shown twice.
        rows = (*(row for row in self.operations if row.kind != "output"), *self.rows, *self._shown_steps())
        probabilities = ("KL nats",) if any(row.kl is not None for row in rows) else ()
        language = ("perplexity",) if any(row.perplexity is not None for row in rows) else ()
        more = (*probabilities, *language)
        table = NamesTable(
            *("value", "computed by", "SNR dB", "PSNR dB", "cosine", "top-1", *more, "largest difference"),
            lesser=("PSNR dB", "largest difference", "KL nats", "top-1", "computed by"),
        )
        for row in rows:
            cells = [_cell(row.snr, ".1f"), _cell(row.psnr, ".1f"), _cell(row.cosine, ".5f"), _cell(row.top1, ".3f")]
            if probabilities:
                cells.append(_cell(row.kl, ".5f"))
            if language:
                cells.append(_perplexities(row))
            table.add_row(row.name, row.kind or "output", *cells, _cell(row.max_abs, ".4g"))
        return table

    def _shown_steps(self) -> Iterator[Row]:
        """The rows of a few steps, evenly chosen, and of the worst; or of a few places of texts read at once."""
        last = len(self.by_step) - 1
        if last < 1:
            yield from self._shown_positions()
            return
        chosen = {round(place * last / (_STEPS - 1)) for place in range(_STEPS)}
        if self.worst_step is not None:
            chosen.add(self.worst_step[0])
        for number in sorted(chosen):
            yield from (replace(row, kind=f"step {number}") for row in self.by_step[number])

    def _shown_positions(self) -> Iterator[Row]:
        last = len(self.by_position) - 1
        for number in sorted({round(place * last / (_STEPS - 1)) for place in range(_STEPS)}) if last > 0 else ():
            at = self.by_position[number]
            yield Row(
                "prediction", f"token {at.position}", top1=at.top1, kl=at.kl, perplexity=at.perplexity,
                original_perplexity=at.original_perplexity,
            )  # fmt: skip


def _judged(rows: Iterable[Row], metric: str) -> list[tuple[Row, float]]:
    """The outputs that have a metric, with its value."""
    return [(row, value) for row in rows if (value := row.of(metric)) is not None]


def _perplexities(row: Row) -> str:
    """That of the original, and that of the copy."""
    if row.perplexity is None or row.original_perplexity is None:
        return "-"
    return f"{row.original_perplexity:.4g} → {row.perplexity * row.original_perplexity:.4g}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
