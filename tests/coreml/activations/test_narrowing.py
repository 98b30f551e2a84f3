"""Ranges of least error in the outputs, and biases that take back what rounding shifts."""

from __future__ import annotations

import numpy as np
import pytest

import corepress.coreml as cto
from corepress import load
from corepress.coreml.activations.biases import corrected
from corepress.coreml.activations.narrowing import best_range
from corepress.runtime import load as run
from tests import structures
from tests.coreml.activations.activation_nets import everywhere, package_of, samples
from tests.coreml.activations.test_exceptions import snr


def masked(mb, x, w):
    """Attention weights of which some are masked by -10,000."""
    scores = mb.reshape(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="conv"), shape=(4, 8, 8), name="scores")
    mask = np.zeros((1, 1, 8), np.float16)
    mask[..., 5:] = -10000
    hidden = mb.mul(x=mask, y=mb.reduce_max(x=mb.sigmoid(x=scores), axes=[0, 1, 2], keep_dims=False), name="hidden")
    return mb.softmax(x=mb.add(x=scores, y=hidden, name="sum"), axis=-1, name="out")


def test_a_mask_no_longer_costs_the_scores_their_bits(tmp_path) -> None:
    path = package_of(tmp_path, masked)
    given, others = samples(12), samples(6, seed=1)
    whole = cto.linear_quantize_activations(path, everywhere(), given)
    narrow = cto.linear_quantize_activations(path, everywhere(), given, observer="output")
    assert snr(path, narrow, others) > snr(path, whole, others) + 10


def test_the_answers_of_a_classifier_count(tmp_path) -> None:
    """Of a label nothing can be measured; of the probabilities all."""
    path = structures.classifier(tmp_path)
    rng = np.random.default_rng(0)
    given = [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(12)]
    given[0]["x"][0, 0] = 300  # so large that 8 bits leave nothing of the others
    whole, narrow = (
        cto.linear_quantize_activations(path, everywhere(), given, observer=name) for name in ("min_max", "output")
    )
    others = given[1:]
    assert distance(path, narrow, others) < distance(path, whole, others) / 2


def distance(path, model, given) -> float:
    """Of the probabilities of two classifiers, at most."""
    exact, other = run(path), run(model)
    key = exact.interface.probabilities
    pairs = ((exact.predict(sample)[key], other.predict(sample)[key]) for sample in given)
    return max(abs(one[label] - two[label]) for one, two in pairs for label in one)


def test_the_range_is_that_of_the_least_noise() -> None:
    tried = []

    def noise(ends):
        tried.append(ends)
        return abs(np.log2(ends[1] / 4)) + 0.1

    low, high = best_range((-2.0, 64.0), noise)
    assert high == pytest.approx(4) and low == -2 and len(tried) > 3
    assert best_range((-1.0, 1.0), lambda ends: 0.0) == (-1.0, 1.0)
    assert best_range((0.0, 0.0), lambda ends: 1.0) == (0.0, 0.0)


def biased(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(32, 4, 3, 3), bias=w(32), name="first"), name="relu")
    return mb.conv(x=a, weight=w(16, 32, 3, 3), bias=w(16), name="second")


def test_two_samples_count_alike(tmp_path) -> None:
    """What is left of the errors of the one is that of the other, with the other sign."""

    def head(mb, x, w):
        return mb.linear(x=mb.reshape(x=x, shape=(1, 256)), weight=w(16, 256), bias=w(16), name="head")

    path, given = package_of(tmp_path, head), samples(2)
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2, weight_threshold=0))
    same = corrected(cto.palettize_weights(path, config), load(path), given)
    exact, other = run(path, precision="float32"), run(same, precision="float32")
    errors = [exact.predict(sample)["head"] - other.predict(sample)["head"] for sample in given]
    assert np.abs(errors[0]).max() > 0.1
    np.testing.assert_allclose(errors[0], -errors[1], atol=2e-2)  # the biases are float16


def test_biases_take_back_what_shifts(tmp_path) -> None:
    path = package_of(tmp_path, biased)
    given, others = samples(16), samples(8, seed=1)
    original = load(path)
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2, weight_threshold=0))
    coarse = cto.palettize_weights(original, config)
    assert snr(path, corrected(coarse, original, given), others) > snr(path, coarse, others)
    same = corrected(original, original, given)
    assert snr(path, same, others) > 60
    options = {"observer": "output", "bias_correction": True}
    both = cto.linear_quantize_activations(coarse, everywhere(mode="linear"), given, **options)
    assert snr(path, both, others) > snr(path, coarse, others)
