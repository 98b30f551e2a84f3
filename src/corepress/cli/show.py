"""What the commands print: progress, closing tables, JSON. rich is imported only where it is needed (`terminal.py`)."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.cli import streams
from corepress.cli.words import translate
from corepress.sizes import size

if TYPE_CHECKING:
    from corepress.cli.check import Judgement
    from corepress.coreml.activations.exceptions import Found
    from corepress.engine import Progress
    from corepress.linting import Findings
    from corepress.linting.rule import Group
    from corepress.refining.result import Refinement
    from corepress.reports import Report
    from corepress.reports.comparison import Comparison
    from corepress.verification import Verification

_SHOWN_CLASSES = 5
_MOMENT = 0.3  # seconds
_SECONDS = 30  # between two lines of progress
_NOTHING: Mapping[str, str] = {}


@contextlib.contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar on standard error for work that takes longer than a moment; where that is no terminal, a line now
    and then of work that takes minutes."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    latest: tuple[Any, ...] = (0, None, "")
    update: Progress | None = None
    with contextlib.ExitStack() as shown:

        def appear() -> None:
            nonlocal update
            with contextlib.suppress(Exception):  # work goes on without a bar
                from corepress.cli.terminal import bar

                update = shown.enter_context(bar(title))
                update(*latest)

        def tell(*state: Any) -> None:
            nonlocal latest
            latest = state
            if update is not None:
                update(*state)

        # rich takes longer to import than a small model to compress.
        timer = threading.Timer(_MOMENT, appear)
        timer.daemon = True
        timer.start()
        try:
            yield tell
        finally:
            timer.cancel()
            timer.join()


def _lines(title: str) -> Progress:
    """A line for each tenth of the work: none in the first half minute, and at most one in each."""
    last, tenths = time.monotonic(), 0

    def tell(done: int, total: int | None, name: str) -> None:
        nonlocal last, tenths
        now, reached = time.monotonic(), 10 * done // (total or 1)
        if total and now - last >= _SECONDS and reached > tenths:
            print(f"{title}: {done} of {total}, {name}", file=sys.stderr, flush=True)
            last, tenths = now, reached

    return tell


def facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print labels, each with its text; the same with rich, where there are colours or a width to heed, and without."""
    plain = _aligned(rows)
    if plain is None or sys.stdout.isatty() or os.environ.get("FORCE_COLOR"):
        from corepress import tables
        from corepress.cli.terminal import console

        console().print(tables.facts(rows))
    else:
        print(plain)


def _aligned(rows: Sequence[tuple[str, str]]) -> str | None:
    """Labels and texts in columns; None where characters may be of other widths than one."""
    cells = [
        (label if first else "", line)
        for label, text in rows
        for first, line in zip(itertools.chain([True], itertools.repeat(False)), text.split("\n"), strict=False)
    ]
    if not all(cell.isascii() and cell.isprintable() for row in cells for cell in row):
        return None
    widths = [max(map(len, column), default=0) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip(" ") for row in cells)


