"""Texts that a language model writes: tokens are drawn as the model in PyTorch predicts them."""

from __future__ import annotations

import numpy as np
import pytest

from corepress import augment
from tests import decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return decoder.package(tmp_path_factory.mktemp("written"))


def log_probabilities(sequence) -> np.ndarray:
    """(steps less one, words): of the token that follows each step but the last."""
    import torch

    network = decoder.network()
    logits = [answer[0, -1] for answer in decoder.answers(network, sequence)[:-1]]
    return torch.from_numpy(np.stack(logits)).double().log_softmax(-1).numpy()


def surprise(sequences) -> float:
    """How many standard errors the tokens after the first step surprise more than such that the model draws."""
    excess, variance = 0.0, 0.0
    for sequence in sequences:
        known = log_probabilities(sequence)
        tokens = [int(step["ids"][0, 0]) for step in sequence[1:]]
        mean = (np.exp(known) * known).sum(1)
        excess -= (known[np.arange(len(tokens)), tokens] - mean).sum()
        variance += (np.exp(known) * np.square(known - mean[:, None])).sum()
    return float(excess / np.sqrt(variance))


def test_tokens_are_drawn_as_the_model_predicts_them(model) -> None:
    given = decoder.sequences(4)
    made = [sample for sample in augment(given, model, 60) if not begins_as_one_of(sample, given)]
    assert len(made) > 15
    assert abs(surprise(made)) < 4 < surprise(decoder.sequences(len(made), seed=1))


def begins_as_one_of(sample, given) -> bool:
    return any(np.array_equal(sample[0]["ids"], one[0]["ids"]) for one in given)


def test_the_same_seed_writes_the_same_and_other_inputs_stay(model) -> None:
    given = decoder.sequences(2)
    one, again, other = (augment(given, model, 6, seed=seed) for seed in (1, 1, 2))

    def tokens(samples):
        return [[step["ids"].tolist() for step in sample] for sample in samples]

    assert tokens(one) == tokens(again) != tokens(other)
    begun = [sample for sample in one if begins_as_one_of(sample, given)]
    assert begun and len(begun) < len(one)  # some go on with a sample, others begin anew
    for sample in one:
        assert [step["ids"].shape for step in sample] == [step["ids"].shape for step in given[0]]
        for step, before in zip(sample, given[0], strict=True):
            np.testing.assert_array_equal(step["mask"], before["mask"])
            assert step["ids"].dtype == np.int32 and (step["ids"] >= 0).all() and (step["ids"] < decoder.WORDS).all()


def test_what_fits_a_decoder_takes_texts_that_it_writes(model) -> None:
    import corepress.coreml as cto

    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=100))
    small = cto.calibrated.palettize_weights(model, config, decoder.sequences(3), held_back=0, augment=2)
    assert small.changed and not [key for key in small.unfitted if "qkv" in key[1]]
