"""A search whose result is refined at last: it answers better, and its recipe makes the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

import corepress
from corepress import recipe
from corepress.engine import Stopped
from corepress.errors import ConfigError
from tests.test_readme import ROOT

DIGITS = ROOT / "examples/digits.mlpackage"
IMAGES = np.load(ROOT / "examples/digits_test.npz")["images"][:, None]
SAMPLES = [{"image": image} for image in IMAGES[:60]]
QUICK = {"forms": ["palettized"], "points": 1, "workers": 1, "bits": 2}


def content(model):
    return [weight.dense().tobytes() for weight in model.weights()]


@pytest.fixture(scope="module")
def found():
    return corepress.search(DIGITS, SAMPLES, **QUICK, refine=10)


@pytest.mark.slow
def test_it_answers_better_on_samples_that_nothing_saw(found):
    plain = corepress.search(DIGITS, SAMPLES, **QUICK)
    assert found.tested["snr"] > plain.tested["snr"] + 0.5
    assert found.chosen.quality["snr"] > found.refinement.before.worst.snr
    assert found.model.size() == found.chosen.size == plain.chosen.size
    assert found.to_dict()["refinement"]["steps"] == 10 and plain.to_dict()["refinement"] is None


def test_the_recipe_makes_the_same_bytes(found):
    assert found.recipe["steps"][-1] == {"refine": {"steps": 10}}
    learnt, _ = corepress.hold_back(SAMPLES)
    again = recipe.run(DIGITS, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert content(again) == content(found.model)


@pytest.mark.slow
def test_what_gains_nothing_stays_as_it_was_chosen(monkeypatch):
    for name in ("LATENT_RATE", "RATE", "LATENT_WAY", "WAY"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", 30.0)
    found = corepress.search(DIGITS, SAMPLES, **QUICK, refine=3)
    assert found.refinement is None and "refine" not in str(found.recipe)
    assert any("is not refined: the samples held back gained nothing" in note for note in found.notes)


@pytest.mark.slow
def test_ctrl_c_keeps_the_best():
    def stop(done, total, name):
        if total == 20 and done == 12:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        corepress.search(DIGITS, SAMPLES, **QUICK, refine=20, progress=stop)
    assert stopped.value.result.refinement.ended == "stopped"


@pytest.mark.slow
def test_activations_of_8_bits_are_refined_around():
    samples = [{"image": image} for image in IMAGES[:40]]
    given = {**QUICK, "bits": None, "min_snr": 10, "target": "iOS18"}
    found = corepress.search(DIGITS, samples, **given, activations=True, refine=10)
    assert [*found.recipe["steps"][-1]] == ["refine"] and "activations" in found.recipe["steps"][-2]
    learnt, _ = corepress.hold_back(samples)
    again = recipe.run(DIGITS, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert content(again) == content(found.model)


def test_what_makes_no_sense_is_refused():
    for given in ("soon", 0, -1, True, "1.5"):
        with pytest.raises(ConfigError, match=r"refine=.*: it must be a number of steps, such as 400, or a time"):
            corepress.search(DIGITS, SAMPLES, **QUICK, refine=given)
