"""The small language model of the tests reads its file rightly: else nothing measured on it would mean anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress import runtime
from tests import smollm2

pytestmark = pytest.mark.slow


def test_network_goes_on_as_a_language_model_does():
    model, tokenizer = smollm2.network(length=5), smollm2.tokenizer()
    ids = tokenizer.encode("The capital of France is").ids
    with torch.no_grad():
        following = model(torch.tensor([ids]))[0, -1].argmax()
    assert tokenizer.decode([int(following)]) == " Paris"


def test_packages_answer_as_the_network(tmp_path):
    length = 16
    (sample,) = smollm2.samples(
        ["A cache holds what a model has read so far, and what follows is judged by it all."], length
    )
    (steps,) = smollm2.sequences(
        ["A cache holds what a model has read so far, and what follows is judged by it all."], length
    )
    with torch.no_grad():
        expected = smollm2.cut(smollm2.network(length), 2)(torch.from_numpy(sample["ids"])).numpy()

    whole = runtime.load(smollm2.package(tmp_path, length, layers=2)).predict(sample)["logits"]
    program = runtime.load(smollm2.stateful(tmp_path, length, layers=2))
    state = program.make_state()
    parts = np.concatenate([program.predict(step, state)["logits"] for step in steps], axis=1)

    for found in whole, parts:
        assert np.abs(found - expected).max() <= 2**-6 * np.abs(expected).max()
