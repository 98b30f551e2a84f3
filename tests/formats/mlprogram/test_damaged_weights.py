"""Compressed weights whose parameters do not fit each other: one sentence each, with Python's asserts or without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress.errors import FormatError
from corepress.formats.mlprogram.constexpr import read_weight, write_weight
from corepress.formats.mlprogram.program import Function, block_nodes
from corepress.formats.mlprogram.values import immediate_value
from corepress.formats.schema import Model
from corepress.weights import Palettized, Quantized, Sparse

INDICES = np.arange(16, dtype=np.uint8).reshape(4, 4)
SCALAR = Palettized(INDICES, np.arange(16, dtype=np.float16).reshape(1, 1, 16, 1))
VECTOR = Palettized(INDICES % 4, np.ones((1, 1, 4, 2), np.float16), 0)
LINEAR = Quantized(INDICES.astype(np.int8), np.ones((4, 1), np.float16))
SPARSE = Sparse(INDICES > 7, INDICES.astype(np.float16))
JOINT = Sparse(INDICES > 7, SCALAR)


def changed(argument: str, array: Any, bits: int | None = None) -> Callable[[Any], None]:
    """Put another array in the place of an argument."""

    def change(operation: Any) -> None:
        value = immediate_value(np.asarray(array), bits)
        for entry in operation.attributes:
            if entry.key == argument:
                entry.value.CopyFrom(value)
        for entry in operation.inputs:
            if entry.key == argument:
                entry.value.arguments[0].value.CopyFrom(value)

    return change


def without(argument: str) -> Callable[[Any], None]:
    def change(operation: Any) -> None:
        kept = [entry for entry in operation.inputs if entry.key != argument]
        del operation.inputs[:]
        operation.inputs.extend(kept)

    return change


# A weight, the generation of its operations, what is damaged in the first of them, and words of the sentence.
DAMAGE: dict[str, tuple[Any, int, Callable[[Any], None], str]] = {
    "first generation: a number of no axes": (
        LINEAR,
        1,
        changed("quantized_data", np.int8(3)),
        "axis 0 does not exist",
    ),
    "first generation: an axis that is none": (LINEAR, 1, changed("axis", np.int32(9)), "axis 9 does not exist"),
    "first generation: a shape of other size": (SCALAR, 1, changed("shape", np.array([9, 9], np.uint32)), "bits"),
    "first generation: an empty table": (SCALAR, 1, changed("lut", np.ones(0, np.float16)), ""),
    "vectors without an axis": (VECTOR, 2, without("vector_axis"), "'vector_axis' is missing"),
    "vectors along an axis that is none": (VECTOR, 2, changed("vector_axis", np.int32(2)), "vector_axis 2"),
    "vectors of no length": (VECTOR, 2, changed("lut", np.ones((1, 1, 4, 0), np.float16)), ""),
    "a table of no axes": (SCALAR, 2, changed("lut", np.float16(1)), ""),
    "an empty table": (SCALAR, 2, changed("lut", np.ones((1, 1, 0, 1), np.float16)), ""),
    "groups that do not divide": (SCALAR, 2, changed("lut", np.ones((3, 1, 16, 1), np.float16)), "does not fit"),
    "an index outside": (SCALAR, 2, changed("lut", np.ones((1, 1, 8, 1), np.float16)), "points outside"),
    "scales of another rank": (LINEAR, 2, changed("scale", np.ones(4, np.float16)), "scales of shape"),
    "scales that do not divide": (LINEAR, 2, changed("scale", np.ones((3, 1), np.float16)), "scales of shape"),
    "a mask of another count": (SPARSE, 2, changed("mask", np.ones((4, 4), np.uint8), 1), "the mask keeps 16"),
    "a joint form without its mask": (JOINT, 2, without("indices_mask"), "'indices_mask' is missing"),
}


def sentence(name: str) -> str:
    """What reading a damaged weight is refused with; nothing where it is not."""
    weight, generation, change, _ = DAMAGE[name]
    block = Model().mlProgram.functions.add().value.block_specializations.add().value
    block.operations.extend(write_weight(weight, "w", generation=generation, store=immediate_value))
    change(block.operations[0])
    node = block_nodes(Function("", "main", "CoreML8"), block)[-1]
    try:
        read_weight(node, None)  # type: ignore[arg-type] - all of it is inline
    except FormatError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_weight_gets_a_sentence(name) -> None:
    found = sentence(name)
    assert found and DAMAGE[name][3] in found


def test_damage_is_found_without_asserts_too() -> None:
    script = (
        "from tests.formats.mlprogram import test_damaged_weights as t; print(*map(t.sentence, t.DAMAGE), sep='\\n')"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines() == [sentence(name) for name in DAMAGE]
