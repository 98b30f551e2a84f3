"""Core ML packages become Core AI models and answer the same in Apple's runtime: the table of docs/core_ai.md.

    python benchmarks/core_ai.py                     # all, about half an hour on two cores
    python benchmarks/core_ai.py --networks MiniLM   # this one anew; the rest stays as it was measured last

Real networks (see `search_tasks.py` and `tests/foreign/test_wheels.py` for what to install), and those on which the
tests try the runtime, with random weights. Each is migrated as it is and compressed; ours runs the packages, and
Apple's runtime the Core AI models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import corepress
import corepress.coreml as cto
from corepress.formats.package import bytes_on_disk
from corepress.metrics import Sums
from corepress.runtime import load
from corepress.runtime.domains import domains
from corepress.runtime.random_inputs import random_inputs
from elsewhere import elsewhere
from search_page import machine, put
from search_tasks import ROOT, TASKS, Sample, answers
from unseen_networks import NETWORKS as LEARNING

sys.path.insert(0, str(ROOT))
from tests.foreign.test_wheels import PACKAGES, real
from tests.runtime.test_zoo import convert
from tests.runtime.zoo import NETWORKS as ZOO

OUTPUT = ROOT / "docs" / "core_ai.md"
CACHE = Path(tempfile.gettempdir(), "corepress-core-ai")
MARKS = "<!-- benchmarks/core_ai.py writes from here -->", "<!-- to here -->"
SAMPLES = 4
Case = tuple[Path, Sequence[Sample]]


def _task(title: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        make = LEARNING[title].task if title in LEARNING else lambda folder: TASKS[title](folder, 1, SAMPLES)
        task = make(folder)
        return task.package, task.same[:SAMPLES]

    return case


def _random(package: Path) -> Case:
    program = load(package)
    return package, list(random_inputs(program.interface, 0, SAMPLES, domains(program)))


def _wheel(name: str) -> Callable[[Path], Case]:
    return lambda folder: _random(real(name))


def _zoo(name: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        package = folder / f"{name}.mlpackage"
        return _random(package if package.exists() else convert(name, folder, "iOS18", "FLOAT16")[0])

    return case


CASES: Mapping[str, Callable[[Path], Case]] = {
    **{title: _task(title) for title in ("MiniLM", "EfficientNet-Lite1", "CREPE tiny", "digits")},
    **{f"hands: {name}" if "super" not in name else "PiperSR": _wheel(name) for name in PACKAGES},
    **{f"tests: {name}": _zoo(name) for name in ZOO},
}


def _grouped(package: Path) -> Any:
    config = cto.OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=16, smaller_group=True)
    return cto.palettize_weights(package, cto.OptimizationConfig(config), target="iOS18")


def _blocks(package: Path) -> Any:
    config = cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=32, smaller_block=True)
    return cto.linear_quantize_weights(package, cto.OptimizationConfig(config), target="iOS18")


FORMS: Mapping[str, Callable[[Path], Any]] = {
    "as it is": corepress.load,
    "4-bit tables, groups of 16": _grouped,
    "int4, blocks of 32": _blocks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=[*CASES], metavar="NETWORK")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where packages and results are kept")
    parser.add_argument("--one", action="store_true", help="measure one network, and print lines of JSON")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True, parents=True)
    if given.one:
        warnings.simplefilter("ignore")
        for line in measure(given.networks[0], given.folder):
            print(json.dumps(line), flush=True)
        return
    results = given.folder / "core-ai.json"
    for network in given.networks:
        known = json.loads(results.read_text()) if results.exists() else {}
        known[network] = elsewhere(__file__, "--one", "--networks", network, "--folder", given.folder)
        results.write_text(json.dumps(known, indent=1))
        put(OUTPUT, MARKS, page({name: known[name] for name in CASES if name in known}))


def measure(network: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Of each form: bytes of the package and of the Core AI model, seconds of the migration, and three distances in dB:
    of both models' answers to the uncompressed package's, and to each other."""
    package, samples = CASES[network](folder)
    exact = answers(package, samples)
    for form, compress in FORMS.items():
        with tempfile.TemporaryDirectory() as place:
            small = compress(package).save(Path(place, "small.mlpackage"))
            start = time.process_time()
            asset = corepress.migrate(small.path, Path(place, "small.aimodel")).path
            seconds = time.process_time() - start
            ours, apples = answers(small.path, samples), answers(asset, samples)
            yield {
                "form": form,
                "sizes": [small.size(), bytes_on_disk(asset)],
                "to original": [decibels(exact, ours), decibels(exact, apples)],
                "to each other": decibels(ours, apples),
                "seconds": seconds,
            }


def decibels(exact: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float | None:
    """The signal-to-noise ratio over all outputs that both have. None: no difference."""
    sums = Sums()
    for one, other in zip(exact, found, strict=True):
        for name in one.keys() & other.keys():
            sums.add_output(name, one[name], other[name])
    return sums.row("outputs").snr


def page(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: a table with a line for each network and form."""
    heads = (
        "network, weights, package, Core AI model, package (dB), Core AI model (dB), to each other (dB), CPU seconds"
    )
    lines = [machine(), f"| {heads.replace(', ', ' | ')} |", "| --- | --- |" + " ---: |" * 6]
    for network, forms in results.items():
        name = network
        for row in forms:
            if row["form"] != "as it is" and row["sizes"] == forms[0]["sizes"]:
                continue  # no weight is large enough
            own = "| — | —" if row["form"] == "as it is" else "".join(f"| {value:.1f} " for value in row["to original"])
            sizes = " | ".join(f"{size / 1e6:.2f} MB" for size in row["sizes"])
            near = "equal" if row["to each other"] is None else f"{row['to each other']:.1f}"
            lines.append(f"| {name} | {row['form']} | {sizes} {own}| {near} | {row['seconds']:.0f} |")
            name = ""
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
