"""Properties that hold for any weight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import corepress.coreml as cto
from corepress.algorithms.linear import quantize
from corepress.algorithms.palettize import palettize
from corepress.formats.mlprogram import load
from tests.process import python

FLOATS = st.floats(-1000, 1000, width=16)
WEIGHTS = hnp.arrays(np.float16, st.tuples(st.integers(2, 12), st.integers(2, 12)), elements=FLOATS)


def error(weight: np.ndarray, form) -> float:
    return float(np.square(weight.astype(np.float64) - form.decompress().astype(np.float64)).sum())


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.sampled_from(["kmeans", "uniform"]))
def test_more_bits_never_mean_more_error(weight, mode) -> None:
    errors = [error(weight, palettize(weight, bits, mode)) for bits in (1, 2, 3, 4, 6, 8)]
    slack = 1e-9 + 1e-6 * errors[0]
    if mode == "kmeans":
        assert all(more <= less + slack for less, more in itertools.pairwise(errors))
    # Steps that do not nest may lose a little, but never more than half a step everywhere.
    spread = float(weight.astype(np.float64).max() - weight.astype(np.float64).min())
    for bits, found in zip((1, 2, 3, 4, 6, 8), errors, strict=True):
        step = spread / ((1 << bits) - 1)
        assert found <= weight.size * (step / 2 + spread * 2**-10) ** 2 + slack


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 6))
def test_smaller_groups_never_mean_more_error(weight, halvings) -> None:
    channels = weight.shape[0]
    sizes = [size for size in range(channels, 0, -1) if channels % size == 0]
    nested = [channels]
    for size in sizes[1:]:
        if nested[-1] % size == 0:
            nested.append(size)
    errors = [error(weight, palettize(weight, 2, group_size=size)) for size in nested]
    assert all(finer <= coarser + 1e-9 + 1e-6 * errors[0] for coarser, finer in itertools.pairwise(errors))


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.sampled_from(["int8", "uint8", "int4", "uint4"]), st.sampled_from(["linear", "linear_symmetric"]))
def test_a_quantized_weight_is_within_half_a_step(weight, dtype, mode) -> None:
    form = quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 0))
    step = np.broadcast_to(form.scale.astype(np.float64), weight.shape)
    difference = np.abs(weight.astype(np.float64) - form.decompress().astype(np.float64))
    levels = 1 << form.bits
    # The stored scale and the float16 product are rounded: half a bit of float16 for each level. The least bit of
    # float16 is 2**-24.
    rounding = np.maximum(step * 2**-11, 2**-25)
    assert (difference <= step * 0.5 + levels * rounding + np.abs(weight) * 2**-10 + 1e-7).all()


def test_nothing_of_the_convert_extra_is_needed(package, tmp_path) -> None:
    code = f"""
import sys
for name in ("coremltools", "torch", "sklearn", "scipy", "kmeans1d"):
    sys.modules[name] = None  # an import of it fails
import corepress.coreml as cto
config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, cluster_dim=2))
cto.palettize_weights({str(package())!r}, config).save({str(tmp_path / "out.mlpackage")!r})
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert any(w.compression for w in load(tmp_path / "out.mlpackage").weights())


@pytest.mark.parametrize("mode", ["kmeans", "uniform"])
def test_palettizing_a_palettized_value_again_loses_nothing(package, tmp_path, mode) -> None:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, mode=mode))
    once = cto.palettize_weights(package(), config)
    dense = cto.decompress_weights(once)
    again = cto.palettize_weights(dense, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4)))
    for first, second in zip(once.weights(), again.weights(), strict=True):
        np.testing.assert_array_equal(first.dense(), second.dense())
