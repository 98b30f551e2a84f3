"""Layers that draw numbers: shape, distribution, and the same each time with a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress.errors import FormatError
from tests.lazy import lazy
from tests.runtime.networks.made import network, program

stats = lazy("scipy.stats")

COUNT = 20_000
KINDS: dict[str, tuple[dict[str, float], Any]] = {
    "normal": ({"mean": 2.0, "stddev": 3.0}, lambda x: stats.norm(2, 3).cdf(x)),
    "uniform": ({"minval": -1.0, "maxval": 4.0}, lambda x: stats.uniform(-1, 5).cdf(x)),
    "bernoulli": ({"prob": 0.3}, None),
}


def build(kind: str, way: str, seed: int, shape: tuple[int, ...]) -> Any:
    options = KINDS[kind][0] | {"seed": seed}

    def layers(b: Any) -> None:
        add = getattr(b, f"add_random_{kind}_{way}")
        if way == "static":
            add("l", output_name="y0", output_shape=list(shape), **options)
        elif way == "like":
            add("l", input_name="x0", output_name="y0", **options)
        else:
            add("l", input_names=["x0"], output_name="y0", **options)

    return layers


@pytest.mark.parametrize("way", ["like", "static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_draws(kind, way) -> None:
    shape = (4, COUNT // 4)
    given = np.array(shape, np.float32) if way == "dynamic" else np.zeros(shape, np.float32)

    def draw(seed: int) -> Any:
        return program(network(build(kind, way, seed, shape), given.shape)).predict({"x0": given})["y0"]

    first = draw(7)
    assert first.shape == shape and first.dtype == np.float32
    np.testing.assert_array_equal(first, draw(7))
    assert (first != draw(8)).any() and (draw(-1) != draw(-1)).any()
    if (distribution := KINDS[kind][1]) is not None:
        # The draw is fixed by its seed, so that the test is, too.
        assert stats.kstest(first.ravel(), distribution).pvalue > 0.01
    else:
        assert set(np.unique(first)) == {0, 1}
        assert stats.binomtest(int(first.sum()), COUNT, 0.3).pvalue > 0.01


PARTS = np.array([[0.1, 0.2, 0.7], [0.0, 0.5, 0.5]])


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_categories(logits, temperature) -> None:
    with np.errstate(divide="ignore"):
        given = np.maximum(np.log(PARTS) + 3, -30) if logits else PARTS
    spec = network(
        lambda b: b.add_categorical_distribution("l", "x0", "y0", COUNT, logits, temperature=temperature, seed=3),
        given.shape,
    )
    found = program(spec).predict({"x0": given})["y0"]
    assert found.shape == (2, COUNT)
    for row, parts in zip(found, PARTS ** (1 / temperature), strict=True):
        counts = np.bincount(row.astype(int), minlength=3)
        possible = parts > 0
        assert counts[~possible].sum() == 0
        expected = COUNT * parts[possible] / parts.sum()
        assert stats.chisquare(counts[possible], expected).pvalue > 0.01


def test_hostile_sizes_are_refused() -> None:
    def huge(b: Any) -> None:
        b.add_random_normal_static("l", "y0", [1 << 40, 1 << 40])

    def negative(b: Any) -> None:
        b.add_categorical_distribution("l", "x0", "y0", -5)

    for layers in (huge, negative):
        with pytest.raises(FormatError, match="'l' can't be computed"):
            program(network(layers, (3,))).predict({"x0": [1, 2, 3]})
