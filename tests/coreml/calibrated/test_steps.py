"""Fits to sequences: the inputs of a layer are those that it has while the cache fills."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import corepress
from corepress.coreml import OpLinearQuantizerConfig, OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.sequences import ALONE
from tests import decoder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    return decoder.package(tmp_path_factory.mktemp("decoder"))


def snr(package: Any, model: Any, count: int = 16) -> float:
    return corepress.verify(package, model, decoder.sequences(count, 16, seed=5)).worst.snr


@pytest.mark.slow
def test_what_is_fitted_to_sequences_answers_better_in_sequences(package, caplog) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=500))
    texts = decoder.sequences(100, 16)
    words = [word for text in texts for step in text for word in step["ids"][0]]
    alone = [{"ids": np.array([[word]], np.int32), "mask": np.zeros((1, 1, 1, 1), np.float32)} for word in words]
    plain = snr(package, corepress.coreml.palettize_weights(package, config))
    fitted = [calibrated.palettize_weights(package, config, given, held_back=0) for given in (alone, texts)]
    assert caplog.messages.count(ALONE) == 1
    single, sequences = (snr(package, model) for model in fitted)
    assert sequences > plain + 1 and sequences > single + 1


@pytest.mark.parametrize(("kind", "config", "options"), [
    ("palettize_weights", OpPalettizerConfig(nbits=3, weight_threshold=3000), {"method": "skm"}),
    ("linear_quantize_weights", OpLinearQuantizerConfig(dtype="int4", weight_threshold=3000), {}),
])  # fmt: skip
def test_methods_take_sequences_of_any_length(package, kind, config, options) -> None:
    texts = [*decoder.sequences(2, 9), *decoder.sequences(2, 6, seed=2, prefill=6)]
    model = getattr(calibrated, kind)(package, OptimizationConfig(config), texts, **options)
    assert model.changed and np.isfinite(snr(package, model, 2))
