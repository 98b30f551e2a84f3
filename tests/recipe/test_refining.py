"""The step `refine` of a recipe."""

from __future__ import annotations

import numpy as np
import pytest

import corepress
from corepress import recipe
from corepress.errors import ConfigError
from tests.test_readme import ROOT

DIGITS = ROOT / "examples/digits.mlpackage"
SAMPLES = [{"image": image} for image in np.load(ROOT / "examples/digits_test.npz")["images"][:40, None]]


def test_it_does_what_the_function_does():
    made = recipe.parse({"steps": [{"palettize": {"nbits": 2}}, {"refine": {"steps": 3, "seed": 5}}]})
    assert [step.learns_by for step in made.steps] == ["", "the step refine"]
    found = recipe.run(DIGITS, made, sample_data=SAMPLES)
    small = recipe.run(DIGITS, recipe.parse({"steps": [{"palettize": {"nbits": 2}}]}))
    other = corepress.refine(DIGITS, small, SAMPLES, steps=3, seed=5).model
    for one, two in zip(found.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(one.dense(), two.dense())


def test_it_needs_samples():
    made = recipe.parse({"steps": [{"palettize": {"nbits": 2}}, "refine"]})
    with pytest.raises(ConfigError, match="learns from samples"):
        recipe.run(DIGITS, made)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"refine": {"steps": 0}}, "steps"),
        ({"refine": {"time": "soon"}}, "a time is a number of seconds"),
        ({"refine": {"step": 3}}, "steps"),
        ({"refine": {}, "method": "gptq"}, "takes its settings only"),
    ],
)
def test_what_makes_no_sense_is_refused(step, said):
    with pytest.raises(ConfigError, match=said):
        recipe.parse({"steps": [step]})


def test_networks_do_not_learn():
    with pytest.raises(ConfigError, match="neural networks do not learn"):
        recipe.parse({"steps": ["refine"]}, networks=True)
