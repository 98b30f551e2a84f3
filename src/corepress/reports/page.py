"""The page of a report: gathers what is shown, in plain values, for the template. What is missing has no section."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from corepress import metrics
from corepress.metrics import METRICS, worded
from corepress.reports.document import label, measured, render, short
from corepress.reports.rows import Report, Row
from corepress.sizes import size
from corepress.verification.result import OPERATION_SNR
from corepress.weights import worded_bits

if TYPE_CHECKING:
    from corepress.linting import Findings
    from corepress.reports.answers import Answers
    from corepress.verification import Verification

# How much a page holds of what a large model has: rows of tables, points of charts, weights with a histogram, and names
# of weights that were left alone for one reason.
TABLE, POINTS, HISTOGRAMS, NAMES = 100, 3000, 40, 5


class Chosen(Protocol):
    """What one weight got, as `corepress.searching` has it."""

    @property
    def name(self) -> str: ...
    @property
    def damage(self) -> float: ...


class Point(Protocol):
    """A model that a search found, as `corepress.searching` has it."""

    @property
    def size(self) -> int: ...
    @property
    def bits(self) -> float: ...
    @property
    def quality(self) -> Mapping[str, float]: ...
    @property
    def chosen(self) -> bool: ...
    @property
    def weights(self) -> Sequence[Chosen]: ...


class Activations(Protocol):
    """Which operations compute with integers, as `corepress.searching` has it."""

    @property
    def summary(self) -> str: ...


class Searched(Protocol):
    """What a search gives back, as `corepress.searching` has it."""

    @property
    def points(self) -> Sequence[Point]: ...
    @property
    def metric(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def activations(self) -> Activations | None: ...
    @property
    def tested(self) -> Mapping[str, float]: ...
    @property
    def met(self) -> bool: ...
    @property
    def notes(self) -> Sequence[str]: ...


def page(
    task: str,
    weights: Report,
    *,
    names: tuple[str, str],
    models: tuple[Any, Any] | None = None,
    verification: Verification | None = None,
    basis: str = "",
    answers: Answers | None = None,
    search: Searched | None = None,
    findings: Findings | None = None,
    command: str = "",
    recipe: str = "",
    notes: Sequence[str] = (),
    translate: Callable[[str], str] = str,
) -> str:
    """The page of one command, as HTML. What is None or empty leaves its section out.

    `task`: what was done, such as "palettize". `weights`: what became of each weight. `names`: of the files of both
    models. `models`: both models, for the histograms of their weights. `verification`, `basis`: how the outputs
    compare, and on which inputs in words. `answers`: what watched that verification. `search`: the result of a search.
    `findings`: of `corepress.lint`, on the new model. `command`, `recipe`: to repeat it. `notes`: what
    else is to be said, such as what would measure more. `translate`: puts sentences into the words of the caller.
    """
    rows = list(enumerate(weights.rows))
    charts = _charts(rows, verification, search)
    histograms = _histograms(rows, models)
    if histograms:
        charts["histogram"] = histograms.pop("chart")
    return render(
        "page.html",
        title=f"corepress {task}: {Path(names[1]).name}",
        task=task,
        names=names,
        weights=weights,
        sizes=(size(weights.size_before), size(weights.size_after)),
        verification=verification,
        basis=translate(basis),
        outputs=_outputs(verification),
        judged=_judged(verification, translate),
        table=_table(rows),
        left_alone=_left_alone(weights, translate),
        histograms=histograms,
        operations=_operations(verification),
        answers=answers,
        search=_found(search, translate),
        hazards=None if findings is None else list(_hazards(findings)),
        command=command,
        recipe=recipe,
        notes=[translate(note) for note in notes],
        charts=charts,
        limits={"points": POINTS, "table": TABLE, "good": OPERATION_SNR},
    )


def _charts(
    rows: Sequence[tuple[int, Row]], verification: Verification | None, search: Searched | None
) -> dict[str, Any]:
    from corepress.reports import figures

    found: dict[str, Any] = {}
    shown = [_weight(place, row) for place, row in _kept(rows, POINTS)]
    if shown:
        found["bits"] = figures.bits(shown, len(rows))
    if lost := [row for row in shown if _is_drawn(row["snr"])]:
        found["damage"] = figures.damage(lost, len(rows))
    if verification is not None and verification.operations:
        wrong = verification.first_wrong
        values = [(place, row) for place, row in enumerate(verification.operations) if _is_drawn(row.snr)]
        drawn = [
            {"place": place, "name": short(row.name), "kind": short(row.kind), "snr": row.snr}
            for place, row in _worst(values, POINTS, lambda row: row is not wrong)
        ]
        if drawn:
            found["operations"] = figures.operations(drawn, OPERATION_SNR, None if wrong is None else short(wrong.name))
    if search is not None:
        points = [point for point in _points(search) if math.isfinite(point["quality"])]
        if points:
            found["front"] = figures.front(points, label(search.metric))
        harms = {one.name: one.damage for point in search.points if point.chosen for one in point.weights}
        predicted = [
            {**_weight(place, row), "snr": metrics.decibels(1, harms[row.name])}
            for place, row in _kept(rows, POINTS)
            if harms.get(row.name, 0) > 0
        ]
        if predicted:
            found["harm"] = figures.harm(predicted, len(rows))
    return found


def _is_drawn(snr: float | None) -> bool:
    return snr is not None and not math.isnan(snr)


def _kept(rows: Sequence[tuple[int, Row]], count: int) -> list[tuple[int, Row]]:
    """In program order at most so many rows: those that lost most, and after these the largest."""
    if len(rows) <= count:
        return list(rows)
    order = sorted(rows, key=lambda one: (_lost(one[1]), -one[1].bytes_before))
    return sorted(order[:count])


def _worst(rows: Sequence[tuple[int, Any]], count: int, last: Callable[[Any], bool]) -> list[tuple[int, Any]]:
    """The same of operations; those for which `last` is false are among them in any case."""
    order = sorted(rows, key=lambda one: (last(one[1]), one[1].snr))
    return sorted(order[:count], key=lambda one: one[0])


def _lost(row: Row) -> float:
    """A number that is the less the more a weight lost."""
    return math.inf if row.snr is None or math.isnan(row.snr) else row.snr


def _weight(place: int, row: Row) -> dict[str, Any]:
    form = f"{row.compression} {worded_bits(row.bits)}" if row.compression else row.dtype
    return {
        "place": place,
        "name": short(f"{row.function}: {row.name}" if row.function not in ("", "main") else row.name),
        "bits": row.bits_per_weight,
        "form": form,
        "shape": " x ".join(map(str, row.shape)),
        "size": size(row.bytes_after),
        "before": size(row.bytes_before),
        "snr": row.snr,
        "readers": short(", ".join(dict.fromkeys(row.consumers))),
    }


def _table(rows: Sequence[tuple[int, Row]]) -> dict[str, Any]:
    return {"rows": [_weight(place, row) for place, row in _kept(rows, TABLE)], "all": len(rows)}


def _histograms(rows: Sequence[tuple[int, Row]], models: tuple[Any, Any] | None) -> dict[str, Any]:
    """The chart of the weights that lost most, with what is said of each; empty where there is none to draw."""
    from corepress.reports import figures
    from corepress.reports.histograms import histogram

    if models is None:
        return {}
    before, after = (_by_name(model) for model in models)
    bins: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    choices: list[dict[str, Any]] = []
    changed = [one for one in rows if one[1].changed]
    for place, row in sorted(changed, key=lambda one: (_lost(one[1]), -one[1].bytes_before)):
        key = row.function, row.name
        made = histogram(before[key], after[key]) if key in before and key in after else None
        if made is None:
            continue
        weight = f"{place}"
        choices.append({**_weight(place, row), "key": weight, "words": made.words})
        edges = zip(made.edges, made.edges[1:], made.shares, strict=False)
        bins += [{"weight": weight, "low": low, "high": high, "share": share} for low, high, share in edges]
        # Hundreds of marks as strong as a few would hide the bars. Where there are none, one that nobody sees: Vega
        # warns of a scale without numbers.
        strength = 0.35 if len(made.marks) > 32 else 1 if made.marks else 0
        places = made.marks or made.edges[:1]
        marks += [{"weight": weight, "value": value, "strength": strength} for value in places]
        if len(choices) == HISTOGRAMS:
            break
    if not choices:
        return {}
    chart = figures.histogram(bins, marks, choices[0]["key"])
    return {"chart": chart, "choices": choices, "all": len(changed)}


def _by_name(model: Any) -> dict[tuple[str, str], Any]:
    return {(getattr(weight, "function", ""), weight.name): weight for weight in model.weights()}


def _outputs(verification: Verification | None) -> list[dict[str, Any]]:
    """For each output its metrics in words, by their names."""
    if verification is None:
        return []
    return [
        {"name": short(row.name), "metrics": {metric: measured(metric, row.of(metric)) for metric in METRICS}}
        for row in verification.rows
    ]


def _judged(verification: Verification | None, translate: Callable[[str], str]) -> dict[str, Any] | None:
    """The verdict, in words."""
    if verification is None:
        return None
    worst, metric = verification.worst, METRICS[verification.metric]
    return {
        "ok": verification.ok,
        "metric": metric.label,
        "worst": measured(verification.metric, worst.of(verification.metric)),
        "threshold": f"{verification.threshold:g}{metric.unit}",
        "limit": "at most" if metric.at_most else "at least",
        "summary": translate(verification.summary),
        "notes": [translate(note) for note in verification.notes],
    }


def _operations(verification: Verification | None) -> dict[str, Any] | None:
    if verification is None or not verification.operations:
        return None
    wrong = verification.first_wrong
    low = [row for row in verification.operations if row.snr is not None and row.snr < OPERATION_SNR]
    return {"all": len(verification.operations), "low": len(low), "first_wrong": wrong}


def _left_alone(weights: Report, translate: Callable[[str], str]) -> list[dict[str, Any]]:
    """The reasons for which weights were left alone, the most frequent first, with some names of each."""
    rows = weights.skipped
    counts = Counter(row.skipped for row in rows)
    found = []
    for reason, count in counts.most_common():
        held = sorted((row for row in rows if row.skipped == reason), key=lambda row: -row.bytes_after)
        found.append(
            {
                "reason": translate(reason),
                "count": count,
                "bytes": size(sum(row.bytes_after for row in held)),
                "names": [short(row.name) for row in held[:NAMES]],
            }
        )
    return found


def _found(search: Searched | None, translate: Callable[[str], str]) -> dict[str, Any] | None:
    """What a search found, in words."""
    if search is None:
        return None
    return {
        "points": _points(search),
        "metric": label(search.metric),
        "met": search.met,
        "summary": translate(search.summary),
        "activations": "" if search.activations is None else search.activations.summary,
        "tested": {worded(metric)[0]: measured(metric, value) for metric, value in search.tested.items()},
        "notes": [translate(note) for note in search.notes],
    }


def _points(search: Searched) -> list[dict[str, Any]]:
    return [
        {"size": point.size / 1e6, "quality": point.quality[search.metric], "bits": point.bits, "chosen": point.chosen}
        for point in search.points
    ]


def _hazards(findings: Findings) -> Iterator[dict[str, Any]]:
    """The rules that apply, each with the places that it was found at."""
    for rule, items in findings.by_rule().items():
        names = list(dict.fromkeys(short(item.name) for item in items))
        yield {"rule": rule, "count": len(items), "names": names[:NAMES], "found": short(items[0].found)}
