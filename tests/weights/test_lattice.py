"""Weights that were quantized before are told from others, by the blocks of their scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.weights.lattice import columns_of_a_scale, steps_of


def quantized(rows: int, columns: int, block: int, bits: int, zero: bool, seed: int, dtype: str) -> np.ndarray:
    """Random integers, each block under a scale of its own, as GGUF's Q4_0 (with 0) and Q4_1 (without) have them."""
    random = np.random.default_rng(seed)
    levels = random.integers(0, 2**bits, (rows, columns // block, block)).astype(np.float32)
    scale = random.uniform(0.01, 0.1, (rows, columns // block, 1)).astype(np.float32)
    low = -(2 ** (bits - 1)) * scale if zero else -scale * random.uniform(2.1, 7.9, scale.shape).astype(np.float32)
    return (levels * scale + low).reshape(rows, columns).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([16, 32, 64, 128, 0]), st.integers(2, 4), st.booleans(), st.integers(0, 2**32 - 1),
    st.sampled_from(["float16", "float32"]),
)  # fmt: skip
def test_the_blocks_are_found(block, bits, zero, seed, dtype) -> None:
    columns = 384
    weight = quantized(24, columns, block or columns, bits, zero, seed, dtype)
    assert columns_of_a_scale(weight) == (block or columns)
    assert columns_of_a_scale(np.ascontiguousarray(weight.T)) == (block or columns)


def test_steps_are_those_of_the_scale() -> None:
    random = np.random.default_rng(0)
    levels, scale = random.integers(0, 8, (200, 32)), random.uniform(0.01, 0.1, 200).astype("f4")
    levels[:, :3] = 0, 5, 6  # neighbours among them, but not both ends of the integers
    levels[0] = np.arange(32) % 2  # two values tell nothing
    blocks = (levels * scale[:, None] - 3 * scale[:, None]).astype("f2")
    found = steps_of(blocks, blocks.dtype, 15)
    assert found is not None and found[0] == 0
    assert steps_of(blocks, blocks.dtype, 3) is None  # integers of two bits can't hold them
    np.testing.assert_allclose(found[1:], scale[1:], rtol=2**-10)
    blocks[7, 3] += np.float16(0.4 * scale[7])
    assert steps_of(blocks, blocks.dtype, 15) is None


@pytest.mark.parametrize(
    "weight",
    [
        np.random.default_rng(0).normal(size=(64, 256)).astype("f2"),
        np.random.default_rng(0).normal(size=(4, 16)).astype("f4"),
        np.zeros((64, 256), "f2"),
        np.full((64, 256), np.inf, "f2"),
        np.random.default_rng(0).choice(
            np.array([-1, -0.3, 0.2, 1.7], "f2"), (64, 256)
        ),  # four values, unevenly spaced
        quantized(64, 256, 32, 8, True, 0, "float32"),  # more steps than are told
    ],
    ids=["normal", "small", "zeros", "infinite", "table", "8 bits"],
)
def test_others_have_none(weight) -> None:
    assert columns_of_a_scale(weight) is None
