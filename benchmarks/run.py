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

from rich.console import Console
from rich.table import Table

import cli
import models
from jobs import JOBS
from roofline import floor

# Nothing heavy is imported here: on Linux a new process begins with the peak memory of the one that starts it.
HERE = Path(__file__).resolve().parent
PEER, OURS = "coremltools", "corepress"
SLOW = 20  # seconds; the peer is timed once where it takes longer, else the best of 3, as ours
COLUMNS = (
    "job", "coremltools s", "corepress s", "with save s", "faster", "error", "our error", "MB", "our MB", "floor s"
)  # fmt: skip
NOTES = """\
"faster": coremltools' call over ours *with* saving; its call writes a temporary package too. Best of 3, the peer once
where it takes more than 20 s. Everything is imported, and a tiny model was compressed once before the clock starts.
"error": sum of squared differences of all weights from the fp16 original, by one program for both.
"MB": peak memory above that of the process with its library imported. "floor": the time to read the package from
memory and write the new one to a file, at the speeds of this machine."""


def main() -> None:
    options = arguments()
    chosen = {name: job for name, job in JOBS.items() if options.only in name and (job.quick or not options.quick)}
    sizes = [models.SMALL] + [models.LARGE] * (options.large or options.large_peer)
    for blocks in (models.TINY, *sizes):
        python("models.py", blocks)
    speeds = json.loads(python("roofline.py", "--json"))
    results: dict[str, Any] = {"machine": machine() | speeds, "cli": cli.measure(), "rows": []}
    console = Console()
    for blocks in sizes:
        libraries = [OURS] if options.ours or (blocks == models.LARGE and not options.large_peer) else [PEER, OURS]
        for name in chosen:
            row: dict[str, Any] = {"job": name, "blocks": blocks}
            row |= {library: measure(library, name, blocks, options) for library in libraries}
            row["floor"] = floor(row[OURS].get("bytes_in", 0), row[OURS].get("bytes_out", 0), speeds)
            results["rows"].append(row)
            console.print(*cells(row), sep=" | ", style="dim")
    for blocks in sizes:
        console.print(table(results, blocks))
    console.print(NOTES, results["machine"], results["cli"])
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
    parser.add_argument("--workers", type=int, help="threads of corepress (default: one for each core)")
    return parser.parse_args()


def measure(library: str, name: str, blocks: int, options: argparse.Namespace) -> dict[str, Any]:
    """The fastest run of a job and its squared error; `failed` with the last line of the message where it fails."""
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
            return {"failed": error.stderr.strip().splitlines()[-1]}


def python(script: str, *arguments: Any) -> str:
    """The last line that a script of this folder prints."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip().splitlines()[-1]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    peer, ours = row.get(PEER, {}), row.get(OURS, {})
    faster = peer["call"] / ours["total"] if "call" in peer and "total" in ours else None
    return [
        row["job"],
        number(peer.get("call"), ".1f", peer.get("failed", "")),
        number(ours.get("call"), ".3f", ours.get("failed", "")),
        number(ours.get("total"), ".3f"),
        number(faster, ".0f") + "x" * (faster is not None),
        number(peer.get("error"), ".6g"),
        number(ours.get("error"), ".6g"),
        number(memory(peer), ".0f"),
        number(memory(ours), ".0f"),
        number(row["floor"], ".3f"),
    ]


def number(value: float | None, form: str, missing: str = "") -> str:
    return missing if value is None else format(value, form)


def memory(result: dict[str, Any]) -> float | None:
    """MB of peak memory above that of the interpreter with everything imported."""
    return (result["peak"] - result["peak_imported"]) / 1e6 if "peak" in result else None


def table(results: dict[str, Any], blocks: int) -> Table:
    rows = [row for row in results["rows"] if row["blocks"] == blocks]
    table = Table(title=title(blocks))
    for header in COLUMNS:
        table.add_column(header, justify="left" if header == "job" else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table


def markdown(results: dict[str, Any], sizes: list[int]) -> str:
    lines = [f"{key}: {value}  " for key, value in results["machine"].items()]
    for blocks in sizes:
        lines += ["", f"## {title(blocks)}", "", line(COLUMNS), line(["---"] + ["---:"] * (len(COLUMNS) - 1))]
        lines += [line(cells(row)) for row in results["rows"] if row["blocks"] == blocks]
    lines += ["", NOTES, "", "## Command line", ""]
    lines += [f"- `{command}`: {number(taken, '.2f', 'failed')} s" for command, taken in results["cli"].items()]
    return "\n".join(lines) + "\n"


def line(values: Any) -> str:
    return f"| {' | '.join(values)} |"


def title(blocks: int) -> str:
    return f"Transformer of {blocks} blocks, {blocks * 12 * models.WIDTH**2 / 1e6:.0f}M parameters, fp16"


def machine() -> dict[str, Any]:
    packages = ("coremltools", "corepress", "numpy", "numba")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": f"{platform.python_version()}, {versions}",
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
