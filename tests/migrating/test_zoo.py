"""The networks of the runtime's zoo, migrated: Apple's runtime answers as ours does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime
from tests.runtime.test_zoo import convert, distance
from tests.runtime.zoo import NETWORKS

pytest.importorskip("coreai_torch")
# The others take long.
QUICK = ("autoencoder",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NETWORKS]
)
def test_answers_agree_in_float32(name: str, tmp_path: Path) -> None:
    package, _, inputs, expected = convert(name, tmp_path, "iOS18", "FLOAT32")
    corepress.migrate(package, tmp_path / "out.aimodel")
    found = runtime.load(tmp_path / "out.aimodel").predict(inputs)["result"]
    assert found.shape == expected.shape
    assert distance(found, expected) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_answers_agree_in_float16(name: str, tmp_path: Path) -> None:
    """As near to float32 as our own runtime's in float16, within a factor: both round after each operation."""
    package, _, inputs, expected = convert(name, tmp_path, "iOS18", "FLOAT16")
    corepress.migrate(package, tmp_path / "out.aimodel")
    found = runtime.load(tmp_path / "out.aimodel").predict(inputs)["result"]
    ours = runtime.load(package).predict(inputs)["result"]
    errors = [float(np.linalg.norm(answer - expected) / np.linalg.norm(expected)) for answer in (found, ours)]
    assert errors[0] <= 4 * max(errors[1], 2**-11)
