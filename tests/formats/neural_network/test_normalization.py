"""Batch norms with variances near 0: their statistics are spared, and layers that they amplify are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress import report
from corepress.neural_network.interop import as_model
from corepress.neural_network.quantization_utils import quantize_weights
from corepress.runtime import load
from tests.lazy import lazy

datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")

CHANNELS = 16
SHAPE = (CHANNELS, 12, 12)


def given(cancelling: int) -> Any:
    """Noise, in the first channels nearly nothing of it on a large pedestal."""
    x = np.random.default_rng(1).normal(size=SHAPE)
    x[:cancelling] = 20 + 1e-3 * x[:cancelling]
    return {"x": x.astype(np.float32)}


def network(cancelling: int, small: int = 0) -> Any:
    """A depthwise convolution, a batch norm with the statistics of its outputs, and a convolution.

    The kernels of the first `cancelling` channels sum up to 0, so that they see nothing of a pedestal; those of the
    last `small` are 1,000 times smaller than the rest.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 1, CHANNELS)).astype(np.float32)
    weight[..., :cancelling] -= weight[..., :cancelling].mean((0, 1))
    weight[..., CHANNELS - small :] *= 1e-3
    outputs = [("y", None), ("d", None)]
    b = NeuralNetworkBuilder([("x", datatypes.Array(*SHAPE))], outputs, use_float_arraytype=True)
    b.add_convolution(
        "dw", 1, CHANNELS, 3, 3, 1, 1, "valid", CHANNELS, weight, None, False, input_name="x", output_name="d"
    )
    b.add_batchnorm("bn", CHANNELS, *np.ones((4, CHANNELS)), "d", "n", epsilon=1e-7)
    mix = rng.normal(size=(1, 1, CHANNELS, 8)).astype(np.float32)
    b.add_convolution("mix", CHANNELS, 8, 1, 1, 1, 1, "valid", 1, mix, None, False, input_name="n", output_name="y")
    depthwise = load(as_model(b.spec)).predict(given(cancelling))["d"].reshape(CHANNELS, -1)
    norm = b.spec.neuralNetwork.layers[1].batchnorm
    for params, values in (
        (norm.beta, np.zeros(CHANNELS)), (norm.mean, depthwise.mean(1)), (norm.variance, depthwise.var(1)),
    ):  # fmt: skip
        params.floatValue[:] = values
    del b.spec.description.output[1]
    return b.spec


def snr(spec: Any, other: Any, cancelling: int = 0) -> float:
    exact, found = (load(as_model(model)).predict(given(cancelling))["y"].astype(np.float64) for model in (spec, other))
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def test_spared_statistics_save_a_network(caplog) -> None:
    spec = network(0)
    norm = spec.neuralNetwork.layers[1].batchnorm
    # With one scale for all variances, of which others are near 10, the first becomes that of a dead channel.
    norm.variance.floatValue[:2], norm.gamma.floatValue[1] = [1e-4, 1e-8], 0
    quantized, spared = (quantize_weights(spec, 8, spare_constants=spare) for spare in (False, True))
    assert snr(spec, spared) > 25 > snr(spec, quantized) + 10
    assert spared.neuralNetwork.layers[1] == spec.neuralNetwork.layers[1]
    assert "statistics of batch norms" not in caplog.text


@pytest.mark.parametrize("nbits", [8, 16])
def test_the_peers_choice_is_kept_with_a_warning(nbits, caplog) -> None:
    spec = network(0)
    result = quantize_weights(spec, nbits)
    assert result == quantize_weights(spec, nbits, spare_constants=False)
    assert "4 weights are compressed, as coremltools does, though statistics of batch norms" in caplog.text
    assert "(bn.gamma, bn.beta, bn.mean, ...)" in caplog.text and "spare_constants=True" in caplog.text
    assert caplog.text.count("statistics of batch norms") == 1


def test_what_is_spared_is_reported() -> None:
    result = quantize_weights(as_model(network(0)), 8, spare_constants=True)
    rows = {row.name: row for row in report(result).rows}
    assert {name for name, row in rows.items() if row.skipped} == {
        f"bn.{w}" for w in ("gamma", "beta", "mean", "variance")
    }
    assert all("batch norm" in rows[name].skipped for name in rows if name.startswith("bn."))
    assert [row.name for row in report(result).compressed] == ["dw.weights", "mix.weights"]


def test_layers_that_a_norm_amplifies_are_named(caplog) -> None:
    spec = network(CHANNELS // 2)
    result = quantize_weights(spec, 8, spare_constants=True)
    assert snr(spec, result, CHANNELS // 2) < 10
    assert "layer 'dw': the rounding of its weight, amplified by the batch norm 'bn' behind it" in caplog.text
    caplog.clear()
    quantize_weights(network(0), 8, spare_constants=True)  # a healthy network
    assert "rounding" not in caplog.text


def test_channels_that_are_switched_off_do_not_count(caplog) -> None:
    spec = network(CHANNELS // 2)
    spec.neuralNetwork.layers[1].batchnorm.gamma.floatValue[: CHANNELS // 2] = [0] * (CHANNELS // 2)
    quantize_weights(spec, 8, spare_constants=True)
    assert caplog.text == ""


def test_layers_that_lose_their_small_kernels_are_named(caplog) -> None:
    spec = network(0, small=CHANNELS // 2)
    del spec.neuralNetwork.layers[1]
    spec.neuralNetwork.layers[1].input[0] = "d"
    quantize_weights(spec, 4, "kmeans")  # one table for all kernels
    assert "layer 'dw': the rounding of its weight, of its smallest kernels, may be" in caplog.text
    caplog.clear()
    quantize_weights(spec, 8, "linear")  # a scale for each
    assert "rounding" not in caplog.text


def test_healthy_networks_and_damaged_norms_are_not_warned_of(caplog) -> None:
    spec = network(0)
    quantize_weights(spec, 8, spare_constants=True)
    assert caplog.text == ""
    del spec.neuralNetwork.layers[1].batchnorm.variance.floatValue[3:]
    quantize_weights(spec, 8, spare_constants=True)
    assert caplog.text == ""
