"""Weights as floating-point numbers of 4 and 8 bits."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from corepress.algorithms.floats import TYPES, quantize_to_floats
from corepress.errors import ConfigError, DataError


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_each_number_is_the_nearest_that_there_is(dtype: str, kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 16)).astype(kind)
    form = quantize_to_floats(weight, dtype=dtype, block_sizes=(1, 8))  # type: ignore[arg-type]
    every = np.arange(1 << TYPES[dtype][0], dtype=np.uint8).view(form.data.dtype).astype(np.float32)  # type: ignore[union-attr]
    every = every[np.isfinite(every)]
    assert every.max() == TYPES[dtype][1]
    scale = np.repeat(form.scale, 8, axis=1).astype(np.float32)
    best = np.abs(weight.astype(np.float32)[..., None] / scale[..., None] - every).min(axis=-1)
    ours = np.abs(weight.astype(np.float32) / scale - form.data.astype(np.float32))  # type: ignore[union-attr]
    assert np.allclose(ours, best, rtol=1e-6, atol=0)
    assert form.dtype == weight.dtype and form.scale.shape == (6, 2)
    assert form.nbytes == weight.size * TYPES[dtype][0] // 8 + form.scale.nbytes
    dense = form.data.astype(kind) * np.repeat(form.scale, 8, axis=1)  # type: ignore[union-attr]
    assert np.array_equal(form.decompress(), dense)


def test_the_bits_of_four_bit_numbers_are_those_of_the_type() -> None:
    weight = np.array([[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], [0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    form = quantize_to_floats(weight, dtype="fp4_e2m1fn", block_sizes=(1, 0))
    assert isinstance(form.data, np.ndarray) and form.data.dtype == ml_dtypes.float4_e2m1fn
    assert form.data.view(np.uint8)[0].tolist() == list(range(8))
    assert np.array_equal(form.decompress(), weight)


def specified(block: NDArray[Any], dtype: str) -> tuple[float, NDArray[Any]]:
    """The scale and the values of a block by section 6.3 of the OCP's "Microscaling Formats", with saturation."""
    largest_exponent = {"fp4_e2m1fn": 2, "fp8_e4m3fn": 8, "fp8_e5m2": 15, "int8": 6}[dtype]
    peak = float(np.abs(block).max())
    scale = 2.0 ** (math.floor(math.log2(peak)) - largest_exponent) if peak else 1.0
    return scale, at(block, scale, dtype)


def at(block: NDArray[Any], scale: float, dtype: str) -> NDArray[Any]:
    """The values of a block with a given scale, each by the nearest number, ties to even."""
    numbers = np.clip(block.astype(float) / scale, -TYPES[dtype][1], TYPES[dtype][1])
    if dtype == "int8":
        return np.rint(numbers) * scale
    kind = getattr(ml_dtypes, dtype.replace("fp", "float"))
    return numbers.astype(np.float32).astype(kind).astype(float) * scale


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tails", ["normal", "heavy", "even"])
def test_powers_of_two_are_the_best_that_there_are(dtype: str, tails: str) -> None:
    """Never more error than the specification's choice; of all powers of two the best."""
    rng = np.random.default_rng(1)
    draw = {"normal": rng.standard_normal, "heavy": lambda size: rng.standard_t(2, size), "even": rng.random}[tails]
    weight = (draw((40, 64)) * np.exp2(rng.integers(-6, 3, (40, 1)))).astype(np.float32)
    weight[0, :32] = 0
    form = quantize_to_floats(weight, dtype=dtype, block_sizes=(1, 32), exponents=True)  # type: ignore[arg-type]
    dense, fewer = form.decompress().astype(float), 0
    for row, column in np.ndindex(40, 2):
        place = (row, slice(32 * column, 32 * column + 32))
        scale = float(form.scale[row, column])
        assert np.array_equal(at(weight[place], scale, dtype), dense[place])
        error = np.square(dense[place] - weight[place]).sum()
        _, reference = specified(weight[place], dtype)
        every = [at(weight[place], 2.0**exponent, dtype) for exponent in range(-45, 10)]
        assert error <= np.square(reference - weight[place]).sum()
        assert error == min(np.square(one - weight[place]).sum() for one in every)
        fewer += bool(error < np.square(reference - weight[place]).sum())
    assert np.array_equal(np.log2(form.scale), np.rint(np.log2(form.scale)))
    assert form.nbytes == weight.size * TYPES[dtype][0] // 8 + form.scale.size
    assert fewer or dtype in ("fp8_e5m2", "int8")


def test_powers_of_two_are_numbers_of_the_weights_type() -> None:
    """The runtime computes with them in that type: less than its least number would be zero."""
    small = np.full((1, 32), 2.0**-14, np.float16)
    form = quantize_to_floats(small, dtype="fp8_e5m2", block_sizes=(1, 0), exponents=True)
    assert form.scale.dtype == np.float16 and float(form.scale[0, 0]) >= 2.0**-24
    assert np.array_equal(form.decompress(), small)


def test_what_can_not_be_done() -> None:
    with pytest.raises(DataError, match="infinities or NaN"):
        quantize_to_floats(np.array([[np.inf, 1]], np.float16), dtype="fp8_e4m3fn", block_sizes=(0, 0))
    with pytest.raises(ConfigError, match="don't divide"):
        quantize_to_floats(np.ones((2, 3), np.float16), dtype="fp8_e5m2", block_sizes=(0, 2))
