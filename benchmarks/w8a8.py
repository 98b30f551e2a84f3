"""How close two real networks with weights and activations of 8 bits come to float16, and which operations that takes.

    python benchmarks/w8a8.py [minilm] [lite1]

The sentence encoder of tests/minilm.py (64 sentences for calibrating and choosing, 128 others to measure on), and the
classifier of tests/lite.py (crops of some photographs, and of others); what to install is said there. Numbers are the
mean over what is measured on: of the encoder the cosine between the embeddings of both, of the classifier the part of
the images with the same first class, and the SNR of all logits. No operation is named by hand.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import corepress.coreml as cto
from corepress import load
from corepress.coreml.activations.quantize import quantized
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig
from corepress.metrics import decibels
from corepress.runtime import load as load_program

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the networks, sentences and photographs of the tests
from tests import lite, minilm
from tests.sentences import CALIBRATION, TEST

# What is asked for beside 8 bits; the last rows are what `corepress quantize --activations` does with a goal.
WAYS: dict[str, dict[str, Any]] = {
    "min_max": {},
    "output": {"observer": "output"},
    "min_max, corrected biases": {"bias_correction": True},
}
MODES = ("linear_symmetric", "linear")
GOALS = {"minilm": {"min_cosine": 0.99}, "lite1": {"min_snr": 25.0}}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in sys.argv[1:] or GOALS:
        with tempfile.TemporaryDirectory() as folder:
            table = Table("network", "activations", "mode", "left in floating point", "quality", "seconds", title=name)
            for row in rows(name, Path(folder)):
                table.add_row(*row)
        Console(width=140).print(table)


def rows(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    if name == "minilm":
        path, given, test = minilm.package(folder), minilm.samples(CALIBRATION[:64]), minilm.samples(TEST)
    else:
        path, given = lite.package(folder), lite.samples(lite.LEARNT, 64)
        test = lite.samples(lite.PHOTOGRAPHS, 96, seed=1)
    exact = answers(path, test)
    weights = cto.linear_quantize_weights(load(path), cto.OptimizationConfig(cto.OpLinearQuantizerConfig()))
    yield name, "float16", "", "all", quality(name, exact, answers(weights, test)), ""
    ways = {**WAYS, "goal": {"observer": "auto", "bias_correction": None, "exceptions": "auto", **GOALS[name]}}
    for mode in MODES:
        config = cto.OptimizationConfig(OpActivationLinearQuantizerConfig(mode=mode))
        for words, options in ways.items():
            start = time.perf_counter()
            model, found = quantized(weights, config, given, **options)
            seconds = f"{time.perf_counter() - start:.0f}"
            left = "none" if found is None else f"{len(found.left)} of {found.operations}"
            if found is not None:
                goal = ", ".join(f"{metric} {value:g}" for metric, value in GOALS[name].items())
                words = f"{goal}: {found.way.observer}{', corrected biases' if found.way.finish else ''}"
            yield name, words, mode, left, quality(name, exact, answers(model, test)), seconds


def answers(model: Any, given: Any) -> np.ndarray:
    """The one output of a model, (samples, numbers)."""
    program = load_program(model)
    found = [next(iter(program.predict(sample).values())).reshape(1, -1) for sample in given]
    return np.concatenate(found).astype(np.float64)


def quality(name: str, exact: np.ndarray, found: np.ndarray) -> str:
    if name == "minilm":
        cosines = minilm.cosines(exact, found)
        return f"cosine {cosines.mean():.4f} (least {cosines.min():.4f})"
    agreed = (exact.argmax(1) == found.argmax(1)).mean()
    return f"top-1 {agreed:.3f}, {decibels(np.square(exact).sum(), np.square(exact - found).sum()):.1f} dB"


if __name__ == "__main__":
    main()
