"""The step `rotate` of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress import recipe
from corepress.errors import ConfigError, UnsupportedError
from tests.coreml.test_rotating import WORDS, package


def test_it_rotates_before_what_follows(tmp_path: Path) -> None:
    source = package(tmp_path, tied=False)
    made = recipe.parse({"steps": [{"rotate": {"seed": 3}}, {"palettize": {"nbits": 3}}, {"refine": {"steps": 2}}]})
    assert [step.learns_by for step in made.steps] == ["", "", "the step refine"]
    random = np.random.default_rng(0)
    samples = [{"ids": random.integers(0, WORDS, (1, 6)).astype(np.int32)} for _ in range(8)]
    found = recipe.run(source, made, sample_data=samples)
    rotated = cto.rotate(source, seed=3)
    small = cto.palettize_weights(rotated, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=3)))
    expected = corepress.refine(rotated, small, samples, steps=2).model
    for one, other in zip(found.weights(), expected.weights(), strict=True):
        np.testing.assert_array_equal(one.dense(), other.dense())


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"rotate": {"seed": -1}}, "seed must be a number"),
        ({"rotate": {"seed": True}}, "seed must be a number"),
        ({"rotate": {"sed": 1}}, "seed"),
        ({"rotate": None, "names": {}}, "takes a seed only"),
    ],
)
def test_what_is_wrong_is_named(step: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe.parse({"steps": [step]})
    with pytest.raises(ConfigError, match="neural networks are not rotated"):
        recipe.parse({"steps": ["rotate"]}, networks=True)


def test_after_a_step_that_compresses_it_is_refused(tmp_path: Path) -> None:
    made = recipe.parse({"steps": [{"palettize": {"nbits": 3}}, "rotate"]})
    with pytest.raises(UnsupportedError, match="no dense constant"):
        recipe.run(package(tmp_path), made)
