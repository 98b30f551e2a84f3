"""Branches and loops: written out where nothing but constants decides, and kept where an input does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from tests.migrating.test_activations import operations
from tests.packages import saved
from tests.structures import nested

pytest.importorskip("coreai_torch")


def agree(package: Path, asset: Path, samples: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    ours, theirs = runtime.load(package), runtime.load(asset)
    answers = [theirs.predict(sample) for sample in samples]
    for sample, found in zip(samples, answers, strict=True):
        for name, expected in ours.predict(sample).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4)
    return answers


def test_an_input_chooses_the_branch_and_the_rounds(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32) * 0.3

    @mb.program(input_specs=[mb.TensorSpec((4, 8), types.fp32)], opset_version=ct.target.iOS18)
    def program(x):
        positive = mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0))
        half = mb.mul(x=x, y=np.float32(0.5))
        chosen = mb.cond(
            pred=positive, _true_fn=lambda: mb.linear(x=half, weight=weight), _false_fn=lambda: mb.sub(x=x, y=half)
        )

        def small(count, value):
            return mb.less(x=mb.reduce_sum(x=mb.abs(x=value)), y=np.float32(100))

        def grown(count, value):
            return mb.add(x=count, y=np.int32(1)), mb.add(x=mb.mul(x=value, y=np.float32(1.5)), y=chosen)

        count, value = mb.while_loop(_cond=small, _body=grown, loop_vars=(np.int32(0), x))
        return value, mb.cast(x=count, dtype="fp32", name="rounds")

    package = saved(program, tmp_path / "blocks.mlpackage")
    assert corepress.migrate(package, tmp_path / "blocks.aimodel").notes == ()
    found = operations(tmp_path / "blocks.aimodel")
    assert found["if"] == found["while"] == 1
    x = np.abs(np.random.default_rng(1).normal(size=(4, 8))).astype(np.float32)
    answers = agree(package, tmp_path / "blocks.aimodel", [{"x": x}, {"x": -x}, {"x": x / 100}, {"x": x * 100}])
    assert len({float(answer["rounds"].reshape(-1)[0]) for answer in answers}) > 2


def test_rounds_that_constants_count_are_written_out(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((4, 8), types.fp32)], opset_version=ct.target.iOS18)
    def program(x):
        return mb.while_loop(
            _cond=lambda count, value: mb.less(x=count, y=np.int32(3)),
            _body=lambda count, value: (mb.add(x=count, y=np.int32(1)), mb.sin(x=value)), loop_vars=(np.int32(0), x),
        )[1]  # fmt: skip

    package = saved(program, tmp_path / "counted.mlpackage")
    corepress.migrate(package, tmp_path / "counted.aimodel")
    found = operations(tmp_path / "counted.aimodel")
    assert "while" not in found and found["sin"] == 3
    agree(package, tmp_path / "counted.aimodel", [{"x": np.arange(32, dtype=np.float32).reshape(4, 8)}])


@pytest.mark.slow
def test_weights_within_blocks(tmp_path: Path) -> None:
    package = nested(tmp_path)
    corepress.migrate(package, tmp_path / "nested.aimodel")
    x = np.abs(np.random.default_rng(1).normal(size=(1, 64))).astype(np.float32)
    flags = [np.array([sign], np.float32) for sign in (-1, 1)]
    agree(package, tmp_path / "nested.aimodel", [{"x": x * 1000, "flag": flag} for flag in flags])
