"""The page of a comparison: several packages of one model, size against quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import Any

from corepress.linting import RULES
from corepress.metrics import METRICS
from corepress.reports import figures
from corepress.reports.comparison import Compared, Comparison, shown_metrics
from corepress.reports.document import label, measured, render, short


def comparison_page(comparison: Comparison, *, command: str = "", translate: Callable[[str], str] = str) -> str:
    """The page, as HTML. `command`: to repeat it; `translate`: puts sentences into the words of the caller."""
    metrics = shown_metrics(comparison)
    rows = [_row(number, one, metrics) for number, one in enumerate(comparison.models)]
    charts: dict[str, Mapping[str, Any]] = {}
    drawn = [point for number, one in enumerate(comparison.models) if (point := _point(number, one, comparison.metric))]
    if drawn:
        charts["models"] = figures.models(drawn, label(comparison.metric))
    rules = {rule.id: rule for rule in RULES}
    return render(
        "comparison.html",
        title=f"corepress compare: {short(comparison.models[0].name)}",
        rows=rows,
        metrics=[METRICS[metric].label for metric in metrics],
        metric=METRICS[comparison.metric],
        samples=comparison.samples,
        random=comparison.random_inputs,
        notes=[translate(note) for note in comparison.notes],
        hazards=[
            {"rule": rules[name], "letters": [row["letter"] for row in rows if name in row["hazards"]]}
            for name in dict.fromkeys(name for one in comparison.models for name in one.hazards)
        ],
        command=command,
        charts=charts,
    )


def letter(number: int) -> str:
    """A, B, C ... and numbers after Z."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def _row(number: int, one: Compared, metrics: list[str]) -> dict[str, Any]:
    values = [measured(metric, one.worst(metric)) for metric in metrics]
    if number == 0:
        values = ["the original", *([""] * (len(metrics) - 1))][: len(metrics)]
    return {
        "letter": letter(number),
        "name": short(one.name),
        "size": one.size,
        "bits": one.bits_per_weight,
        "target": one.target,
        "values": values,
        "hazards": one.hazards,
    }


def _point(number: int, one: Compared, metric: str) -> dict[str, Any] | None:
    """Where a model lies in the chart; None of one without a finite value, such as the original."""
    value = one.worst(metric)
    if value is None or not math.isfinite(value):
        return None
    return {"letter": letter(number), "name": short(one.name), "size": one.size / 1e6, "quality": value}
