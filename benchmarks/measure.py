"""One measurement, to be run in a process of its own, since peak memory never goes down again.

    python measure.py coremltools|corepress JOB BLOCKS OUTPUT REPEATS [WORKERS]
    python measure.py error BLOCKS OUTPUT
    python measure.py script coremltools|corepress JOB BLOCKS OUTPUT
    python measure.py calls JOB PACKAGE

Prints one line of JSON. The first form warms up: all is imported, and the job was run once on a tiny model. `script` is
what a user's script does, with nothing before it; `calls` gives CPU seconds of corepress' first and second call in the
process. `peak` and the others in bytes are `ru_maxrss`.
"""

from __future__ import annotations

import importlib
import json
import logging
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
from jobs import JOBS, Job


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    kind, *arguments = sys.argv[1:]
    if kind == "error":
        result = {"error": squared_error(int(arguments[0]), Path(arguments[1]))}
    elif kind == "script":
        library, job, blocks, output = arguments
        result = script(library, JOBS[job], models.package(int(blocks)), Path(output))
    elif kind == "calls":
        result = calls(JOBS[arguments[0]], Path(arguments[1]))
    else:
        job, blocks, output, repeats, *workers = arguments
        extra = {"workers": int(workers[0])} if workers else {}
        result = measure(kind, job, int(blocks), Path(output), int(repeats), extra)
    print(json.dumps(result))


def measure(library: str, name: str, blocks: int, output: Path, repeats: int, extra: dict[str, int]) -> dict[str, Any]:
    """The fastest of `repeats` runs: seconds to load, of the call, to save, and both of the latter together."""
    job = JOBS[name]
    path = models.palettized if job.on_palettized else models.package
    start = time.perf_counter()
    cto, load = libraries()[library]()
    imported, import_seconds = peak_rss(), time.perf_counter() - start
    job.apply(cto, load(path(models.TINY)), **extra)
    warmed = peak_rss()
    runs, peaks = [], []
    for _ in range(repeats):
        runs.append(run(lambda model: job.apply(cto, model, **extra), load, path(blocks), output))
        peaks.append(peak_rss())
    return {
        **min(runs, key=lambda times: times["total"]),
        "imports": import_seconds,
        "peak": peaks[0],  # of one run: what a second finds still in memory is not the job's
        "peak_imported": imported,
        "peak_warmed": warmed,
        "bytes_in": size(path(blocks)),
        "bytes_out": size(output),
    }


def script(library: str, job: Job, path: Path, output: Path) -> dict[str, float]:
    """Seconds to import, to load, of the call and to save, all of them the first of their process."""
    start = time.perf_counter()
    cto, load = libraries()[library]()
    imports = time.perf_counter() - start
    return {"imports": imports, **run(lambda model: job.apply(cto, model), load, path, output)}


def calls(job: Job, path: Path) -> dict[str, float]:
    """CPU seconds, of all threads, of two calls in one process."""
    cto, load = load_corepress()
    model = load(path)
    seconds = {}
    for name in ("first", "second"):
        start = time.process_time()
        job.apply(cto, model)
        seconds[name] = time.process_time() - start
    return seconds


def libraries() -> dict[str, Callable[[], tuple[Any, Callable[[Path], Any]]]]:
    return {"coremltools": load_coremltools, "corepress": load_corepress}


def load_coremltools() -> tuple[Any, Callable[[Path], Any]]:
    import coremltools

    cto = importlib.import_module("coremltools.optimize.coreml")
    return cto, lambda path: coremltools.models.MLModel(str(path), skip_model_load=True)


def load_corepress() -> tuple[Any, Callable[[Path], Any]]:
    cto = importlib.import_module("corepress.coreml")
    for name in ("decompress_weights", "linear_quantize_weights", "palettize_weights", "prune_weights"):
        getattr(cto, name)  # imported on first use; here this counts as import, as it does for coremltools
    return cto, importlib.import_module("corepress").load


def run(apply: Callable[[Any], Any], load: Callable[[Path], Any], path: Path, output: Path) -> dict[str, float]:
    shutil.rmtree(output, ignore_errors=True)
    begin = time.perf_counter()
    model = load(path)
    loaded = time.perf_counter()
    result = apply(model)
    called = time.perf_counter()
    result.save(str(output))
    saved = time.perf_counter()
    return {"load": loaded - begin, "call": called - loaded, "save": saved - called, "total": saved - loaded}


def squared_error(blocks: int, compressed: Path) -> float:
    """The sum of squared differences of all weights of linear operations, whoever compressed them."""
    import numpy as np

    from corepress import load

    exact, given = (
        {key(weight): weight for weight in load(path).weights() if key(weight)}
        for path in (models.package(blocks), compressed)
    )
    assert exact.keys() == given.keys()
    total = 0.0
    for name, weight in exact.items():
        difference = weight.dense().astype(np.float64) - given[name].dense()
        total += float(np.vdot(difference, difference))
    return total


def key(weight: Any) -> str:
    """The name of the linear operation that reads a weight; "" for biases and other constants."""
    readers = [use.name for use in weight.consumers if (use.op_type, use.argument) == ("linear", "weight")]
    return readers[0] if readers else ""


def peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def size(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
