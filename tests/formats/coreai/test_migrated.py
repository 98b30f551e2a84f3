"""A package compressed and then migrated, and migrated and then compressed: the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    decompress_weights,
    linear_quantize_weights,
    palettize_weights,
)
from corepress.weights import Palettized, Quantized
from tests.decoder import summing

pytest.importorskip("coreai_torch")
DIGITS = "examples/digits.mlpackage"


@pytest.mark.slow
def test_either_order_gives_the_same_numbers(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "dense.aimodel")
    groups = {"granularity": "per_grouped_channel", "group_size": 2}
    steps: list[tuple[Any, Any]] = [
        (palettize_weights, OpPalettizerConfig(nbits=4)),
        (palettize_weights, OpPalettizerConfig(nbits=2, **groups)),
        (linear_quantize_weights, OpLinearQuantizerConfig(dtype="int8")),
        (linear_quantize_weights, OpLinearQuantizerConfig(dtype="uint4", mode="linear")),
    ]
    for number, (function, config) in enumerate(steps):
        small = function(DIGITS, OptimizationConfig(config)).save(tmp_path / f"{number}.mlpackage")
        corepress.migrate(small, tmp_path / f"first_{number}.aimodel")
        after = function(tmp_path / "dense.aimodel", OptimizationConfig(config)).save(
            tmp_path / f"then_{number}.aimodel"
        )
        one, other = ([w.read() for w in corepress.load(path).weights() if w.compression] for path in
                      (tmp_path / f"first_{number}.aimodel", after.path))  # fmt: skip
        assert len(one) == len(other) == 4
        for ours, theirs in zip(sorted(one, key=_order), sorted(other, key=_order), strict=True):
            assert type(ours) is type(theirs)
            assert np.array_equal(ours.decompress(), theirs.decompress())
            if isinstance(ours, Palettized):
                assert np.array_equal(ours.indices, theirs.indices) and np.array_equal(ours.lut, theirs.lut)
            elif isinstance(ours, Quantized):
                assert np.array_equal(ours.data, theirs.data) and np.array_equal(ours.scale, theirs.scale)


def _order(form: Any) -> Any:
    return form.shape


@pytest.mark.slow
def test_what_a_migration_noted_stays(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "dense.aimodel")
    config = OptimizationConfig(OpPalettizerConfig(nbits=3))
    saved = palettize_weights(tmp_path / "dense.aimodel", config).save(tmp_path / "small.aimodel")
    before, after = (
        json.loads((path / "metadata.json").read_bytes()) for path in (tmp_path / "dense.aimodel", saved.path)
    )
    assert before["creatorDefinedMetadata"] == after["creatorDefinedMetadata"]
    described = corepress.describe(saved.path)
    assert (described.model.kind, described.target, described.converter[:11]) == (
        "Core AI model",
        "iOS27",
        "coreai-core",
    )
    assert described.metadata["author"] == "corepress"
    assert [one.name for one in described.model.signature.inputs] == ["image"]
    assert corepress.verify(tmp_path / "dense.aimodel", saved.path, threshold=10).ok


@pytest.mark.slow
def test_states_stay_states(tmp_path: Path) -> None:
    corepress.migrate(summing(tmp_path), tmp_path / "dense.aimodel")
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0))
    small = palettize_weights(tmp_path / "dense.aimodel", config).save(tmp_path / "small.aimodel")
    assert any(weight.compression for weight in small.weights())
    again = decompress_weights(small).save(tmp_path / "again.aimodel")
    programs = [runtime.load(path) for path in (small.path, again.path)]
    assert [state.name for state in programs[0].interface.states] == ["memory"]
    states = [program.make_state() for program in programs]
    for token in (3, 5, 9):
        given = {"ids": np.array([[token]], np.int32)}
        one, other = (program.predict(given, state) for program, state in zip(programs, states, strict=True))
        assert np.array_equal(one["logits"], other["logits"])
    assert all(np.array_equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert np.abs(states[0]["memory"]).sum() > 0
    described = corepress.describe(small.path).model
    assert [one.name for one in described.signature.states] == ["memory"]
