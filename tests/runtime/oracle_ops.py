"""Single operations, by coremltools and by us: `check("gelu", x=x, mode="EXACT")` compares the two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress.runtime.forms import TENSOR, Form
from corepress.runtime.registry import OPERATIONS

# "cuda" runs the tests of the operations there.
DEVICE = os.environ.get("COREPRESS_TEST_DEVICE", "cpu")


def peer(op_name: str, opset: str = "iOS18", **inputs: Any) -> Any:
    """What coremltools computes for an operation on constant inputs: an array, or a tuple where it has several outputs.

    In the declared output type, which its own computation does not always keep to. The list of a variadic input holds
    arrays. Fails where coremltools gives no value.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder, Function, types

    def value(var: Any) -> np.ndarray:
        assert var.val is not None, f"coremltools computes no value of {op_name}"
        return np.asarray(var.val).astype(types.nptype_from_builtin(var.dtype))

    # It may write to its inputs: copies.
    inputs = {key: _copy(given) for key, given in inputs.items() if given is not None}
    with Function({}, opset_version=getattr(ct.target, opset)), np.errstate(all="ignore"):
        result = getattr(Builder, op_name)(**inputs)
    return tuple(value(var) for var in result) if isinstance(result, (tuple, list)) else value(result)


def run(op_name: str, **inputs: Any) -> Any:
    """What we compute for it: an array, or a tuple. Each input in the form that the operation's annotation asks for."""
    known = OPERATIONS[op_name]
    result = known.function(**{key: _argument(given, known.forms[key]) for key, given in inputs.items()})
    return tuple(part.cpu().numpy() for part in result) if isinstance(result, tuple) else result.cpu().numpy()


def check(op_name: str, rtol: float = 1e-5, atol: float = 1e-6, opset: str = "iOS18", **inputs: Any) -> None:
    """Ours is coremltools' value: same structure, type, shape, and numbers within the tolerance (for fp16: 2e-3)."""
    expected, ours = peer(op_name, opset, **inputs), run(op_name, **inputs)
    assert isinstance(ours, tuple) == isinstance(expected, tuple)
    same(ours, expected, rtol, atol)


def same(ours: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Assert that two arrays, or tuples of arrays, agree: types, shapes, and numbers within the tolerance."""
    if isinstance(expected, tuple):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            same(one, other, rtol, atol)
        return
    got, wanted = (f"{array.dtype} of shape {array.shape}" for array in (ours, expected))
    assert got == wanted, f"ours is {got}, and not {wanted}"
    if expected.dtype == np.float16:
        rtol, atol = max(rtol, 2e-3), max(atol, 2e-3)
    rtol, atol = (rtol, atol) if expected.dtype.kind == "f" else (0, 0)
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)


def numbers(seed: int, shape: Sequence[int], dtype: str = "float32", low: float = -3, high: float = 3) -> np.ndarray:
    """Random numbers in [low, high], whole ones for an integer type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(low, high, tuple(shape)).astype(dtype)
    return rng.integers(int(low), int(high) + 1, tuple(shape)).astype(dtype)


def _copy(given: Any) -> Any:
    if isinstance(given, (list, tuple)):
        return [_copy(item) for item in given]
    return given.copy() if isinstance(given, np.ndarray) else given


def _argument(given: Any, form: Form) -> Any:
    if given is None:
        return None
    if form == Form((Tensor,), many=True):
        return [_tensor(item) for item in given]
    return _tensor(given) if form == TENSOR else np.asarray(given).tolist()


def _tensor(given: Any) -> Tensor:
    return torch.from_numpy(np.array(given)).to(DEVICE)