def summary(
    report: Report,
    output: Path,
    as_json: bool,
    judgement: Judgement | None = None,
    hazards: Sequence[Group] = (),
    page: Mapping[str, str] = _NOTHING,
    found: Found | None = None,
    refined: Refinement | None = None,
    hint: str = "",
) -> None:
    """The closing table of a compression, or the whole report as JSON; with how the outputs compare, if they were.
    `hazards`: what devices are reported to make of the weights that were changed. `page`: what is said of a page that
    was written about it. `found`: the operations whose activations stay in floating point, if such were searched.
    `refined`: what a refinement at last gained. `hint`: what to do next."""
    if as_json:
        extra: dict[str, Any] = {} if judgement is None else {"verification": judgement.to_dict()}
        extra |= {} if found is None else {"exceptions": found.to_dict()}
        extra |= {} if refined is None else {"refinement": refined.to_dict()}
        extra |= {"hint": hint} if hint else {}
        content = report.to_dict()
        for row in content["weights"]:
            row |= {key: translate(row[key]) for key in ("skipped", "unfitted")}
        streams.document({"output": str(output), **content, **reported_data(hazards), **extra, **page})
        return
    worst = report.worst
    facts([
        ("written to", str(output)),
        ("size", f"{size(report.size_before)} -> {size(report.size_after)}, ratio {report.ratio:.2f}"),
        ("bits per weight", f"{report.bits_per_weight:.2f} over all weights"),
        *([("system", f"{report.target_before} -> {report.target}")] if report.target != report.target_before else []),
        *_counted(report),
        ("worst SNR", "-" if worst is None else f"{worst.snr:.1f} dB ({worst.name})"),
        *([("left alone", _reasons(row.skipped for row in report.skipped))] if report.skipped else []),
        *([("left by last step", _reasons(row.skipped for row in report.left_by_last))] if report.left_by_last else []),
        *_largest_left(report),
        *_unfitted(report),
        *reported(hazards),
        *([] if found is None else _exceptions(found)),
        *([] if refined is None else [("refined", f"{refined.summary}; {translate(refined.basis)}")]),
        *([] if judgement is None else _compared(judgement)),
        *([("hint", hint)] if hint else []),
        *page.items(),
    ])  # fmt: skip


def _counted(report: Report) -> Iterator[tuple[str, str]]:
    """The lines that say how many weights this run compressed, or made dense, and how many were compressed before."""
    dense = _made_dense(report)
    changed = report.decompressed if dense else report.compressed
    yield "decompressed" if dense else "compressed", f"{len(changed)} of {len(report.rows)} weights"
    if report.compressed_before:
        count = len(report.compressed_before)
        yield "compressed before", "1 weight, left as it was" if count == 1 else f"{count} weights, left as they were"


def _exceptions(found: Found) -> Iterator[tuple[str, str]]:
    """The lines that say which operations stay in floating point, and how much noise each alone would add."""
    harms = [f"{100 * left.harm:.2g} %" for left in found.left]
    widths = [max(map(len, column), default=0) for column in ([left.name for left in found.left], harms)]
    rows = [
        f"{left.name:{widths[0]}}  {harm:>{widths[1]}} of noise  {left.type}"
        for left, harm in zip(found.left, harms, strict=True)
    ]
    yield "left in float", "\n".join([f"{len(found.left)} of {found.operations} operations", *rows])
    yield "activations", f"ranges by {found.way.words}"


def _made_dense(report: Report) -> bool:
    return bool(report.decompressed) and not report.compressed


def _largest_left(report: Report) -> Iterator[tuple[str, str]]:
    """The line that names the largest weight left alone, with its reason."""
    row = report.largest_left
    if row is not None and not _made_dense(report):
        shape = "x".join(map(str, row.shape))
        reason = f": {translate(row.skipped)}" if row.skipped else ""
        yield "largest left", f"{row.name} ({shape}, {size(row.bytes_after)}){reason}"


def _unfitted(report: Report) -> Iterator[tuple[str, str]]:
    """The lines that say which weights have no part in the samples, and which were fitted to few, if there are such."""
    if report.unfitted:
        yield "not fitted", _reasons(row.unfitted for row in report.unfitted)
    few = [row for row in report.rows if row.few]
    if few:
        yield "few samples", f"{len(few)} weights, such as {few[0].name}: {few[0].few}; --augment makes more"


