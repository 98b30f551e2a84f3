"""The example package, which is migrated to Core AI once for all tests here, and images for it."""

from __future__ import annotations

import numpy as np

DIGITS = "examples/digits.mlpackage"
Samples = list[dict[str, np.ndarray]]


def images(first: int, last: int) -> Samples:
    with np.load("examples/digits_test.npz") as data:
        return [{"image": image[None]} for image in data["images"][first:last]]
