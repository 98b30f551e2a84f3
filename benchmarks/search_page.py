"""The tables of `docs/search.md`, from what `search.py` measured."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search_ways import OURS, PEER, RANKS, UNIFORM

Line = Mapping[str, Any]
# By task and way, what was measured for each row.
Results = Mapping[str, Mapping[str, Sequence[Line]]]
_HEADS = ("bytes", "SNR", "of another kind", "cosine", "", "same largest", "", "seconds", "CPU", "memory")


def page(results: Results) -> str:
    """Markdown: what was to be reached, then a table for each task."""
    parts = [machine(), "### Goals\n", _table(("work", "goal", "reached", "of another kind"), goals(results))]
    for title, ways in results.items():
        parts += [f"### {title}\n", *_ranks(ways), _table(("budget", "way", *_HEADS), rows(ways))]
    return "\n".join(parts)


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("coremltools", "torch", "numpy"))
    return f"{model or platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {versions}; seed 0.\n"


def rows(ways: Mapping[str, Sequence[Line]]) -> Iterator[Sequence[str]]:
    """For each budget, each way; the budget is named in the first line."""
    lines = [(way, line) for way, found in ways.items() if way != RANKS for line in found]
    budgets = _unique(line["row"] for _, line in lines)
    for row in sorted(budgets, key=lambda row: (row["fitted"], -row["bits"])):
        name = words(row)
        for way, line in lines:
            if line["row"] == row:
                yield name, f"{way} ({line['note']})" if line["note"] else way, *_cells(line)
                name = ""


def _cells(line: Line) -> Iterator[str]:
    if line["size"] is None:
        yield from ("—" for _ in _HEADS)
        return
    same, other = line["same"], line["other"]
    yield f"{line['size']:,}"
    for name, form in (("snr", ".1f"), ("cosine", ".4f"), ("agreement", ".3f")):
        yield from (f"{kind[name]:{form}}" for kind in (same, other))
    yield from (f"{line['seconds']:.0f}", f"{line['cpu']:.0f}", f"{line['memory'] / 1e6:,.0f} MB")


def _ranks(ways: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    for line in ways.get(RANKS, ()):
        yield (
            f"Predicted harm beside the measured harm of {line['swaps']} single swaps, on samples that the prediction "
            f"did not see: rank correlation {line['correlation']:.3f} (of another kind {line['other']:.3f}).\n"
        )


def goals(results: Results) -> Iterator[Sequence[str]]:
    """Rows of the table of goals, as far as they were measured."""
    for title, ways in results.items():
        for line in sorted(ways.get(OURS, ()), key=lambda line: (line["row"]["fitted"], -line["row"]["bits"])):
            row = line["row"]
            work = f"{title}, {words(row)}"
            if line["size"] is None:
                yield work, "", "no model", ""
            elif title == "MiniLM" and row["fitted"]:
                wanted = {3: "cosine ≥ 0.978", 2: "cosine ≥ 0.93"}[row["bits"]]
                yield work, wanted, *(f"{line[kind]['cosine']:.4f}" for kind in ("same", "other"))
            elif title == "MiniLM":
                ahead = _ahead(line, ways.get(PEER, ()), "cosine")
                yield work, "cosine +0.04 over coremltools", *(f"{value:+.4f}" for value in ahead)
            else:
                for beside in (PEER, UNIFORM) if row["fitted"] else (PEER,):
                    ahead = _ahead(line, ways.get(beside, ()), "snr")
                    fitted = ", fitted" if beside == UNIFORM else ""
                    yield work, f"+3 dB over {beside}{fitted}", *(f"{value:+.1f} dB" for value in ahead)


def _ahead(line: Line, beside: Sequence[Line], metric: str) -> Iterator[float]:
    """By how much a line is better than that of the same row, on both kinds of samples."""
    other = next((other for other in beside if other["row"] == line["row"] and other["size"] is not None), None)
    for kind in ("same", "other"):
        yield math.nan if other is None else line[kind][metric] - other[kind][metric]


def put(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put tables between the marks of a page."""
    before, rest = page.read_text().split(marks[0])
    page.write_text(f"{before}{marks[0]}\n\n{text}\n{marks[1]}{rest.split(marks[1])[1]}")


def words(row: Mapping[str, Any]) -> str:
    """A budget in words."""
    group = f", groups of {row['group']}" if row["group"] else ""
    return f"bytes of {row['bits']} bits{group}, {'fitted' if row['fitted'] else 'plain'}"


def _unique(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _table(heads: Sequence[str], cells: Iterator[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "| --- | --- " + "| ---: " * (len(heads) - 2) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells), ""])
