"""weights="streamed": the same answers, with the large weights in memory only while an operation needs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corepress import load, runtime, verify
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
from corepress.runtime import streamed
from corepress.runtime.domains import domains
from corepress.runtime.random_inputs import random_inputs
from tests import structures
from tests.packages import inputs

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DIGITS, IMAGES = EXAMPLES / "digits.mlpackage", EXAMPLES / "digits_test.npz"


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.streamed._SMALL", 1000)
    monkeypatch.setattr("corepress.runtime.plan.KEPT_BYTES", 0)


@pytest.mark.parametrize("precision", ["as_is", "float32"])
@pytest.mark.parametrize("compressed", [False, True])
def test_answers_are_the_same(package, precision, compressed) -> None:
    model = load(package())
    if compressed:
        model = palettize_weights(model, OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=100)))
    whole, parts = (
        runtime.load(model, precision=precision, weights=weights) for weights in ("ahead_of_time", "streamed")
    )
    given = inputs()
    expected, found = whole.predict(given), parts.predict(given)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    large = [tensor for tensor in whole.module.buffers() if tensor.numel() >= 1000]
    assert len(parts.module.streamed) == len(large) > 5
    assert all(tensor.numel() < 1000 for tensor in parts.module.buffers())
    types = {(value.shape, value.dtype) for value in parts.module.streamed.values()}
    assert types == {(tuple(tensor.shape), tensor.dtype) for tensor in large}
    assert domains(parts) == domains(whole)


@pytest.mark.parametrize("make", [structures.nested, structures.stateful, structures.pipeline])
def test_structures(make, tmp_path) -> None:
    path = make(tmp_path)
    whole, parts = (runtime.load(path, weights=weights) for weights in ("ahead_of_time", "streamed"))
    (sample,) = random_inputs(whole.interface)
    expected, found = (program.predict(sample, program.make_state()) for program in (whole, parts))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_is_kept_is_bounded(package, monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.plan.KEPT_BYTES", 40_000)
    program = runtime.load(package(), precision="float32", weights="streamed")
    kept = [tensor.nbytes for tensor in program.module.buffers() if tensor.numel() >= 1000]
    assert kept and sum(kept) <= 40_000 and program.module.streamed


def test_a_streamed_constant_is_read_only_when_it_is_needed(package, monkeypatch) -> None:
    reads: list[object] = []
    read_weight = streamed.read_weight
    monkeypatch.setattr(streamed, "read_weight", lambda node, model: reads.append(node) or read_weight(node, model))
    program = runtime.load(package(), weights="streamed")
    domains(program)
    assert reads == []
    program.predict(inputs())
    assert len(reads) == len(program.module.streamed)
    program.predict(inputs())
    assert len(reads) == 2 * len(program.module.streamed)


@pytest.mark.slow
def test_verify_streams(monkeypatch) -> None:
    plain = verify(DIGITS, DIGITS, IMAGES, per_op=True)
    loaded: list[runtime.Program] = []
    load_program = runtime.load

    def kept(*args, **kwargs):
        loaded.append(load_program(*args, **kwargs))
        return loaded[-1]

    monkeypatch.setattr(runtime, "load", kept)
    again = verify(DIGITS, DIGITS, IMAGES, per_op=True)
    assert again == plain and all(program.module.streamed for program in loaded)
