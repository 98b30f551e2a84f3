"""Arithmetic of lengths gives what the operations of the runtime give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from corepress.migrating.lengths import _FUNCTIONS, as_tensor, computed, is_symbolic, lengths, numbers
from corepress.runtime.registry import OPERATIONS

SHAPE = torch.tensor([4, 7, 12], dtype=torch.int32)
ONE = torch.tensor([5], dtype=torch.int32)
CASES: dict[str, list[dict[str, Any]]] = {
    "gather": [{"x": SHAPE, "indices": torch.tensor(n)} for n in (0, 2, -1)] + [
        {"x": SHAPE, "indices": torch.tensor([2, 0]), "axis": 0}
    ],
    "slice_by_index": [
        {"x": SHAPE, "begin": [1], "end": [2], "squeeze_mask": [True]},
        {"x": SHAPE, "begin": [1], "end": [0], "end_mask": [True]},
        {"x": SHAPE, "begin": [0], "end": [2], "begin_mask": [True]},
        {"x": SHAPE, "begin": [0], "end": [3], "stride": [2]},
    ],
    "concat": [{"values": [SHAPE, ONE], "axis": 0}, {"values": [SHAPE[0], SHAPE[2]], "axis": 0}],
    "stack": [{"values": [SHAPE[0], SHAPE[1]], "axis": 0}],
    "cast": [{"x": SHAPE, "dtype": "int32"}],
    "identity": [{"x": SHAPE}],
    "squeeze": [{"x": ONE}, {"x": ONE, "axes": [0]}],
    "expand_dims": [{"x": SHAPE[1], "axes": [0]}],
    "reshape": [{"x": SHAPE[1], "shape": [1]}, {"x": SHAPE, "shape": [-1]}],
    **{kind: [{"x": SHAPE, "y": ONE}, {"x": SHAPE, "y": torch.tensor(3, dtype=torch.int32)}]
       for kind in ("add", "sub", "mul", "floor_div", "mod", "maximum", "minimum")},
    "reduce_prod": [{"x": SHAPE, "axes": [0]}, {"x": SHAPE, "axes": [0], "keep_dims": True}],
    "reduce_sum": [{"x": SHAPE}],
}  # fmt: skip


@pytest.mark.parametrize("kind", _FUNCTIONS)
def test_the_same_numbers_as_the_operation(kind: str) -> None:
    assert CASES[kind]
    for case in CASES[kind]:
        found = computed(kind, {name: numbers(value) for name, value in case.items()})
        assert found is not None and is_symbolic(found)
        expected = OPERATIONS[kind].function(**case)
        np.testing.assert_array_equal(as_tensor(found).numpy(), expected.numpy())


def test_what_is_no_arithmetic_of_lengths() -> None:
    assert computed("conv", {"x": lengths([1])}) is None
    assert numbers(torch.zeros(3)) is None and numbers(torch.zeros(2, 2, dtype=torch.int32)) is None
    assert computed("cast", {"x": lengths([1]), "dtype": "fp32"}) is None
    assert computed("add", {"x": lengths([1]), "y": None}) is None
