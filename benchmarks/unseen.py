"""What compressed networks answer to inputs that nothing learnt from, of a like and of another kind: docs/unseen.md.

    python benchmarks/unseen.py                                     # all, some hours on two cores
    python benchmarks/unseen.py --networks MiniLM --ways fitted     # these anew; the rest stays as it was measured last

See `tests/minilm.py`, `tests/lite.py`, `tests/smollm2.py`, `search_crepe.py` and `photographs.py` for what to install.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import corepress
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated, palettize_weights
from elsewhere import elsewhere
from search_page import machine, put
from search_tasks import Task, answers
from search_ways import by_peer, mode_of
from unseen_networks import NETWORKS, TOKENIZERS, Row

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "unseen.md"
CACHE = Path(tempfile.gettempdir(), "corepress-unseen")
MARKS = "<!-- benchmarks/unseen.py writes from here -->", "<!-- to here -->"
# New samples for each that there is.
AUGMENTED = 4
# Of refinement.
STEPS = 1000


def _config(row: Row) -> OptimizationConfig:
    return OptimizationConfig(OpPalettizerConfig(**row.config(), smaller_group=row.group > 0))


def _fitted(task: Task, row: Row, folder: Path) -> Any:
    return calibrated.palettize_weights(task.package, _config(row), task.learnt)


def _augmented(task: Task, row: Row, folder: Path) -> Any:
    more = corepress.augment(task.learnt, task.package, AUGMENTED * len(task.learnt))
    return calibrated.palettize_weights(task.package, _config(row), [*task.learnt, *more])


def _refined(task: Task, row: Row, folder: Path) -> Any:
    return corepress.refine(task.package, _augmented(task, row, folder), task.learnt, steps=STEPS).model


def _with_texts(task: Task, row: Row, folder: Path) -> Any:
    return _fitted(_and_texts(task), row, folder)


def _refined_with_texts(task: Task, row: Row, folder: Path) -> Any:
    task = _and_texts(task)
    return corepress.refine(task.package, _fitted(task, row, folder), task.learnt, steps=STEPS).model


def _and_texts(task: Task) -> Task:
    """It learns from the texts that come with corepress as well."""
    return replace(task, learnt=[*task.learnt, *corepress.tokenize(task.package, None, TOKENIZERS[task.title]())])


def _plain(task: Task, row: Row, folder: Path) -> Any:
    return palettize_weights(task.package, _config(row))


def _peer(task: Task, row: Row, folder: Path) -> Any:
    return by_peer(task, mode_of(row), folder)


WAYS: Mapping[str, Callable[[Task, Row, Path], Any]] = {
    "coremltools": _peer,
    "corepress, data-free": _plain,
    "corepress, fitted": _fitted,
    "corepress, fitted, more samples made": _augmented,
    "corepress, more samples made, then refined": _refined,
    "corepress, fitted, texts of corepress": _with_texts,
    "corepress, texts of corepress, then refined": _refined_with_texts,
}
# Ways for models of language alone.
OF_LANGUAGE = ("corepress, fitted, texts of corepress", "corepress, texts of corepress, then refined")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], metavar="NETWORK")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where packages and results are kept")
    parser.add_argument("--one", action="store_true", help="measure one network by one way, and print lines of JSON")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True, parents=True)
    if given.one:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        for line in measure(given.networks[0], given.ways[0], given.folder):
            print(json.dumps(line), flush=True)
        return
    results = given.folder / "unseen.json"
    for network in given.networks:
        for way in given.ways:
            if way in OF_LANGUAGE and network not in TOKENIZERS:
                continue
            known = json.loads(results.read_text()) if results.exists() else {}
            arguments = ["--one", "--networks", network, "--ways", way, "--folder", given.folder]
            known.setdefault(network, {})[way] = elsewhere(__file__, *arguments)
            results.write_text(json.dumps(known, indent=1))
            put(OUTPUT, MARKS, page(known))


def measure(network: str, way: str, folder: Path) -> Iterator[dict[str, Any]]:
    """For each row the bytes of what a way makes, and its quality on like samples and on others."""
    known = NETWORKS[network]
    task = known.task(folder)
    exact = [answers(task.package, samples) for samples in (task.same, task.other)]
    for row in known.rows:
        start = time.process_time()
        model = WAYS[way](task, row, folder)
        seconds = time.process_time() - start
        qualities = [
            known.quality(samples, own, answers(model, samples))
            for samples, own in zip((task.same, task.other), exact, strict=True)
        ]
        loaded = corepress.load(model) if isinstance(model, Path) else model
        yield {"row": row.words, "size": loaded.size(), "same": qualities[0], "other": qualities[1], "cpu": seconds}


def page(results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Markdown: a table for each network."""
    parts = [machine()]
    for network, ways in results.items():
        known = NETWORKS[network]
        parts.append(f"### {network}: {known.unit}\n")
        parts.append("| form | way | bytes | like samples | of another kind | goals | CPU seconds |")
        parts.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for row in known.rows:
            goals = " / ".join("" if goal is None else f"{goal:g}" for goal in row.goals).strip(" /")
            name = row.words
            for way, lines in ways.items():
                for line in (line for line in lines if line["row"] == row.words):
                    numbers = f"{line['size']:,} | {line['same']:.3f} | {line['other']:.3f}"
                    parts.append(f"| {name} | {way} | {numbers} | {goals if name else ''} | {line['cpu']:.0f} |")
                    name = ""
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
