"""Histograms against NumPy, and marks against what the forms decompress to."""

from __future__ import annotations

import numpy as np
import pytest

from corepress.reports.histograms import BINS, histogram
from corepress.weights import Palettized, Quantized, Sparse
from tests.reports.made import Weight

RNG = np.random.default_rng(0)
DENSE = RNG.normal(size=(32, 32)).astype(np.float16)
INDICES = RNG.integers(0, 4, (32, 32), dtype=np.uint8)
TABLE = np.array([-1.5, -0.5, 0.5, 1.5], np.float16)


def palettized(groups: int = 1) -> Palettized:
    tables = np.stack([TABLE * (group + 1) for group in range(groups)]).reshape(groups, 1, 4, 1)
    return Palettized(INDICES, tables)


def test_bars_are_those_of_numpy() -> None:
    made = histogram(Weight("w", DENSE), Weight("w", palettized()))
    counts, edges = np.histogram(DENSE.astype(np.float32), BINS)
    assert np.allclose(made.shares, 100 * counts / DENSE.size, rtol=1e-4)
    assert np.allclose(made.edges, edges, rtol=1e-4, atol=1e-6)
    assert np.isclose(sum(made.shares), 100, atol=0.01)


@pytest.mark.parametrize(
    "stored",
    [
        palettized(),
        Quantized(RNG.integers(-8, 8, (32, 32), dtype=np.int8), np.full((1, 1), 0.25, np.float16), bits=4),
        Quantized(
            RNG.integers(0, 256, (32, 32)).astype(np.uint8), np.full((1, 1), 0.01, np.float32),
            np.full((1, 1), 128, np.uint8),
        ),
        Quantized(palettized(), np.full((1, 1), 0.5, np.float16)),
        Sparse(RNG.random((32, 32)) < 0.5, palettized()),
    ],
    ids=["palettized", "int4", "uint8", "scaled", "sparse"],
)  # fmt: skip
def test_every_value_that_is_stored_lies_on_a_mark(stored) -> None:
    made = histogram(Weight("w", DENSE), Weight("w", stored))
    values = np.unique(stored.decompress()).astype(np.float64)
    nearest = np.abs(values[:, None] - np.array(made.marks)[None]).min(axis=1)
    assert (nearest <= 1e-3 * (1 + np.abs(values))).all()


def test_words() -> None:
    def words(stored) -> str:
        return histogram(Weight("w", DENSE), Weight("w", stored)).words

    assert words(palettized()) == "the 4 entries of its look-up table"
    assert words(palettized(8)) == "the 4 entries of its look-up table, the first of 8 tables"
    scales = np.full((32, 1), 0.25, np.float16)
    assert "16 steps of its grid, the first of 32 scales" in words(Quantized(INDICES.view(np.int8), scales, bits=4))
    half = np.zeros((32, 32), bool)
    half[:16] = True
    assert words(Sparse(half, palettized())).endswith(
        "50 % of the values became zero, which takes one bit of a mask each"
    )
    assert words(Sparse(half, DENSE)).startswith("50 %") and words(DENSE) == ""
    vectors = Palettized(INDICES, RNG.normal(size=(1, 1, 4, 2)).astype(np.float16), vector_axis=0)
    assert "vectors of 2" in words(vectors)


def test_a_weight_that_only_has_its_numbers() -> None:
    class Layer:
        def dense(self) -> np.ndarray:
            return palettized().decompress()

    made = histogram(Weight("w", DENSE), Layer())
    assert made.marks == tuple(TABLE.tolist()) and made.words == "the 4 values that it has"


def test_what_has_no_histogram() -> None:
    for values in (np.zeros((4, 4)), np.full((4, 4), np.nan), np.array([1.0])):
        assert histogram(Weight("w", values), Weight("w", values)) is None
    mask = np.array([0, 1, 2, -np.inf], np.float32)
    assert sum(histogram(Weight("w", mask), Weight("w", mask)).shares) == pytest.approx(100, abs=0.01)
