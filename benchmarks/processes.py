"""Whole processes, from the start of the interpreter to its end, as those pay for them who compress one model.

    python processes.py [--before SRC] [--repeats 5] [--only k-means] [--no-peer]

Three tables: commands on the example package beside `python -c "import numpy"`; the first and the second call in one
process; scripts that compress the 50M package. Contenders take turns within one run, so that a machine whose speed
drifts treats them alike. `--before`: the folder `src` of another checkout of corepress, to be measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from install_size import megabytes
from jobs import JOBS

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "examples" / "digits.mlpackage"
CONSOLE = "from corepress.cli import main; main()"  # what the script `corepress` does
SLOW = 20  # seconds: a contender that takes longer runs once
NUMPY, OURS, BEFORE, PEER = "import numpy", "now", "before", "coremltools"
COMMANDS = {
    "corepress --help": ["--help"],
    "corepress palettize": ["palettize", DIGITS, "-o", "OUT", "--overwrite"],
    "corepress quantize": ["quantize", DIGITS, "-o", "OUT", "--overwrite"],
    "corepress prune": ["prune", DIGITS, "-o", "OUT", "--overwrite", "--sparsity", "0.5"],
}
FIRST_CALLS = ("k-means 4 bits", "int8 per channel", "prune 50 %")
NOTES = """\
- Medians of whole processes that took turns: wall-clock seconds, and in brackets CPU seconds of all threads.
- Commands: on the example package (116,000 weights). "of numpy": wall-clock time of ours by that of
  `python -c "import numpy"`, which no program that computes with arrays can do without.
- First calls: CPU seconds of a call on the example package, without import and saving: the first of a process whose
  caches are empty (as after an installation), the first of a later process, and the second.
