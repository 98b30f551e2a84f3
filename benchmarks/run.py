"""corepress beside coremltools, each measurement in a fresh process: `make bench`.

Prints a table and writes `results.json` and `results.md`. The speed-up sets our call *and* saving to disk against
the call alone of coremltools, which writes its package to a temporary folder within that call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import models
import processes
from jobs import JOBS
from roofline import floor

# Nothing heavy is imported here: on Linux a new process begins with the peak memory of the one that starts it.
HERE = Path(__file__).resolve().parent
PEER, OURS = "coremltools", "corepress"
SLOW = 20  # seconds; the peer is timed once where it takes longer, else the best of 3, as ours
COLUMNS = ("job", "peer s", "our s", "with save", "faster", "peer error", "our error", "peer MB", "our MB", "floor s")
NOTES = """\
- Seconds of the call alone: everything is imported and a tiny model was compressed before the clock starts. The best of
  3; the peer, coremltools, once where it takes more than 20 s. Whole processes are below.
- "faster" sets the peer's call against ours *with* saving, since the peer writes a temporary package in its call.
- Error: sum of squared differences of all weights from the fp16 original, read from the saved packages by one program.
- MB: peak memory of the process above its peak just after import of the library.
- "floor": time to copy the package in memory once and to write the new one to a file, at this machine's speeds."""


def main() -> None:
    options = arguments()
    chosen = {name: job for name, job in JOBS.items() if options.only in name and (job.quick or not options.quick)}
    sizes = [models.SMALL] + [models.LARGE] * (options.large or options.large_peer)
    for blocks in (models.TINY, *sizes):
        python("models.py", blocks)
    speeds = json.loads(python("roofline.py", "--json"))
    results: dict[str, Any] = {"machine": machine(speeds), "rows": []}
    console = Console(width=None if sys.stdout.isatty() else 140)
    for blocks in sizes:
        libraries = [OURS] if options.ours or (blocks == models.LARGE and not options.large_peer) else [PEER, OURS]
        for name in chosen:
            row: dict[str, Any] = {"job": name, "blocks": blocks}
            row |= {library: measure(library, name, blocks, options) for library in libraries}
            row["floor"] = floor(row[OURS].get("bytes_in", 0), row[OURS].get("bytes_out", 0), speeds)
            results["rows"].append(row)
            console.print(*cells(row), sep=" | ", style="dim")
    whole = [name for name in chosen if not JOBS[name].on_palettized]
    results["processes"] = processes.measure(whole, options.before, options.repeats, peer=not options.ours)
    for blocks in sizes:
        console.print(table(results, blocks))
    console.print(NOTES, *uncounted(results), results["machine"], sep="\n", soft_wrap=True)
    console.print(*processes.markdown(results["processes"]), sep="\n", soft_wrap=True, markup=False)
    if not (options.ours or options.quick or options.only):
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "results.md").write_text(markdown(results, sizes))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the jobs that take the peer seconds")
    parser.add_argument("--ours", action="store_true", help="measure corepress alone")
    parser.add_argument("--large", action="store_true", help="also a package five times larger, with corepress")
    parser.add_argument("--large-peer", action="store_true", help="and with coremltools")
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    processes.add_options(parser)
    parser.add_argument("--workers", type=int, help="threads of corepress (default: one for each core)")
    return parser.parse_args()


def measure(library: str, name: str, blocks: int, options: argparse.Namespace) -> dict[str, Any]:
    """The fastest run of a job and its squared error; only `failed`, and a message on stderr, where it fails."""
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as folder:
        output = Path(folder) / "out.mlpackage"
        workers = [options.workers] if options.workers and library == OURS else []
        try:
            once = json.loads(python("measure.py", library, name, blocks, output, 1, *workers))
            result = once
            if once["call"] < SLOW:
                result = json.loads(python("measure.py", library, name, blocks, output, 3, *workers))
            return result | json.loads(python("measure.py", "error", blocks, output))
        except subprocess.CalledProcessError as error:
            print(f"{library}, {name}: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return {"failed": True}


def python(script: str, *arguments: Any) -> str:
    """The last line that a script of this folder prints."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip().splitlines()[-1]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    peer, ours = row.get(PEER, {}), row[OURS]
    faster = peer["call"] / ours["total"] if "call" in peer and "total" in ours else None
    return [
        row["job"],
        "failed" if "failed" in peer else number(peer.get("call"), ".2f"),
        "failed" if "failed" in ours else number(ours.get("call"), ".3f"),
        number(ours.get("total"), ".3f"),
        number(faster, ".1f"),
        number(peer.get("error"), ".6g"),
        number(ours.get("error"), ".6g"),
        number(memory(peer), ".0f"),
        number(memory(ours), ".0f"),
        number(row["floor"], ".3f"),
    ]


def uncounted(results: dict[str, Any]) -> list[str]:
    """For each library what the table leaves out: seconds to import and to load, and all of its peak memory."""
    lines = []
    for library in (PEER, OURS):
        runs = [row[library] for row in results["rows"] if "peak" in row.get(library, {})]
        if runs:
            imports, load = (min(run[part] for run in runs) for part in ("imports", "load"))
            peak = max(run["peak"] for run in runs) / 1e6
            lines.append(
                f"- {library} besides: import {imports:.2f} s, load {load:.4f} s; peak memory all told {peak:.0f} MB."
            )
    return lines


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def memory(result: dict[str, Any]) -> float | None:
    """MB of peak memory above that of the interpreter with everything imported."""
    return (result["peak"] - result["peak_imported"]) / 1e6 if "peak" in result else None


def table(results: dict[str, Any], blocks: int) -> Table:
    rows = [row for row in results["rows"] if row["blocks"] == blocks]
    table = Table(title=title(blocks), box=SIMPLE_HEAD)
    for header in COLUMNS:
        table.add_column(header, justify="left" if header == "job" else "right", no_wrap=header == "job")
    for row in rows:
        table.add_row(*cells(row))
    return table


def markdown(results: dict[str, Any], sizes: list[int]) -> str:
    lines = ["# corepress beside coremltools", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    for blocks in sizes:
        lines += ["", f"## {title(blocks)}", "", line(COLUMNS), line(["---"] + ["---:"] * (len(COLUMNS) - 1))]
        lines += [line(cells(row)) for row in results["rows"] if row["blocks"] == blocks]
    lines += ["", NOTES, *uncounted(results), "", *processes.markdown(results["processes"])]
    return "\n".join(lines) + "\n"


def line(values: Any) -> str:
    return f"| {' | '.join(values)} |"


def title(blocks: int) -> str:
    return f"Transformer of {blocks} blocks, {blocks * 12 * models.WIDTH**2 / 1e6:.0f}M parameters, fp16"


def machine(speeds: dict[str, float]) -> dict[str, Any]:
    packages = ("coremltools", "corepress", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": f"{platform.python_version()}, {versions}",
        **{f"{name.replace('_', ' ')}, GB/s": round(speed / 1e9, 1) for name, speed in speeds.items()},
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for entry in info.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.split(":")[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
