"""Ranges of the activations of a model with a state: a single step tells nothing of a state that has filled."""

from __future__ import annotations

import numpy as np
import pytest

import corepress as cto
from corepress.sequences import ALONE
from tests import decoder

CONFIG = cto.coreml.OptimizationConfig(cto.coreml.experimental.OpActivationLinearQuantizerConfig())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    return decoder.summing(tmp_path_factory.mktemp("summing"))


def texts(count: int, seed: int) -> list[list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, decoder.WORDS, (count, 16)).astype(np.int32)
    return [[{"ids": word.reshape(1, 1)} for word in text] for text in words]


def test_ranges_of_single_steps_are_far_too_narrow_and_those_of_sequences_are_not(package, caplog) -> None:
    learnt, judged = texts(8, 0), texts(8, 1)
    alone = [step for text in learnt for step in text]
    quantized = cto.coreml.experimental.linear_quantize_activations
    narrow = quantized(package, CONFIG, alone)
    assert caplog.messages == [ALONE]
    # What used to be reported: each step from an empty state.
    reported = cto.verify(package, narrow, [step for text in judged for step in text])
    assert reported.worst.snr > 30 and ALONE in reported.notes
    found = cto.verify(package, narrow, judged)
    assert found.worst.snr < 10 and not found.ok and ALONE not in found.notes
    number, row = found.worst_step
    assert number > 8 and row.snr < found.by_step[0][0].snr - 20
    assert f"of 16 steps the worst is step {number} ({row.snr:.4g} dB)" in found.summary
    caplog.clear()
    assert cto.verify(package, quantized(package, CONFIG, learnt), judged).worst.snr > 27
    assert not caplog.messages


@pytest.mark.parametrize("options", [
    {"observer": "output"},
    {"bias_correction": True},
    pytest.param(
        {"exceptions": "auto", "min_snr": 25, "observer": "auto", "bias_correction": None, "equalize": "auto"},
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_what_ranges_are_refined_by_takes_sequences(package, options, caplog) -> None:
    found = cto.coreml.experimental.linear_quantize_activations(package, CONFIG, texts(6, 0), **options)
    assert cto.verify(package, found, texts(4, 1)).worst.snr > 25
    assert ALONE not in caplog.messages
