"""How far a fit follows its samples is chosen by those held back; what it shifts goes into the bias."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import corepress
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import Shrinkage, Statistics
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    calibrated,
    palettize_weights,
)
from corepress.coreml.calibrated import calibration, judging, shrinking
from corepress.coreml.calibrated.shrinking import DAMPENINGS, SHARES, best_form, some_rows
from corepress.coreml.methods import METHODS
from corepress.weights import decompress
from tests.oracle import peer_weights
from tests.packages import saved

ROWS, COLUMNS = 32, 24
CONFIGS = {
    "palettize": OpPalettizerConfig(nbits=2, weight_threshold=100),
    "quantize": OpLinearQuantizerConfig(dtype="int4", weight_threshold=100),
    "prune": OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=100),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with biases, the second behind a ReLU, so that the mean of its inputs is far from zero."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((4, COLUMNS))], opset_version=ct.target.iOS18)
    def program(x):
        one, two = (rng.normal(size=shape).astype(np.float32) for shape in ((COLUMNS, COLUMNS), (ROWS, COLUMNS)))
        bias = rng.normal(size=(2, ROWS)).astype(np.float32)
        x = mb.relu(x=mb.linear(x=x, weight=one, bias=bias[0, :COLUMNS], name="first"))
        return mb.linear(x=x, weight=two, bias=bias[1], name="second")

    return saved(program, tmp_path_factory.mktemp("shrinking") / "net.mlpackage")


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng, directions = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(5, COLUMNS))
    return [
        {"x": (rng.normal(size=(4, 5)) @ directions + 0.3 * rng.normal(size=(4, COLUMNS)) + 1).astype(np.float32)}
        for _ in range(count)
    ]


def known(count: int, seed: int) -> Statistics:
    """Vectors like those of the samples, and what they were before a layer before them was compressed."""
    found, rng = Statistics(Layout((ROWS, COLUMNS))), np.random.default_rng(seed)
    original = np.concatenate([sample["x"] for sample in samples(count, seed)])
    own = original + 0.5 * original[:, ::-1] + 0.3 * rng.normal(size=original.shape)
    found.add(*(torch.from_numpy(part[None].astype(np.float32)) for part in (own, original)))
    return found


@pytest.mark.parametrize("kind", ["palettize", "quantize", "prune"])
def test_the_choice_is_near_the_best_of_all(kind: str, package: Path) -> None:
    """Every share, with and without an intercept, at every dampening, by brute force."""
    method = METHODS[kind]
    plan = method.plan(corepress.load(package), OptimizationConfig(CONFIGS[kind]), False, next(iter(method.fitted)))
    weight = next(weight for weight in plan.weights if weight.shape == (ROWS, COLUMNS))
    action, exact = plan.choose(weight), weight.dense()
    for seed in range(3):
        learnt, judged = known(20, 2 * seed), known(20, 2 * seed + 1)

        def error(how: Shrinkage, form, learnt=learnt, judged=judged) -> float:
            dense = decompress(form)
            return judged.error(exact, dense, learnt.shift(exact, dense) if how.intercept else None)

        ways = [Shrinkage(*way) for way in product(DAMPENINGS, SHARES, (False, True))]
        errors = {how: error(how, action.fit(weight.read(), learnt.shrunk(how))) for how in ways}
        plain = min(error(Shrinkage(intercept=own), action(weight)) for own in (False, True))
        given = best_form(weight, action, learnt, judged, folds=True)
        least = min(errors.values())
        assert given.how in ways and not given.unfitted
        assert error(given.how, given.form) == pytest.approx(errors[given.how])
        # It tries one thing after the other, and gives away a fifth of the gain for what follows less.
        assert errors[given.how] <= least + 0.3 * (plain - least)
        # Without a bias none is shifted.
        assert best_form(weight, action, learnt, judged, folds=False).shift is None


@given(st.integers(1, 3000), st.integers(1, 40))
def test_some_rows_are_whole_groups(groups: int, together: int) -> None:
    count = groups * together
    rows = some_rows(count, together)
    assert len(set(rows)) == len(rows) >= min(count, 64) and 0 <= rows.min() <= rows.max() < count
    assert set(rows) == {first + i for first in rows[::together] for i in range(together)}
    assert (rows[::together] % together == 0).all()
    assert len(rows) == count or len(rows) <= max(count // 2, 64)


@pytest.mark.parametrize("kind", ["palettize", "quantize", "prune"])
def test_some_rows_choose_for_all(kind: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a quarter of the rows finds best costs about as much as what all of them do."""
    model, method = corepress.load(package), METHODS[kind]
    plan = method.plan(model, OptimizationConfig(CONFIGS[kind]), False, next(iter(method.fitted)))
    rng, many = np.random.default_rng(0), 640
    for transposed in (False, True):
        exact = rng.normal(size=(COLUMNS, many) if transposed else (many, COLUMNS)).astype(np.float32)
        weight = Held(exact)
        learnt, judged = (known(20, seed) for seed in (0, 1))
        for statistics in (learnt, judged):
            statistics.layout = Layout(exact.shape, transposed=transposed)
        action = plan.choose(next(weight for weight in plan.weights if weight.shape == (ROWS, COLUMNS)))

        def error(learnt=learnt, judged=judged, weight=weight, action=action, exact=exact) -> float:
            given = best_form(weight, action, learnt, judged, folds=True)
            return judged.error(exact, decompress(given.form), given.shift)

        by_some = error()
        with monkeypatch.context() as patch:
            patch.setattr(shrinking, "some_rows", lambda count, together: np.arange(count))
            by_all = error()
        # A fifth of the gain over the form without data is given away in any case.
        assert by_some <= by_all + 0.2 * (judged.error(exact, decompress(action(weight))) - by_all)


