"""The networks of `unseen.py`: real ones, with samples of two kinds that nothing learnt from, and what is asked.

The samples are those of `search_tasks.py`; a language model is added here, and a classifier has more varied ones.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import search_crepe
from photographs import pictures
from search_tasks import ROOT, Sample, Task, encoder, tracker
from search_ways import Row as Form

sys.path.insert(0, str(ROOT))
from tests import lite, minilm, smollm2
from tests.sentences import TEST

# One number for samples and the outputs of the original and of a compressed model for them.
Quality = Callable[[Sequence[Sample], Sequence[Any], Sequence[Any]], float]


@dataclass(frozen=True)
class Row(Form):
    """A form for all weights, and what quality it shall have on samples of both kinds.

    `goals`: on like samples and on those of another kind, as far as there are goals.
    """

    goals: tuple[float | None, float | None] = (None, None)

    @property
    def words(self) -> str:
        return f"{self.bits} bits, " + (f"groups of {self.group}" if self.group else "one table")


@dataclass(frozen=True)
class Network:
    """`task`: the package and its samples, from a folder; `quality`: what is measured, said by `unit`."""

    task: Callable[[Path], Task]
    quality: Quality
    unit: str
    rows: tuple[Row, ...]


def cosine(samples: Sequence[Sample], exact: Sequence[Any], found: Sequence[Any]) -> float:
    """The mean cosine of embeddings, which have length 1."""
    return float(np.mean([(one["result"] * other["result"]).sum() for one, other in zip(exact, found, strict=True)]))


def agreement(samples: Sequence[Sample], exact: Sequence[Any], found: Sequence[Any]) -> float:
    """The part of the images with the same first class."""
    return float(
        np.mean([one["logits"].argmax() == other["logits"].argmax() for one, other in zip(exact, found, strict=True)])
    )


def perplexity(samples: Sequence[Sample], exact: Sequence[Any], found: Sequence[Any]) -> float:
    """How many times the original's perplexity: of all texts together."""

    def loss(outputs: Sequence[Any]) -> float:
        pairs = zip(outputs, samples, strict=True)
        return float(np.mean([np.log(smollm2.perplexity(output["logits"], sample["ids"])) for output, sample in pairs]))

    return float(np.exp(loss(found) - loss(exact)))


def pitch_error(truth: dict[int, float]) -> Quality:
    """By how many cents the median error of the pitch is above the original's. `truth`: of each sample, by its id."""

    def measure(samples: Sequence[Sample], exact: Sequence[Any], found: Sequence[Any]) -> float:
        expected = [truth[id(sample)] for sample in samples]

        def error(outputs: Sequence[Any]) -> float:
            pitches = [search_crepe.heard(output["salience"]) for output in outputs]
            return float(np.median(np.abs(np.subtract(pitches, expected))))

        return error(found) - error(exact)

    return measure


_PITCHES: dict[int, float] = {}


def _singer(folder: Path) -> Task:
    task = tracker(folder, 256, 0)
    kinds = []
    for made in (search_crepe.pitched_song(128, 1), search_crepe.pitched_speech(128, 2)):
        pairs = list(made)
        _PITCHES.update({id(sample): 1200 * float(np.log2(hertz / 10)) for sample, hertz in pairs})
        kinds.append([sample for sample, _ in pairs])
    return replace(task, same=kinds[0], other=kinds[1])


def _observer(folder: Path) -> Task:
    """EfficientNet-Lite1. It learns from varied photographs; nothing learns from those of scikit-image any more."""
    path = folder / "lite1.mlpackage"
    if not path.exists():
        lite.package(folder)
    learnt, held_out = pictures(folder / "photographs")
    others = lite.samples((*lite.PHOTOGRAPHS, *lite.FRESH, *lite.LEARNT), 280, seed=1)
    return Task(
        *("EfficientNet-Lite1", path, learnt.samples(128), held_out.samples(300, seed=1), others),
        ("other photographs", "photographs of other libraries"),
    )


def _reader(folder: Path) -> Task:
    """SmolLM2-135M. It learns from what half of Python's library says of itself."""
    path = folder / "smollm2.mlpackage"
    if not path.exists():
        smollm2.package(folder)
    texts = sorted(docstrings())
    learnt, same = (list(itertools.islice(smollm2.samples(texts[start::2]), 16)) for start in (0, 1))
    other = list(itertools.islice(smollm2.samples([" ".join(TEST)]), 8))
    return Task("SmolLM2-135M", path, learnt, same, other, ("other docstrings of Python", "everyday sentences"))


def _words_of_smollm2() -> Callable[[str], list[int]]:
    return lambda text: list(smollm2.tokenizer().encode(text).ids)


# The tokenizers of models of language, by the titles of their tasks.
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "MiniLM": lambda: minilm._libraries()[1],
    "SmolLM2-135M": _words_of_smollm2,
}


def docstrings(least: int = 400) -> Iterator[str]:
    """What modules of Python's library, and what is in them, say of themselves at some length."""
    for name in ("argparse", "csv", "datetime", "decimal", "email", "heapq", "json", "logging", "random", "statistics"):
        package = importlib.import_module(name)
        names = [name, *(f"{name}.{found.name}" for found in pkgutil.iter_modules(getattr(package, "__path__", [])))]
        for module in map(importlib.import_module, names):
            held = [module, *(value for _, value in inspect.getmembers(module, inspect.isclass))]
            texts = [inspect.getdoc(value) or "" for value in held]
            yield from {" ".join(text.split()) for text in texts if len(text) >= least}


NETWORKS = {
    "MiniLM": Network(
        lambda folder: encoder(folder, 256, 128), cosine, "mean cosine of the embeddings",
        (Row(3, 16, goals=(0.98, 0.96)), Row(2, 16, goals=(0.94, 0.90))),
    ),
    "EfficientNet-Lite1": Network(
        _observer, agreement, "same first class as the original",
        (Row(4, 0, goals=(0.99, None)), Row(3, 0, goals=(0.97, None)), Row(2, 16, goals=(0.88, None))),
    ),
    "CREPE tiny": Network(
        _singer, pitch_error(_PITCHES), "cents by which the median error of the pitch grew",
        (Row(4, 0, goals=(5, None)), Row(3, 0, goals=(10, None)), Row(2, 0, goals=(25, None))),
    ),
    "SmolLM2-135M": Network(
        _reader, perplexity, "perplexity, of the original's",
        (Row(4, 16, goals=(1.06, None)), Row(3, 16, goals=(1.25, None))),
    ),
}  # fmt: skip
