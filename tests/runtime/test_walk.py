"""What programs answer as tensors: of a classifier its probabilities, which have a derivative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from corepress.runtime import load
from corepress.runtime.walk import outputs_of, what_if
from tests import structures

SAMPLE = {"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return structures.classifier(tmp_path_factory.mktemp("classifier"))


def test_a_classifier_answers_its_probabilities(classifier) -> None:
    program = load(classifier, precision="float32")
    seen: dict[str, object] = {}
    (found,) = outputs_of(program, SAMPLE, seen.__setitem__)
    said = program.predict(SAMPLE)[program.interface.probabilities]
    assert found.flatten().tolist() == pytest.approx(list(said.values())) and seen["scores"] is found


def test_they_have_a_derivative(classifier) -> None:
    program = load(classifier, precision="float32")
    weights = [value.requires_grad_() for value in program.module.buffers() if value.ndim == 2]
    (found,) = outputs_of(program, SAMPLE)
    gradients = torch.autograd.grad(found[0, 0], weights)
    assert len(weights) == 2 and all(gradient.abs().max() > 0 for gradient in gradients)


def test_what_it_would_answer(classifier) -> None:
    program = load(classifier, precision="float32")
    answers = []

    def visit(name, answer) -> None:
        answers.append((name, [outputs[0] for outputs in answer(torch.zeros_like)]))

    what_if(program, [SAMPLE], ["x"], visit)
    ((name, (even,)),) = answers
    assert name == "x" and torch.equal(even, torch.full((1, 48), 1 / 48))