class Held:
    """What is asked of a weight that no package holds."""

    name = "weight"

    def __init__(self, value: np.ndarray):
        self.value, self.shape, self.compression = value, value.shape, ""

    def read(self) -> np.ndarray:
        return self.value

    def dense(self) -> np.ndarray:
        return self.value


def test_what_shifts_goes_into_the_bias(package: Path, tmp_path: Path) -> None:
    """coremltools reads the new biases, which bring the mean of the outputs near that of the original."""
    config, given = OptimizationConfig(CONFIGS["palettize"]), samples(200)
    model = calibrated.palettize_weights(package, config, given, held_back=0)
    path = tmp_path / "small.mlpackage"
    model.save(path)
    before, after = peer_weights(package), peer_weights(path)
    assert sum(before[name].ndim == 1 and not np.array_equal(before[name], after[name]) for name in before) == 2

    def outputs(one: Any) -> np.ndarray:
        program = corepress.runtime.load(one)
        return np.concatenate([next(iter(program.predict(sample).values())) for sample in given])

    def shifted(one: Any) -> float:
        """The mean of the outputs' errors beside their spread."""
        errors = outputs(one) - outputs(package)
        return float(np.abs(errors.mean(0) / errors.std(0)).mean())

    # Not zero: vectors don't count alike, as the mean does.
    assert shifted(path) < 0.5 * shifted(palettize_weights(package, config))
    report = corepress.report(model)
    assert {row.name for row in report.rows if row.changed} == {row.name for row in report.compressed}


def test_two_passes_go_the_same_way(package: Path) -> None:
    """What was chosen with samples held back is what all samples are fitted with; the same call, the same bytes."""
    config = OptimizationConfig(CONFIGS["palettize"])
    one, two = (calibrated.palettize_weights(package, config, samples(40)) for _ in range(2))
    for first, second in zip(one.weights(), two.weights(), strict=True):
        np.testing.assert_array_equal(first.dense(), second.dense())
    assert replace(corepress.report(one), rows=()) == replace(corepress.report(two), rows=())


def test_two_passes_count_vectors_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gradients of the same samples; what comes out is what counting twice gives."""
    config, asked, original = OptimizationConfig(CONFIGS["palettize"]), [], calibration.of_vectors

    def counting(*given: Any) -> Any:
        asked.append(given)
        return original(*given)

    monkeypatch.setattr(calibration, "of_vectors", counting)
    once = calibrated.palettize_weights(package, config, samples(40))
    assert len(asked) == 1
    monkeypatch.setattr(judging.Split, "all_learnt", lambda split: judging.Split(split.samples, []))
    twice = calibrated.palettize_weights(package, config, samples(40))
    assert len(asked) == 3
    for first, second in zip(once.weights(), twice.weights(), strict=True):
        np.testing.assert_array_equal(first.dense(), second.dense())
