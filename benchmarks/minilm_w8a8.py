"""How close a sentence encoder with weights and activations of 8 bits comes to float16.

    python benchmarks/minilm_w8a8.py

The real weights of all-MiniLM-L6-v2 (see tests/minilm.py for what to install), calibrated on 64 sentences. The numbers
are the cosine between the embeddings of both, over 128 other sentences: the mean, and the least.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

import corepress.coreml as cto
from corepress.coreml.activations.observers import OBSERVERS
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the encoder and the sentences of the tests
from tests.minilm import cosines, embeddings, harmful, package, samples, w8a8
from tests.sentences import CALIBRATION, TEST


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        Console().print(table(package(Path(folder))))


def table(path: Path) -> Table:
    calibration, test = samples(CALIBRATION[:64]), samples(TEST)
    expected = embeddings(path, test)
    runs = {f"{observer}, all 64 samples": (observer, calibration) for observer in OBSERVERS}
    runs = {"min_max, the last sample only": ("min_max", calibration[-1:])} | runs
    result = Table("mode", "left in float16", *runs)
    for mode in ("linear_symmetric", "linear"):
        op_config = OpActivationLinearQuantizerConfig(mode=mode)
        names = harmful(path, calibration[:8], op_config)
        for left in ([], names):
            config = cto.OptimizationConfig(op_config, op_name_configs=dict.fromkeys(left))
            cells = []
            for observer, given in runs.values():
                found = cosines(expected, embeddings(w8a8(path, config, given, observer=observer), test))
                cells.append(f"{found.mean():.4f} (least {found.min():.4f})")
            result.add_row(mode, f"{len(left)} operations", *cells)
    return result


if __name__ == "__main__":
    main()
