"""Functions that a program calls. The oracle is the same function, called from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
from corepress.formats.coreai.view import OWN_NAME
from corepress.formats.mlprogram.values import string_value
from corepress.runtime.packed import Packed
from tests.formats.coreai.made import COLUMNS, layer

pytest.importorskip("coreai")


def calling(model: Any) -> Any:
    """The model with a function `main` that does nothing but call what it was."""
    program = model.spec.mlProgram
    [entry] = program.functions
    inner = program.functions.add()
    inner.CopyFrom(entry)
    inner.key = "inner"
    [block] = (held.value for held in entry.value.block_specializations)
    last = block.operations[-1].outputs[0]
    call = type(block.operations[-1])(type="invoke")
    call.attributes.add(key="name").value.CopyFrom(string_value(last.name))
    call.attributes.add(key=OWN_NAME).value.CopyFrom(string_value("invoke"))
    call.inputs.add(key="values").value.arguments.add().name = block.inputs[0].name
    call.inputs.add(key="function").value.arguments.add().value.CopyFrom(string_value("inner"))
    call.outputs.add(name=last.name).type.CopyFrom(last.type)
    del block.operations[:]
    block.operations.append(call)
    return model


@pytest.mark.parametrize("weights", ["ahead_of_time", "on_the_fly", "streamed"])
def test_weights_of_a_called_function_are_kept_as_asked(weights: str, tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0))
    small = palettize_weights(layer(tmp_path / "dense.aimodel"), config).save(tmp_path / "small.aimodel")
    given = {"x": np.random.default_rng(0).normal(size=(COLUMNS, COLUMNS)).astype(np.float16)}
    expected = runtime.load(small, precision="float32").predict(given)["y"]
    program = runtime.load(calling(corepress.load(small.path)), precision="float32", weights=weights)
    np.testing.assert_allclose(program.predict(given)["y"], expected, rtol=1e-5, atol=1e-5)
    packed = [part for part in program.module.modules() if isinstance(part, Packed)]
    assert len(packed) == (weights == "on_the_fly")


def test_values_within_a_called_function_are_not_shown(tmp_path: Path) -> None:
    """They may have the names of values outside, as here."""
    seen: list[str] = []
    program = runtime.load(calling(corepress.load(layer(tmp_path / "dense.aimodel"))), precision="float32")
    program.predict({"x": np.eye(COLUMNS, dtype=np.float16)}, observe=lambda name, value: seen.append(name))
    assert len(seen) == len(set(seen)) == 1
