"""Progress bars and tables on the terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from corepress.coreml.engine import Progress
    from corepress.mlprogram import Model
    from corepress.reports import Report

_SHOWN_WEIGHTS = 40


def console() -> Console:
    """Standard output; wide enough for a table when it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, soft_wrap=False, highlight=False)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar on standard error, silent when that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    # The closing table counts what was skipped, so the warnings would only tear the bar.
    logging.getLogger("corepress").setLevel(logging.ERROR)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[name]}"),
    )
    with Bar(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(title, total=None, name="")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, name=name)


def summary(report: Report, output: Path, as_json: bool) -> None:
    """The closing table of a compression, or the whole report as JSON."""
    if as_json:
        print(json.dumps({"output": str(output), **report.to_dict()}, indent=2))
        return
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    worst = report.worst
    for label, text in (
        ("written to", str(output)),
        ("size", f"{size(report.size_before)} -> {size(report.size_after)}, ratio {report.ratio:.2f}"),
        ("bits per weight", f"{report.bits_per_weight:.2f}"),
        ("compressed", f"{len(report.compressed)} of {len(report.rows)} weights"),
        ("worst SNR", "-" if worst is None else f"{worst.snr:.1f} dB ({worst.name})"),
        ("left alone", _skipped(report)),
    ):
        table.add_row(f"[bold]{label}[/]", text)
    console().print(table)


def _skipped(report: Report) -> str:
    reasons = Counter(row.skipped for row in report.skipped)
    return "\n".join(f"{count}: {reason}" for reason, count in reasons.most_common()) or "none"


def info(model: Model, everything: bool, as_json: bool) -> None:
    """What is in a model: its kind, its size, its weights."""
    from corepress.targets import by_spec_version

    weights = model.weights()
    target = by_spec_version(model.spec_version).name
    if as_json:
        print(json.dumps({
            "path": str(model.path), "spec_version": model.spec_version, "target": target, "size": model.size(),
            "weights": [_plain(weight) for weight in weights],
        }, indent=2))  # fmt: skip
        return
    out = console()
    stored = sum(weight.stored_bytes for weight in weights)
    out.print(
        f"[bold]{model.path}[/]: ML program for {target} (specification {model.spec_version}), {size(model.size())}, "
        f"{len(weights)} weights in {size(stored)}"
    )
    table = Table("weight", "shape", "type", "form", "bits/weight", "bytes", "read by")
    shown = weights if everything else sorted(weights, key=lambda w: -w.stored_bytes)[:_SHOWN_WEIGHTS]
    for weight in shown:
        readers = ", ".join(sorted({consumer.op_type for consumer in weight.consumers}))
        shape = "x".join(map(str, weight.shape))
        bits = f"{weight.bits_per_weight:.2f}"
        table.add_row(weight.name, shape, weight.dtype, weight.compression, bits, f"{weight.stored_bytes:,}", readers)
    out.print(table)
    if len(shown) < len(weights):
        out.print(f"The {len(shown)} largest of {len(weights)} weights; --all shows all.")


def _plain(weight: Any) -> dict[str, Any]:
    names = ("name", "function", "shape", "dtype", "compression", "bits", "bits_per_weight", "stored_bytes")
    consumers = [f"{consumer.op_type} {consumer.name}" for consumer in weight.consumers]
    return {name: getattr(weight, name) for name in names} | {"consumers": consumers}


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.2f} {unit}"
        value /= 1000
    raise AssertionError
