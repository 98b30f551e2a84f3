from __future__ import annotations

import numpy as np
import pytest

import corepress.runtime.ops.linear  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

TYPES = ["float32", "float16", "int32"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_linear(shape, dtype):
    x, weight, bias = numbers(1, shape, dtype), numbers(2, (5, 4), dtype), numbers(3, (5,), dtype)
    check("linear", x=x, weight=weight, bias=bias, rtol=1e-4, atol=1e-5)
    same(run("linear", x=x, weight=weight), run("linear", x=x, weight=weight, bias=bias * 0))


def test_linear_with_a_weight_of_another_type():
    weight, bias = numbers(2, (5, 4)), numbers(3, (5,))
    for dtype in ("float16", "int32"):
        x = numbers(1, (3, 4), dtype)
        expected = (x.astype(np.float32) @ weight.T + bias).astype(dtype)
        same(run("linear", x=x, weight=weight, bias=bias), expected)
    x = numbers(1, (3, 4))
    half = run("linear", x=x, weight=weight.astype(np.float16), bias=bias.astype(np.float16))
    same(half, x @ weight.astype(np.float16).T + bias.astype(np.float16), 1e-4, 1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("transpose_x", [False, True])
@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize("batch_x, batch_y", [((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((2, 1, 2), (1, 3, 1))])
def test_matmul(batch_x, batch_y, transpose_x, transpose_y, dtype):
    x = numbers(1, (*batch_x, *((4, 2) if transpose_x else (2, 4))), dtype)
    y = numbers(2, (*batch_y, *((3, 4) if transpose_y else (4, 3))), dtype)
    check("matmul", x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y, rtol=1e-4, atol=1e-5)


def test_vectors():
    vector, matrix, more = numbers(1, (4,)), numbers(2, (4, 3)), numbers(3, (2, 3, 4))
    check("matmul", x=vector, y=matrix)
    same(run("matmul", x=vector, y=matrix.T, transpose_y=True), run("matmul", x=vector, y=matrix))
    same(run("matmul", x=more, y=vector, transpose_y=True), (more @ vector))
    same(run("matmul", x=vector, y=vector), vector @ vector)


def test_matmul_of_two_types():
    x, y = numbers(1, (2, 4)), numbers(2, (4, 3), "float16")
    same(run("matmul", x=x, y=y), x @ y.astype(np.float32))
    assert run("matmul", x=x.astype(np.int32), y=y).dtype == np.float16


def test_integers_wrap_around():
    x = np.array([[2**30, 3]], np.int32)
    same(run("matmul", x=x, y=np.array([[4], [5]], np.int32)), np.array([[15]], np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "equation, one, other",
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 2)),
        ("nchw,nwhu->nchu", (1, 3, 4, 5), (2, 5, 1, 2)),
        ("abcd,adce->abce", (2, 3, 1, 5), (1, 5, 4, 2)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 2)),
        ("chw,whr->chr", (3, 1, 5), (5, 4, 2)),
    ],
)
def test_einsum(equation, one, other, dtype):
    # coremltools broadcasts wrongly where both inputs need it: NumPy, which broadcasts dimensions of 1 itself.
    values = [numbers(1, one, dtype), numbers(2, other, dtype)]
    expected = np.einsum(equation, *(value.astype(np.float64) for value in values)).astype(dtype)
    same(run("einsum", values=values, equation=equation), expected, 1e-4, 5e-3 if dtype == "float16" else 1e-5)


def test_einsum_of_coremltools():
    values = [numbers(1, (2, 3, 4, 5)), numbers(2, (2, 5, 4, 2))]
    check("einsum", values=values, equation="nchw,nwhu->nchu", rtol=1e-4, atol=1e-5)
