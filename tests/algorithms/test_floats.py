"""Weights as floating-point numbers of 4 and 8 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

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


def test_what_can_not_be_done() -> None:
    with pytest.raises(DataError, match="infinities or NaN"):
        quantize_to_floats(np.array([[np.inf, 1]], np.float16), dtype="fp8_e4m3fn", block_sizes=(0, 0))
    with pytest.raises(ConfigError, match="don't divide"):
        quantize_to_floats(np.ones((2, 3), np.float16), dtype="fp8_e5m2", block_sizes=(0, 2))
