"""Fitted Core AI models beside coreai-opt's best: a table of docs/core_ai.md.

    python benchmarks/coreai_fitted.py --peer-python PYTHON                  # all, about half an hour of one core
    python benchmarks/coreai_fitted.py --peer-python PYTHON --rows "3 bits"  # the rows of these words anew

PYTHON: that of an environment with coreai-opt 0.4 and transformers. What `tests/minilm.py` needs is needed here.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import corepress
import corepress.coreml as cto
from coreai_modules import Way, by_peer
from elsewhere import elsewhere
from quality_methods import Result
from quality_tasks import encoder as module
from quality_tasks import signed, tokens
from search_page import machine, put
from search_tasks import ROOT, TASKS, answers, minilm, score

OUTPUT = ROOT / "docs" / "core_ai.md"
CACHE = Path(tempfile.gettempdir(), "corepress-core-ai")
MARKS = "<!-- benchmarks/coreai_fitted.py writes from here -->", "<!-- to here, of fitted models -->"
SENTENCES, TESTS, GROUP = 256, 128, 16
# Words and positions: coreai-opt leaves embeddings alone, and so do we here.
EMBEDDINGS = (30522, 512)


def fitted(bits: int, more: bool) -> Callable[..., dict[str, Any]]:
    """Ours, in place: to sentences, and to the texts that come with corepress besides."""

    def row(folder: Path, _: str) -> dict[str, Any]:
        task = TASKS["MiniLM"](folder, SENTENCES, TESTS)
        asset = folder / "minilm.aimodel"
        if not asset.exists():
            corepress.migrate(task.package, asset)
        learnt = [*task.learnt, *(minilm.samples(corepress.texts()) if more else ())]
        start = time.process_time()
        found = cto.calibrated.palettize_weights(asset, config(corepress.load(asset), bits), learnt)
        saved = found.save(Path(tempfile.mkdtemp(dir=folder)) / "small.aimodel")
        seconds = time.process_time() - start
        # By our runtime, in float32: Apple's takes many seconds for a sentence on a CPU.
        exact, small = (partial(answers, path, precision="float32") for path in (asset, saved.path))
        kinds = [score(exact(kind), small(kind)) for kind in (task.same, task.other)]
        held = [weight for weight in saved.weights() if weight.compression]
        stored = 8 * sum(weight.stored_bytes for weight in held) / sum(weight.dense().size for weight in held)
        return _row([one.snr for one in kinds], [one.cosine for one in kinds], stored, seconds, len(learnt))

    return row


def theirs(bits: int, more: bool) -> Callable[..., dict[str, Any]]:
    """coreai-opt's best, on the module of PyTorch that both come from, with the same texts."""

    def row(folder: Path, python: str) -> dict[str, Any]:
        task = module(folder / "module", SENTENCES, TESTS)
        if more:
            task.labelled.extend(signed([tokens(sample) for sample in minilm.samples(corepress.texts())], 1))
        asked = {"kind": "palettized", "bits": bits, "group": GROUP, "sensitive": True}
        [found] = by_peer(task, [Way(None, asked)], python)  # type: ignore[arg-type]
        assert isinstance(found, Result), found
        return _row(found.snrs, found.scores, found.bits(found.compressed), found.seconds, len(task.labelled))

    return row


def config(model: Any, bits: int) -> cto.OptimizationConfig:
    """Tables for groups of channels, but for the embeddings."""
    own = cto.OpPalettizerConfig(nbits=bits, granularity="per_grouped_channel", group_size=GROUP, smaller_group=True)
    left = {weight.name: None for weight in model.weights() if weight.shape[0] in EMBEDDINGS}
    return cto.OptimizationConfig(own, op_name_configs=left)


def _row(snrs: Sequence[float], cosines: Sequence[float], bits: float, seconds: float, texts: int) -> dict[str, Any]:
    return {"snr": [*snrs], "cosine": [*cosines], "bits": bits, "seconds": seconds, "texts": texts}


ROWS: dict[str, Callable[..., dict[str, Any]]] = {
    f"{bits} bits: {name}": make
    for bits in (4, 3)
    for name, make in (
        ("coreai-opt, sensitive k-means, sentences", theirs(bits, False)),
        ("coreai-opt, sensitive k-means, all texts", theirs(bits, True)),
        ("corepress, LUT-GPTQ, sentences", fitted(bits, False)),
        ("corepress, LUT-GPTQ, all texts", fitted(bits, True)),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="of an environment with coreai-opt")
    parser.add_argument("--rows", default="", help="only those whose name has these words")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where models and results are kept")
    parser.add_argument("--one", action="store_true", help="measure one row, and print a line of JSON")
    given = parser.parse_args()
    (given.folder / "module").mkdir(exist_ok=True, parents=True)
    if given.one:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        print(json.dumps(ROWS[given.rows](given.folder, given.peer_python)), flush=True)
        return
    results = given.folder / "fitted.json"
    for name in (name for name in ROWS if given.rows in name):
        known = json.loads(results.read_text()) if results.exists() else {}
        arguments = ("--one", "--rows", name, "--peer-python", given.peer_python, "--folder", given.folder)
        [known[name]] = elsewhere(__file__, *arguments)
        results.write_text(json.dumps(known, indent=1))
        put(OUTPUT, MARKS, page({name: known[name] for name in ROWS if name in known}))


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each row."""
    heads = "weights, bits, texts, dB, cosine, docstrings: dB, cosine, seconds"
    lines = [machine(), f"| {heads.replace(', ', ' | ')} |", "| --- |" + " ---: |" * 7]
    for name, row in results.items():
        same, other = (f"{snr:.1f} | {cosine:.4f}" for snr, cosine in zip(row["snr"], row["cosine"], strict=True))
        lines.append(f"| {name} | {row['bits']:.2f} | {row['texts']} | {same} | {other} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
