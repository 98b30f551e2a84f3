"""Constants that no product reads can be spared; those that one does read are compressed all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress.errors import Missed
from corepress.neural_network.interop import as_model
from corepress.neural_network.quantization_utils import quantize_weights
from tests.lazy import lazy

datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")

VALUE = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


def network(build: Any) -> Any:
    b = NeuralNetworkBuilder(
        [("x", datatypes.Array(6, 6))], [("y", None)], disable_rank5_shape_mapping=True, use_float_arraytype=True
    )
    b.add_load_constant_nd("c", "c", VALUE, VALUE.shape)
    build(b)
    return as_model(b.spec)


def added(b: Any) -> None:
    b.add_add_broadcastable("l", ["x", "c"], "y")


def multiplied(b: Any) -> None:
    b.add_batched_mat_mul("l", ["x", "c"], "y")


def moved(b: Any) -> None:
    b.add_transpose("t", [1, 0], "c", "moved")
    b.add_reshape_static("r", "moved", "again", [6, 6])
    b.add_batched_mat_mul("l", ["x", "again"], "y")


def looked_up(b: Any) -> None:
    b.add_gather("l", ["c", "x"], "y")


def in_a_branch(b: Any) -> None:
    branch = b.add_branch("if", "x").branch
    NeuralNetworkBuilder(nn_spec=branch.ifBranch).add_batched_mat_mul("l", ["x", "c"], "y")


def both(b: Any) -> None:
    added(b)
    b.add_batched_mat_mul("m", ["x", "c"], "z")


@pytest.mark.parametrize("build", [multiplied, moved, looked_up, in_a_branch, both])
def test_what_a_product_reads_is_compressed(build, caplog) -> None:
    result = quantize_weights(network(build), 8, spare_constants=True)
    assert [weight.form for weight in result.weights()] == ["linear"]
    assert result.skipped == {} and "constants" not in caplog.text


def test_what_only_others_read_is_spared(caplog) -> None:
    model = network(added)
    spared = quantize_weights(model, 8, spare_constants=True)
    assert spared.spec == model.spec and "no product, look-up or recurrence reads it" in spared.skipped["c.data"]
    assert 'no weight was compressed: the largest of 1, "c.data" (36), was left alone' in caplog.text
    caplog.clear()
    assert [weight.form for weight in quantize_weights(model, 8).weights()] == ["linear"]
    assert "1 weight is compressed, as coremltools does" in caplog.text and "(c.data)" in caplog.text
    caplog.clear()
    quantize_weights(model, 8, spare_constants=False)
    assert "as coremltools does" not in caplog.text


def test_calls_that_compress_nothing_say_so(caplog) -> None:
    model = network(multiplied)
    quantize_weights(model, 8, weight_threshold=100)
    assert "no weight was compressed" in caplog.text and "no more than 100 elements (weight_threshold)" in caplog.text
    with pytest.raises(Missed, match="no weight was compressed: the largest of 1"):
        quantize_weights(model, 8, weight_threshold=100, strict=True)
    caplog.clear()
    quantize_weights(model, 8, "kmeans", strict=True)  # a table of 256 numbers for 36
    assert "the model did not become smaller" in caplog.text
    caplog.clear()
    quantize_weights(model, 8, "dequantization")
    assert "no weight was decompressed: none of the model is compressed" in caplog.text
