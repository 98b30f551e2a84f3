"""The models that a search makes on its way, to measure them, are those that their recipes make."""

from __future__ import annotations

import numpy as np
import pytest

import corepress
from corepress import recipe
from corepress.coreml.calibrated import sensitivity
from corepress.searching.packages import PackageSubject

DIGITS = "examples/digits.mlpackage"


def digits(count: int = 30) -> list[dict[str, np.ndarray]]:
    from sklearn.datasets import load_digits

    return [{"image": (one / 16).astype(np.float32).reshape(1, 1, 8, 8)} for one in load_digits().images[:count]]


def values(model: corepress.Model) -> list[np.ndarray]:
    return [weight.dense() for weight in model.weights()]


@pytest.mark.parametrize("augment", [0, 20])
def test_fitted_drafts_are_what_their_recipes_make_though_they_keep_what_is_alike(
    monkeypatch: pytest.MonkeyPatch, augment: int
) -> None:
    learnt, asked = digits(), []
    subject = PackageSubject(
        corepress.load(DIGITS), forms=["palettized", "quantized", "sparse", "joint"], learnt=learnt, augment=augment
    )
    original = sensitivity.of_vectors
    monkeypatch.setattr(
        "corepress.coreml.calibrated.calibration.of_vectors", lambda *given: asked.append(given) or original(*given)
    )
    verbs = [
        [candidate.steps[0][0] if candidate.steps else "" for candidate in item.candidates] for item in subject.items
    ]
    choices = [
        tuple(own.index(verb) for own, verb in zip(verbs, ["palettize", "quantize", "prune"] * 9)),  # noqa: B905
        tuple(own.index(verb) for own, verb in zip(verbs, ["quantize", "", "palettize"] * 9)),  # noqa: B905
    ]
    drafts = [subject.draft(choice) for choice in choices]
    assert len(asked) == 1
    for choice, draft in zip(choices, drafts, strict=True):
        made = recipe.run(
            DIGITS, recipe.parse(subject.recipe(choice)), sample_data=learnt, held_back=0, spare_constants=True
        )
        for a, b in zip(values(draft), values(made), strict=True):
            np.testing.assert_array_equal(a, b)
