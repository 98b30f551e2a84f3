"""The last operation of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from corepress.runtime.registry import operation


@operation
def classify(probabilities: Tensor, classes: Sequence[str | int]) -> tuple[str | int, dict[str | int, float]]:
    """The likeliest class, and the probability of each."""
    values = probabilities.flatten()
    return classes[int(values.argmax())], dict(zip(classes, values.tolist(), strict=True))
