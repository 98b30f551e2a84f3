"""How close two real networks with weights and activations of 8 bits come to float16, and which operations that takes.

    python benchmarks/w8a8.py [minilm] [lite1] [--folder DIR]

The sentence encoder of tests/minilm.py learns from 64 sentences, and is measured on others written later, and on the
first lines of what Python's library says of its functions. The classifier of tests/lite.py learns from 64 crops of six
photographs, and is measured on crops of four others, and of four that nothing was designed with. What to install is
said in these files. A fifth of what a network learns from is held back by the command, and exceptions are chosen by it.

Each row but the first is what `corepress quantize --activations` makes; no operation is named by hand. Quality is the
mean over what is measured on: of the encoder the cosine between the embeddings of both, of the classifier the part of
the images with the same first class, and the SNR of all logits. `--folder` keeps the converted packages for next time.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from corepress.metrics import decibels
from corepress.runtime import load as load_program

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the networks, sentences and photographs of the tests
from tests import lite, minilm
from tests.sentences import CALIBRATION, FRESH

Samples = list[dict[str, np.ndarray]]
# Modules whose functions are described in English.
_MODULES = ("argparse", "csv", "json", "pathlib", "random", "shutil", "statistics", "tempfile", "textwrap", "inspect")
# The options beside --activations and --data; those of the last row are in `Network.goal`.
WAYS: Mapping[str, tuple[str, ...]] = {
    "int8 weights alone": (),
    "W8A8": ("--activations",),
    "W8A8, a zero point": ("--activations", "--activation-mode", "linear"),
    "W8A8, a zero point, equalized": ("--activations", "--activation-mode", "linear", "--equalize"),
}


class Network(NamedTuple):
    """A network: how it is converted into a folder, samples to learn from, others to measure on, by what these are; the
    goal, and how answers (samples, numbers) of both are compared."""

    package: Callable[[Path], Path]
    learnt: Callable[[], Samples]
    tests: Mapping[str, Callable[[], Samples]]
    goal: tuple[str, ...]
    quality: Callable[[np.ndarray, np.ndarray], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.networks or NETWORKS:
        network = NETWORKS[name]
        with tempfile.TemporaryDirectory() as folder:
            kept = (given.folder or Path(folder)) / f"{name}.mlpackage"
            path = kept if kept.exists() else network.package(kept.parent)
            table = Table("what", "left in floating point", *network.tests, "seconds", title=name)
            for row in rows(network, path, Path(folder)):
                table.add_row(*row)
                print(*row, sep=" | ", flush=True)
        Console(width=140).print(table)


def rows(network: Network, path: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    learnt = network.learnt()
    np.savez(folder / "samples.npz", **{name: np.stack([sample[name] for sample in learnt]) for name in learnt[0]})
    tests = [make() for make in network.tests.values()]
    exact = [answers(path, test) for test in tests]
    for words, options in {**WAYS, " ".join(network.goal): ("--activations", *network.goal)}.items():
        data = ("--data", str(folder / "samples.npz")) if options else ()
        start = time.perf_counter()
        said = quantize(path, folder / "made.mlpackage", *options, *data)
        seconds = f"{time.perf_counter() - start:.0f}"
        found = said.get("exceptions")
        left = "" if found is None else f"{len(found['left'])} of {found['operations']}"
        if found is not None:
            more = [
                word for word, key in (("equalized", "equalize"), ("corrected biases", "bias_correction")) if found[key]
            ]
            words = f"W8A8, {words}: " + ", ".join([f"ranges by {found['observer']}", *more])
        made = [answers(folder / "made.mlpackage", test) for test in tests]
        yield words, left, *map(network.quality, exact, made), seconds


def quantize(path: Path, to: Path, *options: str) -> dict[str, Any]:
    """Run the command on a package; what it says as JSON."""
    command = [
        sys.executable,
        "-m",
        "corepress",
        "quantize",
        str(path),
        "-o",
        str(to),
        "--overwrite",
        "--json",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answers(model: Any, given: Iterable[Any]) -> np.ndarray:
    """The one output of a model, (samples, numbers)."""
    program = load_program(model)
    found = [next(iter(program.predict(sample).values())).reshape(1, -1) for sample in given]
    return np.concatenate(found).astype(np.float64)


def of_embeddings(exact: np.ndarray, found: np.ndarray) -> str:
    cosines = minilm.cosines(exact, found)
    return f"cosine {cosines.mean():.4f} (least {cosines.min():.4f})"


def of_classes(exact: np.ndarray, found: np.ndarray) -> str:
    agreed = (exact.argmax(1) == found.argmax(1)).mean()
    return f"top-1 {agreed:.3f}, {decibels(np.square(exact).sum(), np.square(exact - found).sum()):.1f} dB"


def descriptions(count: int) -> list[str]:
    """First lines of what functions and methods of Python's library say of themselves, evenly chosen."""
    found: dict[str, None] = {}
    for module in map(importlib.import_module, _MODULES):
        holders = [module, *(value for value in vars(module).values() if inspect.isclass(value))]
        for holder in holders:
            for value in vars(holder).values():
                if inspect.isfunction(value) and value.__module__ == module.__name__ and value.__doc__:
                    found[value.__doc__.strip().splitlines()[0]] = None
    lines = sorted(line for line in found if len(line.split()) > 4)
    return lines[:: len(lines) // count][:count]


NETWORKS = {
    "minilm": Network(
        minilm.package,
        lambda: minilm.samples(CALIBRATION[:64]),
        {
            "sentences": lambda: minilm.samples(FRESH),
            "descriptions of functions": lambda: minilm.samples(descriptions(96)),
        },
        ("--min-cosine", "0.99"),
        of_embeddings,
    ),
    "lite1": Network(
        lite.package,
        lambda: lite.samples(lite.LEARNT, 64),
        {
            "other photographs": lambda: lite.samples(lite.PHOTOGRAPHS, 96, seed=1),
            "photographs of another library": lambda: lite.samples(lite.FRESH, 96, seed=1),
        },
        ("--min-snr", "25", "--observer", "min_max"),  # ranges by the outputs take a quarter of an hour here
        of_classes,
    ),
}

if __name__ == "__main__":
    main()