- Scripts: import, load, compress and save the transformer of 50M parameters. "faster, call": seconds of coremltools'
  call by those of ours with saving, both the first of their process and without import; "faster, all": by wall-clock
  time of the whole process."""


@dataclass(frozen=True)
class Taken:
    """What a process took, in seconds, and what its last line says, if it is JSON."""

    wall: float
    cpu: float
    said: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--only", default="", help="only scripts of jobs whose name contains this")
    parser.add_argument("--no-peer", action="store_true", help="without coremltools")
    options = parser.parse_args()
    jobs = [name for name, job in JOBS.items() if options.only in name and not job.on_palettized]
    for blocks in (models.TINY, models.SMALL):
        subprocess.run([sys.executable, str(HERE / "models.py"), str(blocks)], check=True, capture_output=True)
    print("\n".join(markdown(measure(jobs, options.before, options.repeats, peer=not options.no_peer))))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", type=Path, help="the folder src of another checkout, to be measured as well")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each whole process (default: 5)")


def measure(jobs: list[str], before: Path | None, repeats: int, *, peer: bool = True) -> dict[str, Any]:
    """All three tables as plain data."""
    sources = {OURS: None} | ({BEFORE: before.resolve()} if before is not None else {})
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as folder:
        output = Path(folder) / "out.mlpackage"
        return {
            "install MB": megabytes(),
            "commands": {name: command(COMMANDS[name], sources, output, repeats) for name in COMMANDS},
            "first calls": {name: first_calls(name, sources, Path(folder)) for name in FIRST_CALLS},
            "scripts": {name: scripts(name, sources, output, repeats, peer) for name in jobs},
        }


def command(arguments: list[Any], sources: Mapping[str, Path | None], output: Path, repeats: int) -> dict[str, Any]:
    """Wall and CPU seconds of a command by contender; `import numpy` is one of them."""
    given = [str(output) if argument == "OUT" else str(argument) for argument in arguments]
    contenders = {NUMPY: lambda: run(["-c", NUMPY])}
    for name, source in sources.items():
        contenders[name] = lambda source=source: run(["-c", CONSOLE, *given], source)  # type: ignore[misc]
    return {name: middle(runs) for name, runs in in_turns(contenders, repeats).items()}


def first_calls(job: str, sources: Mapping[str, Path | None], folder: Path) -> dict[str, Any]:
    """CPU seconds of the first call with empty caches, of the first call, and of the second, by contender."""
    found = {}
    for name, source in sources.items():
        caches = {key: str(folder / f"caches-{name}") for key in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
        fresh = call(["calls", job, DIGITS], source, caches)
        shutil.rmtree(folder / f"caches-{name}", ignore_errors=True)
        call(["calls", job, DIGITS], source)
        runs = [call(["calls", job, DIGITS], source) for _ in range(3)]
        found[name] = {"installed": fresh["first"]} | {
            part: statistics.median(each[part] for each in runs) for part in ("first", "second")
        }
    return found


def scripts(
    job: str, sources: Mapping[str, Path | None], output: Path, repeats: int, peer: bool
) -> dict[str, dict[str, float]]:
    """Seconds of a script by contender: of the whole process and, as it says itself, of its parts."""
    contenders: dict[str, Callable[[], Taken]] = {}
    for name, source in sources.items():
        contenders[name] = lambda source=source: script("corepress", job, output, source)  # type: ignore[misc]
    if peer:
        contenders[PEER] = lambda: script("coremltools", job, output)
    return {name: middle(runs) for name, runs in in_turns(contenders, repeats).items()}


def script(library: str, job: str, output: Path, source: Path | None = None) -> Taken:
    return run([HERE / "measure.py", "script", library, job, models.SMALL, output], source)


def in_turns(contenders: Mapping[str, Callable[[], Taken]], repeats: int) -> dict[str, list[Taken]]:
    """Runs by contender: one that does not count, unless it is slow, then `repeats` of each in turn."""
    runs = {name: [contender()] for name, contender in contenders.items()}
    quick = [name for name, (first,) in runs.items() if first.wall < SLOW]
    for name in quick:
        runs[name].clear()
    for _ in range(repeats):
        for name in quick:
            runs[name].append(contenders[name]())
    return runs


def middle(runs: list[Taken]) -> dict[str, float]:
    """The median of each number."""
    numbers = [{"wall": each.wall, "cpu": each.cpu, **each.said} for each in runs]
    return {key: statistics.median(each[key] for each in numbers) for key in numbers[0]}


def call(
    arguments: list[Any], source: Path | None, environment: Mapping[str, str] | None = None
) -> Mapping[str, float]:
    return run([HERE / "measure.py", *arguments], source, environment).said


def run(arguments: list[Any], source: Path | None = None, environment: Mapping[str, str] | None = None) -> Taken:
    """Run the interpreter; `source`: where it finds corepress, instead of what is installed."""
    environment = {**os.environ, **(environment or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has bytecode
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=out, stderr=err, env=environment, cwd=HERE
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            raise RuntimeError(f"{' '.join(map(str, arguments))}: {err.read().decode().strip()}")
        out.seek(0)
        last = out.read().decode().strip().rpartition("\n")[2]
    said = json.loads(last) if last.startswith("{") and last.endswith("}") else {}
    return Taken(wall, usage.ru_utime + usage.ru_stime, said)


def markdown(results: Mapping[str, Any]) -> list[str]:
    """The tables, as lines."""
    lines = ["## Whole processes", "", NOTES, f"- A core installation takes {results['install MB']:.0f} MB."]
    names = list(next(iter(results["commands"].values())))
    lines += ["", *heading("command", *names, "of numpy")]
    for name, taken in results["commands"].items():
        share = taken[OURS]["wall"] / taken[NUMPY]["wall"]
        lines.append(row(f"`{name}`", *(both(taken[each]) for each in names), f"{share:.2f}x"))
    contenders = [name for name in names if name != NUMPY]
    parts = {"installed": "after install", "first": "first", "second": "second"}
    lines += ["", *heading("call", *(f"{name}, {said}" for name in contenders for said in parts.values()))]
    for name, taken in results["first calls"].items():
        lines.append(row(name, *(f"{taken[each][part]:.3f}" for each in contenders for part in parts)))
    if not results["scripts"]:
        return lines
    lines += ["", *heading("script", *contenders, PEER, "faster, call", "faster, all")]
    for name, taken in results["scripts"].items():
        peer, ours = taken.get(PEER), taken[OURS]
        faster = "" if peer is None else f"{peer['call'] / (ours['call'] + ours['save']):.1f}x"
        whole = "" if peer is None else f"{peer['wall'] / ours['wall']:.1f}x"
        lines.append(row(name, *(both(taken.get(each)) for each in (*contenders, PEER)), faster, whole))
    return lines


def both(taken: Mapping[str, float] | None) -> str:
    return "" if taken is None else f"{taken['wall']:.2f} ({taken['cpu']:.2f})"


def heading(*titles: str) -> list[str]:
    return [row(*titles), row("---", *["---:"] * (len(titles) - 1))]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
