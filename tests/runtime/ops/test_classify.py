from __future__ import annotations

import pytest
import torch

from corepress.runtime.ops.classify import classify


@pytest.mark.parametrize("classes", [["cat", "dog", "eel"], [7, 5, 3]])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 3, 1, 1)])
def test_classify(classes, shape):
    label, probabilities = classify(torch.tensor([0.25, 0.625, 0.125]).reshape(shape), classes)
    assert label == classes[1]
    assert probabilities == dict(zip(classes, [0.25, 0.625, 0.125], strict=True))


def test_as_many_classes_as_probabilities():
    with pytest.raises(ValueError):
        classify(torch.tensor([0.25, 0.75]), ["cat", "dog", "eel"])
