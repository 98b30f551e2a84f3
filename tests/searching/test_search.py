"""`corepress.search` on a package: budgets hold, goals are met, recipes repeat, and wrong input is one sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corepress as cto
from corepress import recipe
from corepress.errors import ConfigError, DataError
from corepress.searching.damage import Prices
from corepress.searching.goals import Goal
from corepress.searching.loop import Found, Search
from corepress.searching.result import Point, Result
from corepress.searching.run import Split, _tested, parted

pytestmark = pytest.mark.usefixtures("one_thread")
DIGITS = "examples/digits.mlpackage"
QUICK = {"forms": ["palettized", "quantized"], "points": 1, "workers": 1}


def images(count=30, seed=0):
    from sklearn.datasets import load_digits

    chosen = np.random.default_rng(seed).permutation(1797)[:count]
    return [{"image": image[None, None].astype(np.float32) / 16} for image in load_digits().images[chosen]]


@pytest.fixture(scope="module")
def samples():
    return images()


@pytest.fixture(scope="module")
def at_four_bits(samples):
    return cto.search(DIGITS, samples, bits=4, **QUICK)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(45_000, 460_000))
def test_a_size_is_never_exceeded(samples, tmp_path, budget):
    found = cto.search(DIGITS, samples, max_size=budget, **QUICK)
    assert found.met
    saved = found.model.save(tmp_path / f"{budget}.mlpackage")
    assert saved.size() == found.chosen.size <= budget


@pytest.mark.slow
def test_outliers_may_be_chosen_and_are_counted(samples, tmp_path):
    budget = 150_000
    found = cto.search(DIGITS, samples, max_size=budget, forms=["outliers"], points=1, workers=1)
    saved = found.model.save(tmp_path / "small.mlpackage")
    assert found.met and saved.size() == found.chosen.size <= budget
    assert any(weight.name.endswith("_outliers") for weight in saved.weights())
    assert "outlier_fraction" in str(found.recipe)


@pytest.mark.slow
def test_what_the_recipe_makes_has_the_same_bytes(samples, tmp_path):
    found = cto.search(DIGITS, samples, bits=2.7, forms=["palettized", "joint"], min_group=16, points=1, workers=1)
    found.save_recipe(tmp_path / "recipe.yaml")
    again = recipe.run(DIGITS, recipe.load(tmp_path / "recipe.yaml"), spare_constants=True)
    one, other = (model.save(tmp_path / name) for model, name in ((found.model, "a.mlpackage"), (again, "b.mlpackage")))
    files = [sorted(p for p in model.path.rglob("*") if p.is_file()) for model in (one, other)]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    assert found.chosen.bits <= 2.7


@pytest.mark.slow
@pytest.mark.parametrize("augment", [0, 30])
def test_fitted_results_repeat_from_the_recipe_and_the_samples(samples, augment):
    found = cto.search(DIGITS, samples, bits=2.5, method="fitted", augment=augment, **QUICK)
    learnt, _ = cto.hold_back(samples)
    again = recipe.run(DIGITS, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    for one, other in zip(found.model.weights(), again.weights(), strict=True):
        assert np.array_equal(one.dense(), other.dense())


def test_it_beats_one_form_for_all_at_the_same_bytes(samples):
    config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
    uniform = cto.coreml.palettize_weights(DIGITS, config, spare_constants=True)
    found = cto.search(DIGITS, samples, max_size=uniform.size(), **QUICK)
    assert 0.98 * uniform.size() <= found.chosen.size <= uniform.size()
    unseen = images(60, seed=1)
    snrs = [cto.verify(DIGITS, model, unseen).worst.snr for model in (uniform, found.model)]
    assert snrs[1] > snrs[0] + 3


def test_a_quality_is_kept_on_the_samples_that_nothing_saw(samples):
    found = cto.search(DIGITS, samples, min_snr=25, **QUICK)
    assert found.met and found.tested["snr"] >= 25
    assert found.chosen.quality["snr"] >= 25
    assert found.chosen.size < cto.load(DIGITS).size() / 2


def test_a_quality_that_cannot_be_had_gives_the_best_and_says_how_far_off(samples):
    found = cto.search(DIGITS, samples, min_snr=500, **QUICK)
    assert not found.met
    assert "below 500 dB" in found.summary
    assert found.chosen.quality["snr"] == max(point.quality["snr"] for point in found.points)
    assert found.chosen.weights and any(weight.form != "dense" for weight in found.chosen.weights)


@pytest.mark.slow
def test_what_misses_a_goal_is_not_rounded_to_it(samples):
    found = cto.search(DIGITS, samples, min_cosine=1, **QUICK)
    assert not found.met and "cosine 0.99999" in found.summary and found.summary.endswith("below 1")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["of a sample", "of the model"])
def test_a_metric_of_the_caller_decides(samples, whole):
    def confidence(outputs, sample):
        return float(outputs["logits"].max())

    def of_model(program):
        return float(np.mean([confidence(program.predict(sample), sample) for sample in samples]))

    found = cto.search(DIGITS, samples, max_drop=0.5, metric=of_model if whole else confidence, **QUICK)
    name = "of_model" if whole else "confidence"
    assert found.met and found.metric == name
    assert found.tested[name] >= found.least
    if not whole:  # the mean over other samples is another one, of the original, too
        program = cto.runtime.load(DIGITS, precision="float32")
        before = np.mean([confidence(program.predict(sample), sample) for sample in parted(samples, None).tested])
        assert found.least == pytest.approx(before - 0.5)


@pytest.mark.slow
def test_a_metric_called_as_one_of_ours_is_another_one(samples):
    def kl(outputs, sample):
        return float(outputs["logits"].max())  # more is better, as always

    found = cto.search(DIGITS, samples, max_drop=0.5, metric=kl, **QUICK)
    assert found.met and found.metric == "your kl" and found.tested["your kl"] >= found.least


@pytest.mark.slow
def test_what_is_measured_for_the_front_may_be_chosen(samples):
    given = {"forms": ["palettized"], "points": 8, "workers": 1}
    found = cto.search(DIGITS, samples, bits=3.5, **given)
    within = [point for point in found.points if point.bits <= 3.5]
    assert found.chosen == max(within, key=lambda point: point.quality["snr"])
    found = cto.search(DIGITS, samples, min_snr=20, **given)
    good = [point for point in found.points if point.quality["snr"] >= 20]
    assert found.tested["snr"] < 20 or found.chosen == min(good, key=lambda point: point.size)


def test_what_is_within_the_budget_stays_as_it_is_and_that_is_said_at_once(samples):
    stages = []
    for goal in ({"max_size": "10MB"}, {"bits": 20}):
        found = cto.search(DIGITS, samples, **goal, progress=lambda _, __, stage: stages.append(stage))
        assert "within the budget and stays as it is" in found.notes[0] and found.met
        assert found.chosen.size == cto.load(DIGITS).size() == found.model.size() and not found.recipe["steps"]
    assert set(stages) == {"measuring models"}


@pytest.mark.slow
def test_what_seems_to_be_a_little_over_the_budget_is_measured(samples, monkeypatch):
    learnt, measure, seen = Search._with_what_is_around, Search._measure, []

    def rough(self, whole):  # what is learnt from one weight can be off by the alignment of a blob
        return [[row[0], *(size + 50 for size in row[1:])] for row in learnt(self, whole)]

    def watched(self, choices):
        seen.extend([self.subject.items[n].candidates[i].label for n, i in enumerate(choice)] for choice in choices)
        measure(self, choices)

    monkeypatch.setattr(Search, "_with_what_is_around", rough)
    monkeypatch.setattr(Search, "_measure", watched)
    config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=3))
    alike = cto.coreml.palettize_weights(cto.load(DIGITS), config).size()
    found = cto.search(DIGITS, samples, max_size=alike, forms=["palettized"], min_group=512, points=1, workers=1)
    assert ["palettized 3 bits"] * 4 in seen and found.chosen.size <= alike


def test_one_form_for_all_takes_what_beats_it_where_that_is_so():
    sizes, damages = [[100, 50, 40, math.inf, 45]], [[0.0, 3.0, math.inf, math.inf, math.inf]]
    search = SimpleNamespace(spent=sizes, prices=Prices(sizes, damages, []))
    assert [Search._there(search, 0, index) for index in range(5)] == [0, 1, 0, 0, 0]
    damages[0][2] = 1.0  # which so beats the last one
    assert [Search._there(search, 0, index) for index in range(5)] == [0, 1, 2, 0, 2]


def test_the_recipe_of_what_is_within_the_budget_can_be_run(samples, tmp_path):
    found = cto.search(DIGITS, samples, max_size="10MB", target="iOS26")
    assert found.recipe == {"steps": []} and "a target has no effect" in found.notes[0]
    found.save_recipe(tmp_path / "as it is.yaml")
    again = recipe.run(DIGITS, recipe.load(tmp_path / "as it is.yaml"))
    assert again.spec == found.model.spec == cto.load(DIGITS).spec


@pytest.mark.slow
def test_the_smallest_model_there_is_can_be_asked_for(samples, tmp_path):
    with pytest.raises(ConfigError, match="the least is about") as refused:
        cto.search(DIGITS, samples, max_size=20_000, **QUICK)
    least = int(str(refused.value).rpartition(" ")[2].replace(",", ""))
    found = [cto.search(DIGITS, samples, max_size=least + more, **QUICK) for more in (200, 600)]
    assert all(least - 1000 < one.chosen.size <= least + 600 for one in found)


def test_a_verdict_shows_the_number_that_misses_the_goal():
    point = Point(100, 4.0, {"snr": 19.0}, {"steps": []}, chosen=True)
    missed = Result(None, (point,), "snr", {"snr": 21.0}, False, least=20.0)
    assert missed.summary.endswith("SNR 19 dB, below 20 dB")
    kept = replace(missed, met=True)
    assert kept.summary.endswith("SNR 21 dB, not below 20 dB")


def test_a_model_that_is_larger_than_its_draft_was_never_counts_as_within_the_budget():
    subject = SimpleNamespace(make=lambda choice: "large", size=lambda model: 110)
    point = Point(90, 4.0, {"snr": 20.0}, {"steps": []}, chosen=True)
    found = Found([point], [(0,)], True, [])
    result = _tested(subject, found, Goal(size=100), None, Split([], [], [], ()))
    assert not result.met and result.chosen.size == 110


def test_few_samples_to_test_by_are_told_of(samples, at_four_bits):
    assert at_four_bits.samples["tested"] == 3
    assert any("3 different samples" in note for note in at_four_bits.notes)


def test_the_same_seed_gives_the_same(samples, at_four_bits):
    again = cto.search(DIGITS, samples, bits=4, **QUICK)
    assert again.to_dict() == at_four_bits.to_dict()


@pytest.mark.slow
def test_the_front_only_rises(samples):
    found = cto.search(DIGITS, samples, bits=3, forms=["palettized"], points=6, workers=1)
    assert len(found.points) > 3
    assert [point.size for point in found.points] == sorted(point.size for point in found.points)
    others = [point.quality["snr"] for point in found.points if not point.chosen]
    assert others == sorted(others)
    assert sum(point.chosen for point in found.points) == 1


def test_forms_with_a_warning_are_left_out_when_it_shall_be_safe(samples):
    found = cto.search(DIGITS, samples, bits=4, safe=True, **QUICK)
    wrong = {finding.rule.id for finding in cto.lint(found.model).items if finding.rule.severity != "no gain"}
    assert not wrong & {"blocks-of-integers", "lut4-per-tensor", "scale-over-lut"}


def test_few_samples_are_told_of():
    found = cto.search(DIGITS, images(3), bits=4, **QUICK)
    assert not found.tested
    assert any("too few different samples" in note for note in found.notes)


def test_a_metric_of_samples_does_without_a_final_number_where_none_is_held_back():
    found = cto.search(DIGITS, images(3), bits=4, metric=lambda outputs, sample: outputs["logits"].max(), **QUICK)
    assert not found.tested and "<lambda>" in found.chosen.quality


def test_what_stays_as_it_is_is_told_of(at_four_bits):
    assert any("conv1_weight_to_fp16" in note for note in at_four_bits.notes)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"max_size": 1000}, ConfigError, "the least is about"),
        ({"data": []}, ConfigError, "data is empty"),
        ({"data": [{"picture": np.zeros((1, 1, 8, 8), "f4")}]}, ConfigError, "picture|image"),
        ({"data": [{"image": np.full((1, 1, 8, 8), math.nan, "f4")}]}, (ConfigError, DataError), "finite|NaN"),
        ({"method": "magic"}, ConfigError, 'method=.magic.: it must be "plain" or "fitted"'),
        ({"cost": "gold"}, ConfigError, 'cost=.gold.: it must be "size" or "speed"'),
        ({"augment": 9}, ConfigError, 'augment=9 has no effect without method="fitted"'),
        ({"augment": -1, "method": "fitted"}, ConfigError, "augment=-1: it must be 0 or more"),
        ({"points": 0}, ConfigError, "points=0: at least 1 is needed"),
        ({"min_group": 0}, ConfigError, "min_group=0: at least 1 is needed"),
        ({"forms": []}, ConfigError, "it must be a list of at least one of palettized"),
        ({"forms": "palettized"}, ConfigError, "it must be a list"),
        ({"target": "iOS15"}, ConfigError, "iOS15"),
        ({"max_size": None, "max_drop": 1, "metric": lambda outputs, sample: math.nan}, ConfigError, "gave nan"),
        ({"max_size": None, "max_drop": 1, "metric": lambda out, sample: out["no"]}, ConfigError, "raised KeyError"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(samples, change, error, sentence):
    given = {"data": samples, "max_size": "100kB", **QUICK, **change}
    with pytest.raises(error, match=sentence):
        cto.search(DIGITS, given.pop("data"), **given)
