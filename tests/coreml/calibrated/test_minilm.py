"""A real sentence encoder with weights and activations of 8 bits, over sentences that calibration never saw."""

from __future__ import annotations

import pytest
import torch

import corepress.coreml as cto
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig
from tests.minilm import cosines, embeddings, harmful, package, samples, w8a8
from tests.sentences import CALIBRATION, TEST

torch.set_num_threads(1)
CONFIG = OpActivationLinearQuantizerConfig(mode="linear")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The package, and what of it is left in float16."""
    path = package(tmp_path_factory.mktemp("minilm"))
    return path, harmful(path, samples(CALIBRATION[:8]), CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["min_max", "moving_average", "mse"])
def test_embeddings_keep_their_direction(observer, encoder) -> None:
    path, left = encoder
    # Sums with the attention mask of -10,000, and what holds the few huge activations of the feed-forward layers.
    assert 12 <= len(left) <= 20
    config = cto.OptimizationConfig(CONFIG, op_name_configs=dict.fromkeys(left))
    model = w8a8(path, config, samples(CALIBRATION[:64]), observer=observer)
    test = samples(TEST)
    assert cosines(embeddings(path, test), embeddings(model, test)).mean() >= 0.99
