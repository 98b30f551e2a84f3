"""Products of float16 on a CPU are sums in float32 whose results are rounded once; all else stays float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from corepress import runtime
from corepress.formats.dtypes import BY_NAME
from corepress.formats.mlprogram.values import immediate_value, set_tensor_type, string_value
from corepress.runtime.registry import OPERATIONS
from tests.runtime.hand_made import add, model

HALF, SINGLE = torch.float16, torch.float32


def half(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(HALF)


def constant(tensor: Tensor) -> Any:
    return immediate_value(tensor.numpy())


def program(build: Any, shape: tuple[int, ...], folder: Any, **arguments: Any) -> runtime.Program:
    """A model of float16 whose block `build` fills, from x to y."""
    spec, block = model(shape)
    add(block, "cast", "h", x="x", dtype=string_value("fp16"))
    build(block)
    add(block, "identity", "y", x="out")
    path = folder / "m.mlmodel"
    path.write_bytes(spec.SerializeToString())
    return runtime.load(path, **arguments)


def values(made: runtime.Program, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    made.predict({"x": x.float()}, observe=lambda name, value: found.setdefault(name, value))
    return found


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], Any]] = {
    "conv": ((1, 8, 9, 9), {"x": "h", "weight": half(1, 4, 8, 3, 3), "bias": half(2, 4)}, F.conv2d),
    "conv_transpose": ((1, 8, 9, 9), {"x": "h", "weight": half(1, 8, 4, 3, 3)}, F.conv_transpose2d),
    "linear": ((5, 300), {"x": "h", "weight": half(1, 7, 300), "bias": half(2, 7)}, F.linear),
    "matmul": ((5, 300), {"x": "h", "y": half(1, 300, 7)}, torch.matmul),
    "einsum": (
        (5, 300),
        {"values": ["h", half(1, 300, 7)], "equation": string_value("ab,bc->ac")},
        lambda values, equation: torch.einsum("ab,bc->ac", *values),
    ),
    "scaled_dot_product_attention": (
        (2, 6, 16),
        {"query": "h", "key": half(1, 2, 9, 16), "value": half(2, 2, 9, 16)},
        lambda query, key, value: F.scaled_dot_product_attention(query, key, value),
    ),
}


@pytest.mark.parametrize("precision", ["as_is", "float16"])
@pytest.mark.parametrize("kind", CASES)
def test_a_product_is_pytorchs_of_float32_rounded_once(kind, precision, tmp_path) -> None:
    """To the bit."""
    shape, arguments, reference = CASES[kind]
    given = {
        key: constant(v) if isinstance(v, Tensor)
        else [constant(item) if isinstance(item, Tensor) else item for item in v] if isinstance(v, list) else v
        for key, v in arguments.items()
    }  # fmt: skip
    made = program(lambda block: add(block, kind, "out", **given), shape, tmp_path, precision=precision)
    x = half(0, *shape)

    def wide(value: Any) -> Any:
        value = x if isinstance(value, str) else value
        return [wide(item) for item in value] if isinstance(value, list) else getattr(value, "float", lambda: value)()

    expected = reference(*map(wide, arguments.values())).to(HALF)
    found = values(made, x)
    assert found["out"].dtype == HALF
    assert torch.equal(found["out"], expected)


@pytest.mark.parametrize("kind,gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_recurrent_layers_round_their_results_only(kind, gates, tmp_path) -> None:
    weights = {"weight_ih": half(1, gates * 16, 16) / 4, "weight_hh": half(2, gates * 16, 16) / 4}
    states = {"initial_h": half(3, 1, 16)} | ({"initial_c": half(4, 1, 16)} if kind == "lstm" else {})
    outputs = ("out", "last") if kind != "lstm" else ("out", "last", "cell")
    given = {key: constant(value) for key, value in (weights | states).items()}
    made = program(
        lambda block: add(block, kind, *outputs, x="h", output_sequence=True, **given), (20, 1, 16), tmp_path
    )
    x = half(0, 20, 1, 16)
    wide = {key: value.double() for key, value in (weights | states).items()}
    expected = OPERATIONS[kind].function(x=x.double(), output_sequence=True, **wide)
    found = values(made, x)
    for name, exact in zip(outputs, expected, strict=True):
        assert found[name].dtype == HALF
        # Half a unit in the last place of float16, and what float32 adds up differently.
        torch.testing.assert_close(found[name].double(), exact, rtol=2**-11 + 2**-18, atol=2**-20)


def test_every_product_of_the_registry_is_known() -> None:
    """Those that multiply two tensors along a shared axis, and no others."""
    products = {name for name, known in OPERATIONS.items() if known.product}
    assert products == {*CASES, "conv_quantized", "rnn", "gru", "lstm"}


def test_all_else_is_computed_in_float16(tmp_path) -> None:
    def build(block: Any) -> None:
        add(block, "linear", "a", x="h", weight=constant(half(1, 8, 8)))
        add(block, "mul", "b", x="a", y=constant(half(2, 8)))
        add(block, "linear", "out", x="b", weight=constant(half(3, 8, 8)))

    found = values(program(build, (1, 8), tmp_path), half(0, 1, 8))
    assert all(found[name].dtype == HALF for name in ("h", "a", "b", "out"))
    a = F.linear(half(0, 1, 8).float(), half(1, 8, 8).float()).to(HALF)
    assert torch.equal(found["b"], a * half(2, 8))
    assert torch.equal(found["out"], F.linear((a * half(2, 8)).float(), half(3, 8, 8).float()).to(HALF))


def named(block: Any, name: str, tensor: Tensor) -> None:
    op = add(block, "const", name)
    op.attributes.add(key="val").value.CopyFrom(constant(tensor))
    set_tensor_type(op.outputs[0].type, BY_NAME["float16"], tuple(tensor.shape))


@pytest.mark.parametrize("tied", [False, True])
def test_what_only_products_read_is_held_in_float32(tied, tmp_path) -> None:
    table = half(1, 8, 8)

    def build(block: Any) -> None:
        named(block, "table", table)
        add(block, "gather", "row", x="table" if tied else constant(table), indices=np.array([3]), axis=0)
        add(block, "add", "sum", x="h", y="row")
        add(block, "linear", "out", x="sum", weight="table")

    made = program(build, (1, 8), tmp_path)
    types = sorted(str(buffer.dtype) for buffer in made.module.buffers() if buffer.numel() == 64)
    assert types == ["torch.float16", "torch.float32"]  # one is for the look-up
    held = made.module.constants()[made.constants["table"]]
    assert held.dtype == (HALF if tied else SINGLE) and torch.equal(held.float(), table.float())
    found = values(made, half(0, 1, 8))
    assert torch.equal(found["row"], table[[3]])
    assert torch.equal(found["out"], F.linear(found["sum"].float(), table.float()).to(HALF))
    plain = program(build, (1, 8), tmp_path, precision="float32")
    assert {buffer.dtype for buffer in plain.module.buffers() if buffer.numel() == 64} == {SINGLE}


def test_mixed_types_stay_as_they_are(tmp_path) -> None:
    """A weight of float16 with activations of float32, and the other way round: as PyTorch would have it."""
    weight = half(1, 8, 8)

    def build(block: Any) -> None:
        add(block, "matmul", "wide", x="x", y=constant(weight))
        add(block, "matmul", "other", x="h", y=constant(weight.float()))
        add(block, "linear", "narrow", x="h", weight=constant(weight.float()))
        add(block, "matmul", "whole", x=np.array([[1, 2]]), y=np.array([[3], [4]]))
        add(block, "add", "out", x="wide", y="other")

    found = values(program(build, (1, 8), tmp_path), half(0, 1, 8))
    assert found["wide"].dtype == found["other"].dtype == SINGLE and found["narrow"].dtype == HALF
    assert torch.equal(found["wide"], found["other"])
    assert found["whole"].dtype == torch.int32 and found["whole"].item() == 11


def test_products_in_branches_and_loops_are_widened(tmp_path) -> None:
    weight = half(1, 8, 8)

    def build(block: Any) -> None:
        op = add(block, "cond", "out", pred=True)
        for scale in (1, 2):
            inner = op.blocks.add()
            add(inner, "linear", f"inner{scale}", x="h", weight=constant(weight))
            inner.outputs.append(f"inner{scale}")

    found = values(program(build, (1, 8), tmp_path), half(0, 1, 8))
    assert torch.equal(found["out"], F.linear(half(0, 1, 8).float(), weight.float()).to(HALF))


def test_sums_beyond_float16_come_back_when_they_cancel(tmp_path) -> None:
    """What lies between the products is not rounded: 60,000 + 60,000 - 60,000."""
    weight = torch.tensor([[60000.0, 60000.0, -60000.0]], dtype=HALF)
    made = program(lambda block: add(block, "linear", "out", x="h", weight=constant(weight)), (1, 3), tmp_path)
    assert values(made, torch.ones(1, 3, dtype=HALF))["out"].item() == weight[0, 0].item()
