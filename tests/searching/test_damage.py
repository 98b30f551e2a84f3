"""The predicted damage, beside that which is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

import corepress
from corepress.engine import Skip
from corepress.metrics import Sums
from corepress.searching.damage import Gradients, predicted, worthwhile
from corepress.searching.packages import PackageSubject
from tests.lazy import lazy

torch = lazy("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
DIGITS = "examples/digits.mlpackage"


@pytest.fixture(scope="module")
def subject():
    return PackageSubject(corepress.load(DIGITS), forms=["palettized", "quantized", "joint"], min_group=16)


def images(count, seed=0):
    from sklearn.datasets import load_digits

    chosen = np.random.default_rng(seed).permutation(1797)[:count]
    return [{"image": image[None, None].astype(np.float32) / 16} for image in load_digits().images[chosen]]


def harm(subject, place, candidate, samples):
    """The part of the outputs' energy that becomes noise when one tensor has another form, measured."""
    program = subject._program
    exact = [program.predict(sample) for sample in samples]
    subject.put(place, subject.value(place, candidate).dense)
    sums = Sums()
    for sample, answer in zip(samples, exact, strict=True):
        sums.add_output("logits", answer["logits"], program.predict(sample)["logits"])
    subject.put(place, subject.original(place))
    return sums.noise / sums.signal


def spearman(one, other):
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return np.corrcoef(*ranks)[0, 1]


def test_it_orders_single_changes_as_they_turn_out(subject):
    samples, unseen = images(32), images(12, seed=1)
    prices = predicted(subject, samples)
    pairs = []
    for item, described in enumerate(subject.items):
        for candidate in range(1, len(described.candidates), 2):
            if np.isfinite(prices.damages[item][candidate]):
                pairs.append((prices.damages[item][candidate], harm(subject, (item, 0), candidate, unseen)))
    found = np.array(pairs)
    assert len(found) > 30
    assert spearman(*found.T) > 0.9
    # And to scale, where the change is so small that the first order will do.
    small = found[(found[:, 1] < 0.01) & (found[:, 1] > 1e-6)]
    assert 0.5 < np.median(small[:, 0] / small[:, 1]) < 2


def test_what_is_beaten_by_far_is_not_priced_again(subject):
    samples = images(8)
    prices = predicted(subject, samples)
    left = worthwhile(prices, prices.sizes)
    again = predicted(subject, samples, among=left)
    for sizes, damages, kept, row in zip(*prices[:2], left.damages, again.damages, strict=True):
        assert kept[0] == 0 and len(kept) == len(damages)
        for place, damage in enumerate(damages):
            better = [
                own for size, own in zip(sizes, damages, strict=True) if size <= sizes[place] and 3 * own < damage
            ]
            assert (kept[place] == math.inf) == bool((better and place) or damage == math.inf)
            assert kept[place] in (damage, math.inf) and math.isinf(row[place]) == math.isinf(kept[place])


def test_the_program_is_as_it_was(subject):
    samples = images(4)
    before = subject._program.predict(samples[0])["logits"]
    predicted(subject, samples)
    assert np.array_equal(before, subject._program.predict(samples[0])["logits"])


def test_the_same_seed_predicts_the_same(subject):
    samples = images(8)
    one, other, third = (predicted(subject, samples, seed=seed) for seed in (0, 0, 1))
    assert one == other
    assert one.damages != third.damages


def test_dense_costs_nothing_and_every_size_is_what_the_weight_says(subject):
    prices = predicted(subject, images(4))
    for item, described in enumerate(subject.items):
        assert prices.damages[item][0] == 0
        assert prices.sizes[item][0] == 2 * described.elements
        for candidate in range(1, len(described.candidates)):
            try:
                assert prices.sizes[item][candidate] == subject.value((item, 0), candidate).size
            except Skip:
                assert prices.damages[item][candidate] == np.inf


@pytest.mark.parametrize("touched", [3, 50])
def test_gradients_come_back_as_they_were_kept(touched):
    numbers = np.zeros((50, 7), np.float32)
    numbers[:touched] = np.random.default_rng(0).normal(size=(touched, 7))
    with Gradients() as gradients:
        gradients.add((0, 0), 0, torch.from_numpy(numbers), 0.5)
        gradients.add((0, 0), 0, torch.from_numpy(numbers[::-1].copy()), 1.0)
        whole = np.zeros((2, 50, 7), np.float32)
        for _, rows, found in gradients.pieces((0, 0)):
            whole[:, rows] = found.reshape(2, len(rows), 7)
    # Half precision keeps 11 bits, relative to the greatest number.
    near = 2.0**-11 * np.abs(numbers).max()
    assert np.abs(whole - np.stack([numbers / 2, numbers[::-1]])).max() <= near


def test_a_gradient_that_is_not_finite_is_an_error():
    with Gradients() as gradients, pytest.raises(corepress.DataError, match="infinite or not a number"):
        gradients.add((0, 0), 0, torch.tensor([[1.0, float("nan")]]), 1.0)