def reported(hazards: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """The line that names the rules of `lint` that apply to what was changed, each with the number of places."""
    if hazards:
        named = (f"{rule.id} ({rule.severity} on {'/'.join(rule.devices)}: {len(found)})" for rule, found in hazards)
        yield "devices", f"{', '.join(named)}; corepress lint says what was reported"


def reported_data(hazards: Sequence[Group]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "hazards": [
            {"rule": rule.id, "severity": rule.severity, "devices": rule.devices, "count": len(found)}
            for rule, found in hazards
        ]
    }


def _compared(judgement: Judgement) -> Iterator[tuple[str, str]]:
    """The lines of a closing table that say how far the outputs moved, at worst, and on which inputs."""
    from corepress.verification import METRICS

    verification = judgement.verification
    for metric in dict.fromkeys(("snr", "cosine", verification.metric)):
        label, unit, *_ = METRICS[metric]
        if (worst := verification.worst_of(metric)) is not None:
            row, value = worst
            shown = f"{value:.1f}" if unit == " dB" else f"{value:.5f}"
            yield (
                f"output {label}",
                f"{shown}{unit} ({row.name}; {judgement.basis})",
            )
    yield from (("note", translate(note)) for note in verification.notes)


def verification(result: Verification, as_json: bool, page: Mapping[str, str] = _NOTHING) -> None:
    """How two models compare: a table and the verdict, or JSON. `page`: as in `summary`."""
    if as_json:
        facts = result.to_dict()
        facts |= {"summary": translate(result.summary), "notes": [translate(note) for note in result.notes], **page}
        streams.document(facts)
        return
    from corepress.cli.terminal import console

    console().print(result.table())
    if result.ok:
        console().print(translate(result.summary), markup=False)
    for name, path in page.items():
        console().print(f"{name}: {path}", markup=False, highlight=False)


def comparison(result: Comparison, as_json: bool, page: Mapping[str, str] = _NOTHING) -> None:
    """How several models compare: a table, and what makes it weaker, or JSON. `page`: as in `summary`."""
    notes = [translate(note) for note in result.notes]
    if as_json:
        streams.document({**result.to_dict(), "notes": notes, **page})
        return
    from corepress.cli.terminal import console

    console().print(result.table())
    for line in (*notes, *(f"{name}: {path}" for name, path in page.items())):
        console().print(line, markup=False, highlight=False)


def findings(found: Findings, as_json: bool) -> None:
    """What the rules found in a model, or that they found nothing, and what that is worth."""
    if as_json:
        streams.document(found.to_dict())
        return
    # Where there is something, the command fails with that sentence.
    summary = [] if found.items else [("found", found.summary)]
    facts([*found.rows(), *summary, *(("note", note) for note in found.all_notes)])


def outputs(answers: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """What a model answered in its last step: shapes and ranges of arrays, labels, the likeliest classes."""
    described = {name: _described(value) for name, value in answers[-1].items()}
    if as_json:
        streams.document({"steps": len(answers), "outputs": described})
        return
    from corepress.cli.terminal import console
    from corepress.tables import NamesTable

    table = NamesTable("output", "", " ", sentences=("", " "))
    for name, facts in described.items():
        for number, (key, fact) in enumerate(facts.items()):
            text = f"{fact:.6g}" if isinstance(fact, float) else str(fact)
            table.add_row("" if number else name, key, text)
    if len(answers) > 1:
        console().print(f"the last of {len(answers)} steps:")
    console().print(table)


def targets(rows: list[dict[str, str]]) -> None:
    """What each system can hold, one fact in a line, which a narrow terminal has room for."""
    from corepress.cli.terminal import console
    from corepress.tables import NamesTable

    (first, *others) = rows[0]
    table = NamesTable(first, "", " ", sentences=(" ",))
    for row in rows:
        for number, key in enumerate(others):
            table.add_row("" if number else row[first], key, row[key])
        table.add_section()
    console().print(table)


def _described(value: Any) -> dict[str, Any]:
    import numpy as np

    if isinstance(value, Mapping):
        likeliest = sorted(value.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES]
        return {str(label): float(score) for label, score in likeliest}
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic | int | float) else None
    if array is None or array.dtype.kind not in "biuf":
        return {"value": str(value)}
    facts: dict[str, Any] = {"shape": "x".join(map(str, array.shape)) or "scalar", "dtype": str(array.dtype)}
    if array.size:
        facts |= {"min": float(array.min()), "max": float(array.max()), "mean": float(array.mean(dtype=np.float64))}
    return facts


def _reasons(given: Iterable[str]) -> str:
    """Each reason in a line of its own, after how many weights it holds for."""
    return "\n".join(f"{count}: {reason}" for reason, count in Counter(map(translate, given)).most_common())
