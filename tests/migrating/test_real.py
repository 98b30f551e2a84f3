"""Real packages and the zoo's networks, compressed in the common ways: Apple's runtime answers as ours does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.runtime.domains import domains
from corepress.runtime.random_inputs import random_inputs
from tests.foreign.test_coremltools_7 import MODES
from tests.foreign.test_wheels import PACKAGES, real
from tests.runtime.test_zoo import convert, distance
from tests.runtime.zoo import NETWORKS

pytest.importorskip("coreai_torch")
pytestmark = pytest.mark.slow


def numbers(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in answer.items()}


def compare(package: Path, asset: Path, tolerance: float, rounded: float = 0) -> None:
    """`rounded`: how far apart numbers may be that are rounded at the end, such as levels of a picture."""
    ours, theirs = runtime.load(package, precision="float32"), runtime.load(asset)
    for sample in random_inputs(ours.interface, 0, 2, domains(ours)):
        one, other = numbers(ours.predict(sample)), numbers(theirs.predict(sample))
        for name, expected in one.items():
            limit = max(tolerance * np.abs(expected).max(), rounded)
            np.testing.assert_allclose(other[name], expected, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("mode", ["plain", "kmeans"])
@pytest.mark.parametrize("name", PACKAGES)
def test_real_packages_answer_the_same_in_float32(name: str, mode: str, tmp_path: Path) -> None:
    package = real(name)
    if mode != "plain":
        package = tmp_path / "small.mlpackage"
        MODES[mode](real(name)).save(package)
    found = corepress.migrate(package, tmp_path / "out.aimodel", precision="float32")
    assert (found.compressed > 0) == (mode != "plain")
    # What the package describes as float16 is rounded to it at the end. A picture has whole levels.
    compare(package, tmp_path / "out.aimodel", 2**-11, 1 if "image" in str(found.notes) else 0)


@pytest.mark.parametrize(("name", "mode"), list(zip(NETWORKS, itertools.cycle(MODES), strict=False)))
def test_compressed_networks_answer_the_same_in_float32(name: str, mode: str, tmp_path: Path) -> None:
    package, _, inputs, _ = convert(name, tmp_path, "iOS18", "FLOAT32")
    small = MODES[mode](package).save(tmp_path / "small.mlpackage")
    found = corepress.migrate(small, tmp_path / "out.aimodel")
    assert found.compressed == len({weight.key for weight in small.weights() if weight.compression})
    ours, theirs = (runtime.load(path).predict(inputs)["result"] for path in (small, tmp_path / "out.aimodel"))
    assert distance(theirs, ours) <= 1e-4


def test_a_sentence_encoder_of_4_bits_is_as_good_as_its_package(tmp_path: Path) -> None:
    """MiniLM with its real weights; how near both are to the encoder in float32, in dB."""
    from tests import minilm

    package = minilm.package(tmp_path)
    small = MODES["kmeans"](package).save(tmp_path / "small.mlpackage")
    found = corepress.migrate(small, tmp_path / "small.aimodel")
    assert found.compressed == len({weight.key for weight in small.weights() if weight.compression}) > 30
    samples = minilm.samples(["A compiler turns source code into machine code.", "She bought apples and bread."])
    exact, ours, theirs = (
        np.concatenate([program.predict(sample)["result"] for sample in samples]).astype(np.float64)
        for program in (
            runtime.load(package, precision="float32"),
            runtime.load(small),
            runtime.load(tmp_path / "small.aimodel"),
        )
    )
    one, other = (20 * np.log10(np.linalg.norm(exact) / np.linalg.norm(exact - found)) for found in (ours, theirs))
    assert abs(one - other) < 0.1
