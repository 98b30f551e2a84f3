"""The models that `search.py` compresses: real ones, with samples to learn from and others to judge by.

Nothing that compresses ever sees the latter. They are of two kinds: the kind that was learnt from, and another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import search_crepe
from corepress.metrics import Sums
from corepress.runtime import load
from other_kinds import disturbed, prose

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the encoder, the classifier and the sentences of the tests
from tests import lite, minilm  # noqa: E402
from tests.sentences import CALIBRATION, TEST  # noqa: E402

Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A package, and samples of its inputs.

    `learnt`: to learn from. `same`, `other`: to judge by, of the same kind and of another one, each with its words.
    """

    title: str
    package: Path
    learnt: Sequence[Sample]
    same: Sequence[Sample]
    other: Sequence[Sample]
    kinds: tuple[str, str]


@dataclass(frozen=True)
class Score:
    """How near the outputs of a compressed model are to the original's: dB, a cosine, and the part of the samples with
    the same largest output."""

    snr: float
    cosine: float
    agreement: float


def answers(model: Any, samples: Sequence[Sample], precision: str = "as_is") -> list[dict[str, np.ndarray]]:
    """The outputs for each sample."""
    program = load(model, precision=precision)
    return [dict(program.predict(sample)) for sample in samples]


def score(exact: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Score:
    """Over all samples together. (Embeddings have length 1, so that their cosine is the mean of their cosines.)"""
    sums = Sums()
    for one, other in zip(exact, found, strict=True):
        for name in one:
            sums.add_output(name, one[name], other[name])
    row = sums.row("outputs")
    assert row.snr is not None and row.cosine is not None and row.top1 is not None
    return Score(row.snr, row.cosine, row.top1)


def digits(folder: Path, learnt: int, tests: int) -> Task:
    """The example package, for the digits of scikit-learn."""
    from tools import build_digits

    train, test, _, _ = build_digits.digits()
    return _images("digits", ROOT / "examples" / "digits.mlpackage", train[:learnt], test[:tests])


def mnist(folder: Path, learnt: int, tests: int) -> Task:
    """The network of the MNIST examples, after an epoch of training."""
    from examples.mnist import load as load_mnist

    from quality_tasks import MNIST, mnist_network

    task = mnist_network(folder, learnt, epochs=1)
    train, _, test, _ = load_mnist(MNIST)
    return _images("MNIST", task.package, train[:learnt].numpy(), test[:tests].numpy())


def _images(title: str, package: Path, learnt: np.ndarray, test: np.ndarray) -> Task:
    same, other = (_samples("image", images) for images in (test, disturbed(test)))
    return Task(title, package, _samples("image", learnt), same, other, ("other images", "turned, noisy images"))


def encoder(folder: Path, learnt: int, tests: int) -> Task:
    """all-MiniLM-L6-v2, for iOS18."""
    package = _converted(folder / "minilm.mlpackage", lambda: minilm.package(folder, target="iOS18"))
    same, other = minilm.samples(TEST[:tests]), minilm.samples(prose(tests))
    return Task(
        "MiniLM", package, minilm.samples(CALIBRATION[:learnt]), same, other, ("other sentences", "docstrings of NumPy")
    )


def tracker(folder: Path, learnt: int, tests: int) -> Task:
    """CREPE tiny, with its sounds."""
    package = _converted(folder / "crepe.mlpackage", lambda: search_crepe.package(folder))
    learnt_from, same = search_crepe.sung(learnt, seed=0), search_crepe.sung(tests, seed=1)
    return Task(
        *("CREPE tiny", package, learnt_from, same, search_crepe.spoken(tests, seed=2)),
        ("other notes", "gliding voices in noise"),
    )


def classifier(folder: Path, learnt: int, tests: int) -> Task:
    """EfficientNet-Lite1, with photographs."""
    package = _converted(folder / "lite1.mlpackage", lambda: lite.package(folder))
    same, other = lite.samples(lite.PHOTOGRAPHS, tests, seed=1), lite.samples(lite.OTHERS, tests, seed=2)
    return Task(
        *("EfficientNet-Lite1", package, lite.samples(lite.LEARNT, learnt), same, other),
        ("other photographs", "drawings, print, microscopy"),
    )


def _converted(path: Path, convert: Callable[[], object]) -> Path:
    if not path.exists():
        convert()
    return path


def _samples(name: str, arrays: np.ndarray) -> list[Sample]:
    return [{name: arrays[index : index + 1]} for index in range(len(arrays))]


# By title; the packages are kept in the folder. The numbers are of samples to learn from and of each kind to judge by.
TASKS: dict[str, Callable[[Path, int, int], Task]] = {
    "MiniLM": encoder,
    "digits": digits,
    "MNIST": mnist,
    "CREPE tiny": tracker,
    "EfficientNet-Lite1": classifier,
}
