"""Samples that are made besides are learnt from, and never judged by; where vectors are few, that is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import recipe
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.coreml.action import Evidence
from corepress.coreml.calibrated import best
from corepress.errors import ConfigError
from corepress.split import digest

DIGITS = Path(__file__).resolve().parents[3] / "examples/digits.mlpackage"
CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=0))


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    with np.load(DIGITS.with_name("digits_test.npz")) as file:
        return [{"image": image[None]} for image in file["images"][:20]]


def test_what_is_made_comes_from_those_learnt_from_and_is_not_judged_by(samples, monkeypatch, caplog) -> None:
    splits, given = [], []
    gather, made = best._PASSES[Evidence.INPUTS], best.augmented

    def watched(model: Any, choose: Any, split: Any, *rest: Any) -> Any:
        splits.append(split)
        return gather(model, choose, split, *rest)

    def watched_augment(own: Any, *rest: Any, **options: Any) -> Any:
        given.append({digest(sample) for sample in own})
        return made(own, *rest, **options)

    monkeypatch.setitem(best._PASSES, Evidence.INPUTS, watched)
    monkeypatch.setattr(best, "augmented", watched_augment)
    with caplog.at_level(logging.WARNING, logger="corepress"):
        model = calibrated.palettize_weights(DIGITS, CONFIG, samples, augment=12)
    learnt, judged = corepress.hold_back(samples)
    assert [(len(split.learnt), len(split.judged)) for split in splits] == [(16 + 12, 4), (20 + 12, 0)]
    assert {digest(sample) for sample in splits[0].judged} == {digest(sample) for sample in judged}
    assert given[0] == {digest(sample) for sample in learnt}
    assert len(given[1]) == 20
    # The layer that reads all of an image meets one vector for each.
    few = [row for row in corepress.report(model).rows if row.few]
    assert few and all("independent vectors for" in row.few for row in few)
    assert f"{few[0].name}: {few[0].few}" in caplog.text or len(few) > 1
    assert "let some be made (augment=256)" in caplog.text

    step = {"palettize": {"nbits": 2, "weight_threshold": 0}, "method": "lut-gptq", "augment": 12}
    steps = recipe.parse({"steps": [step]})
    again = recipe.run(DIGITS, steps, sample_data=samples)
    for one, two in zip(model.weights(), again.weights(), strict=True):
        np.testing.assert_array_equal(one.dense(), two.dense())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"palettize": {"nbits": 2}, "augment": 12}, "augment makes samples to learn from: give a method"),
        ({"palettize": {"nbits": 2}, "method": "skm", "augment": "12"}, "augment must be a number of samples"),
        ({"palettize": {"nbits": 2}, "method": "skm", "augment": 0}, "augment must be a number of samples"),
    ],
)
def test_a_recipe_says_what_is_wrong(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.parse({"steps": [step]})
