"""A fit that is worse than none on samples that it has not seen is not used, and that is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import corepress
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import Statistics
from corepress.coreml import OpLinearQuantizerConfig, OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.coreml.action import Evidence
from corepress.coreml.calibrated import best
from corepress.coreml.calibrated.fit import WORSE, Decided
from corepress.coreml.calibrated.judging import WORSE_AS_A_WHOLE, Split, is_better
from corepress.coreml.palettize import palettize_weights
from corepress.coreml.quantize import linear_quantize_weights
from corepress.errors import ConfigError
from tests.packages import saved

BITS = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=100))
COLUMNS = 96
# Of the channels: where inputs are large, weights are, too, so that it pays to know which ones.
SCALES = np.exp(np.random.default_rng(8).normal(size=COLUMNS))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers side by side, each with an input and an output of its own."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    specs = [mb.TensorSpec((1, COLUMNS), types.fp32), mb.TensorSpec((16, COLUMNS), types.fp32)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(white, rich):
        first, second = ((rng.normal(size=(48, COLUMNS)) * SCALES).astype(np.float32) for _ in range(2))
        return (
            mb.linear(x=white, weight=mb.const(val=first, name="first"), name="one"),
            mb.linear(x=rich, weight=mb.const(val=second, name="second"), name="two"),
        )

    return saved(program, tmp_path_factory.mktemp("held") / "net.mlpackage")


def samples(count: int, seed: int = 0, white: bool = True) -> list[dict[str, np.ndarray]]:
    """One vector of white noise, or else of a few directions, for the first layer; many of a few for the second."""
    rng, directions = np.random.default_rng(seed), np.random.default_rng(5).normal(size=(6, COLUMNS))

    def few(rows: int) -> np.ndarray:
        return (rng.normal(size=(rows, 6)) @ directions + 0.1 * rng.normal(size=(rows, COLUMNS))) * SCALES

    return [
        {
            "white": (rng.normal(size=(1, COLUMNS)) if white else few(1)).astype(np.float32),
            "rich": few(16).astype(np.float32),
        }
        for _ in range(count)
    ]


def errors(package: Path, model: corepress.Model, white: bool = True) -> dict[str, float]:
    result = corepress.verify(package, model, samples(64, seed=9, white=white))
    return {row.name: -(row.snr or 0.0) for row in result.rows}


def stored(model: corepress.Model) -> dict[str, np.ndarray]:
    return {weight.name: weight.dense().copy() for weight in model.weights() if weight.compression}


def same(one: corepress.Model, other: corepress.Model) -> set[str]:
    """The names of the weights that are equal."""
    first, second = stored(one), stored(other)
    return {name for name in first if np.array_equal(first[name], second[name])}


def test_white_noise_with_few_rows_is_hardly_followed(package: Path) -> None:
    given = samples(16)
    plain = palettize_weights(package, BITS)
    learnt, judged = corepress.hold_back(given)
    blind = calibrated.palettize_weights(package, BITS, [*learnt, *judged], held_back=0)
    # What the issue is: the fit follows the noise of 16 vectors.
    assert errors(package, blind)["one"] > errors(package, plain)["one"] + 1
    model = calibrated.palettize_weights(package, BITS, given)
    assert errors(package, model)["one"] < errors(package, plain)["one"] + 0.2
    assert errors(package, model)["two"] < errors(package, plain)["two"] - 3


def test_what_is_compressed_without_is_said(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = samples(16)
    int4 = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", weight_threshold=100))
    plain = linear_quantize_weights(package, int4)
    with caplog.at_level(logging.WARNING, logger="corepress"):
        model = calibrated.linear_quantize_weights(package, int4, given)
    assert same(model, plain) == {"first"}
    assert model.unfitted == {("main", "first"): WORSE}
    assert "1 of 2 weights are compressed without the samples" in caplog.text
    report = corepress.report(model)
    assert [(row.name, row.unfitted) for row in report.unfitted] == [("first", WORSE)]
    assert report.to_dict()["unfitted"] == 1
    assert errors(package, model)["two"] < errors(package, plain)["two"] - 1


def test_a_good_fit_is_made_of_all_samples(package: Path, monkeypatch) -> None:
    """In the way that was chosen before."""
    given, seen = samples(40, white=False), []
    gather = best._PASSES[Evidence.INPUTS]

    def watched(model: Any, choose: Any, split: Split, decided: Decided, *rest: Any) -> Any:
        before = dict(decided.ways)
        found = gather(model, choose, split, decided, *rest)
        seen.append((len(split.learnt), len(split.judged), before, dict(decided.ways)))
        return found

    monkeypatch.setitem(best._PASSES, Evidence.INPUTS, watched)
    model = calibrated.palettize_weights(package, BITS, given)
    assert not model.unfitted
    assert [counts[:2] for counts in seen] == [(32, 8), (40, 0)]
    assert not seen[0][2] and seen[1][2] == seen[1][3] == seen[0][3] and len(seen[0][3]) == 2


def test_all_samples_weigh_elements(package: Path) -> None:
    given = samples(40, white=False)
    learnt, judged = corepress.hold_back(given)
    model = calibrated.palettize_weights(package, BITS, given, method="skm")
    everything = calibrated.palettize_weights(package, BITS, [*learnt, *judged], method="skm", held_back=0)
    assert not model.unfitted and same(model, everything) == {"first", "second"}


def test_gptq_with_scales_and_sparsegpt(package: Path) -> None:
    given = samples(16)
    int4 = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", weight_threshold=100))
    model = calibrated.linear_quantize_weights(package, int4, given, activation_aware_scale=True)
    assert model.unfitted == {("main", "first"): WORSE}
    pruned = corepress.coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100)
    model = calibrated.prune_weights(package, OptimizationConfig(pruned), given)
    assert model.unfitted == {("main", "first"): WORSE}


def test_samples_of_the_callers_own_judge(package: Path) -> None:
    given, others = samples(16, white=False), samples(8, seed=3, white=False)
    fitted = calibrated.palettize_weights(package, BITS, given, held_back=others)
    assert not fitted.unfitted
    # In other directions than those learnt, the fit is worse.
    strange = [{name: array[:, ::-1].copy() for name, array in sample.items()} for sample in others]
    model = calibrated.palettize_weights(package, BITS, given, held_back=strange)
    assert same(model, palettize_weights(package, BITS)) == {"first", "second"}
    with pytest.raises(ConfigError, match="held_back is empty"):
        calibrated.palettize_weights(package, BITS, given, held_back=[])
    others[1]["white"][0, 0] = np.inf
    with pytest.raises(ConfigError, match="sample 1 of held_back: input 'white' holds NaN or infinite"):
        calibrated.palettize_weights(package, BITS, given, held_back=others)
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        calibrated.palettize_weights(package, BITS, given, held_back=1.0)


def test_too_few_samples_to_hold_some_back(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="corepress"):
        model = calibrated.palettize_weights(package, BITS, samples(1) * 50)
    assert "too few different samples" in caplog.text and not model.unfitted
    caplog.clear()
    calibrated.palettize_weights(package, BITS, samples(1), held_back=0)
    assert "hold some back" not in caplog.text  # nothing was asked for


def test_the_model_as_a_whole_counts(package: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    """Layers that all got nearer may still make worse outputs together."""
    given = samples(20, white=False)
    plain = palettize_weights(package, BITS)
    fitted = calibrated.palettize_weights(package, BITS, given)
    coarse = palettize_weights(package, OptimizationConfig(OpPalettizerConfig(nbits=1, weight_threshold=100)))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="corepress"):
        assert is_better(corepress.load(package), fitted, plain, given, None, "cpu") and not caplog.text
        assert not is_better(corepress.load(package), coarse, plain, given, None, "cpu")
        snrs = [corepress.verify(package, model, given).rows for model in (plain, coarse)]
        shown = [-10 * np.log10(np.mean([10 ** (-row.snr / 10) for row in rows])) for rows in snrs]
        assert f"an SNR of {shown[0]:.1f} dB, and of {shown[1]:.1f} dB" in caplog.text
    monkeypatch.setattr(best, "is_better", lambda *arguments: False)
    model = calibrated.palettize_weights(package, BITS, given)
    assert same(model, plain) == {"first", "second"} and set(model.unfitted.values()) == {WORSE_AS_A_WHOLE}


def test_a_model_that_answers_nan_never_wins(package: Path, monkeypatch) -> None:
    from corepress.coreml.calibrated import judging

    good, broken = np.ones((1, 3)), np.array([[1, np.nan, 1]])
    answers: list[np.ndarray] = []
    monkeypatch.setattr(judging, "answers_of", lambda *arguments: {"y": [answers.pop(0)]})
    model = corepress.load(package)
    for exact, fitted, plain, better in (
        (good, broken, good, False),
        (good, good, broken, True),
        (broken, good + 1, good, False),
        (broken, good, good, True),
    ):
        answers += [exact, fitted, plain]
        assert is_better(model, model, model, [], None, "cpu") is better


@pytest.mark.parametrize("drift", [False, True])
def test_the_error_of_a_weight_is_that_of_its_outputs(drift: bool) -> None:
    rng = np.random.default_rng(0)
    layout = Layout((6, 8))
    weight, one, other = (rng.normal(size=(6, 8)).astype(np.float32) for _ in range(3))
    own = torch.from_numpy(rng.normal(size=(1, 50, 8)).astype(np.float32))
    original = own + 0.3 * torch.from_numpy(rng.normal(size=own.shape).astype(np.float32)) if drift else own
    counting = torch.from_numpy(rng.uniform(0.5, 2, 50).astype(np.float32))
    found = Statistics(layout)
    found.add(own, original if drift else None, counting)

    def exact(changed: np.ndarray) -> float:
        difference = own[0].double().numpy() @ changed.T - original[0].double().numpy() @ weight.T
        return float((counting.numpy()[:, None] * difference**2).sum() / 50)

    expected = exact(one) - exact(other)
    assert found.error(weight, one) - found.error(weight, other) == pytest.approx(expected, rel=1e-4)
