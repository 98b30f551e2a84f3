"""How much samples help: look-up tables for all-MiniLM-L6-v2, by plain k-means and fitted to sentences.

    python benchmarks/calibrated.py [SENTENCES]    # 256 by default; about 3 minutes

See tests/minilm.py for what to install. The cosine is the mean over sentences that were not learnt from.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the sentences of the tests

from tests import minilm
from tests.sentences import CALIBRATION, TEST

import corepress
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated, palettize_weights

GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(CALIBRATION)
    learnt, given = minilm.samples(CALIBRATION[:count]), minilm.samples(TEST)
    table = Table("bits", "one table for", "k-means", "fitted", "seconds", title=f"MiniLM, {count} sentences")
    with tempfile.TemporaryDirectory() as folder:
        model = corepress.load(minilm.package(Path(folder)))
        exact = minilm.embeddings(model, given)
        for bits, fields in ((4, {}), (4, GROUPS), (3, {}), (3, GROUPS), (2, GROUPS)):
            config = OptimizationConfig(OpPalettizerConfig(nbits=bits, **fields))
            plain = palettize_weights(model, config, target="iOS18")
            start = time.perf_counter()
            fitted = calibrated.palettize_weights(model, config, learnt, target="iOS18")
            seconds = time.perf_counter() - start
            scores = (minilm.cosines(exact, minilm.embeddings(small, given)).mean() for small in (plain, fitted))
            what = "16 channels" if fields else "a tensor"
            table.add_row(str(bits), what, *(f"{score:.4f}" for score in scores), f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
