"""All layer types, all numbers of bits, all modes; read literally, and by coremltools."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from typing import Any

import kmeans1d
import numpy as np
import pytest

from corepress.errors import ConfigError
from corepress.neural_network.quantization_utils import QuantizedLayerSelector, quantize_weights
from tests.formats.neural_network.networks import UNTOUCHED, every_layer, inner_product
from tests.formats.neural_network.reading import values_of, weights_of
from tests.lazy import lazy

ct = lazy("coremltools")
peer = lazy("coremltools.models.neural_network.quantization_utils")

MODES = ("linear", "linear_symmetric", "linear_lut", "kmeans", "kmeans_lut", "custom_lut")
RUNS = {"deconv": 9}


def by_peer(spec: Any, *args: Any, **kwargs: Any) -> Any:
    """What coremltools makes of a specification. With NumPy 1 it computes scales in float64, and ours stay."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("the peer's scales have other last bits with NumPy 1")
    with contextlib.redirect_stdout(io.StringIO()):
        return peer.quantize_weights(ct.models.MLModel(spec, skip_model_load=True), *args, **kwargs).get_spec()


def copied(spec: Any) -> Any:
    other = type(spec)()
    other.CopyFrom(spec)
    return other


def signs(nbits: int, weight: Any) -> Any:
    """A custom LUT: the signs of the values."""
    lut = np.zeros(2**nbits)
    lut[:2] = -1, 1
    return lut, (weight > 0).astype(int).reshape(-1)


@functools.cache
def original() -> Any:
    return every_layer()


def dense(spec: Any) -> dict[str, Any]:
    """All values of all weights by name; all weights of a full-precision network have their own count."""
    sizes = {
        f"{layer.name}{path}": np.size(weight.floatValue)
        for layer in original().neuralNetwork.layers
        for path, weight in weights_of(layer)
    }
    return {
        f"{layer.name}{path}": values_of(weight, sizes[f"{layer.name}{path}"], RUNS.get(layer.name))
        for layer in spec.neuralNetwork.layers
        for path, weight in weights_of(layer)
    }


def raw_weights(spec: Any) -> dict[str, Any]:
    return {f"{layer.name}{path}": w for layer in spec.neuralNetwork.layers for path, w in weights_of(layer)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nbits", range(1, 9))
def test_every_layer_every_width_every_mode(mode: str, nbits: int) -> None:
    if (mode, nbits) == ("linear_symmetric", 1):
        pytest.skip("one bit can't be symmetric")
    lut_function = signs if mode == "custom_lut" else None
    spec = copied(original())
    result = quantize_weights(spec, nbits, mode, lut_function=lut_function)
    assert spec == original()
    ct.models.MLModel(result, skip_model_load=True)
    weights, before, after = raw_weights(result), dense(original()), dense(result)
    untouched = [name for name, weight in weights.items() if weight.floatValue]
    assert len(untouched) == UNTOUCHED and len(weights) > 80
    for name, weight in weights.items():
        if name in untouched:
            assert (before[name] == after[name]).all()
            continue
        assert weight.quantization.numberOfBits == nbits
        check(mode, nbits, weight, before[name], after[name])


def check(mode: str, nbits: int, weight: Any, before: Any, after: Any) -> None:
    if mode.startswith("linear"):
        step = max(weight.quantization.linearQuantization.scale, default=0) or np.ptp(before) / (2**nbits - 1)
        assert np.abs(before - after).max() <= step / 2 * 1.0001 + 1e-7
        if mode != "linear_symmetric":
            assert np.isclose([before.min(), before.max()], [after.min(), after.max()], atol=1e-6).all()
    elif mode.startswith("kmeans"):
        clusters, centroids = kmeans1d.cluster(before, 2**nbits)
        best = np.sum((np.array(centroids)[clusters] - before.astype(np.float64)) ** 2)
        assert np.sum((after.astype(np.float64) - before) ** 2) <= best * (1 + 1e-5) + 1e-9
    else:
        assert (after == np.where(before > 0, 1, -1)).all()


@pytest.mark.parametrize(
    "nbits,mode", [*((n, "linear") for n in range(1, 9)), (8, "linear_symmetric"), (4, "linear_lut")]
)
def test_same_bytes_as_the_peer(nbits: int, mode: str) -> None:
    # The peer gives a grouped deconvolution a number of scales that the format does not allow.
    spec = every_layer(1, grouped_deconvolution=False)
    ours, theirs = quantize_weights(spec, nbits, mode), by_peer(copied(spec), nbits, mode)
    assert ours.specificationVersion == theirs.specificationVersion
    if mode != "linear_lut":  # the peer adds up its steps in float32, we round each entry once
        assert ours == theirs
    else:
        mine, other = raw_weights(ours), raw_weights(theirs)
        assert all(mine[name].rawValue == other[name].rawValue for name in mine)


@pytest.mark.parametrize("mode", MODES[:-1])
@pytest.mark.parametrize("nbits", [2, 5, 8])
def test_dequantization_is_the_peers(nbits: int, mode: str) -> None:
    spec = every_layer(2, grouped_deconvolution=False)
    result = quantize_weights(spec, nbits, mode)
    ours, theirs = quantize_weights(result, 8, "dequantization"), by_peer(copied(result), 8, "dequantization")
    other = raw_weights(theirs)
    for name, weight in raw_weights(ours).items():
        assert weight.floatValue and weight.floatValue == other[name].floatValue
        assert not weight.HasField("quantization")  # the peer leaves an empty one behind


def test_grouped_deconvolution_has_one_scale() -> None:
    weight = raw_weights(quantize_weights(original(), 4))["grouped.convolution.weights"]
    assert len(weight.quantization.linearQuantization.scale) == 1


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_and_back(mode: str) -> None:
    spec = every_layer(3)
    half = quantize_weights(spec, 16, mode, lut_function=signs)
    assert half == by_peer(copied(spec), 16)
    # The peer raises IndexError here.
    back = quantize_weights(half, 16, "dequantization")
    for name, weight in raw_weights(half).items():
        values = np.array(raw_weights(back)[name].floatValue, np.float32)
        if weight.float16Value:
            assert (values == np.frombuffer(weight.float16Value, np.float16)).all()


def test_half_precision_is_quantized_further() -> None:
    spec = inner_product(np.arange(60).reshape(10, 6))
    result = quantize_weights(quantize_weights(spec, 16), 4, "kmeans")
    assert raw_weights(result)["ip.innerProduct.weights"].quantization.numberOfBits == 4


@pytest.mark.parametrize("nbits", [4, 16])
def test_quantized_weights_stay(nbits: int, caplog: Any) -> None:
    once = quantize_weights(every_layer(4), 8)
    assert quantize_weights(once, nbits) == once
    assert "ip.weights is left alone: it is quantized to 8 bits already; dequantize it first" in caplog.text


@pytest.mark.parametrize("version,nbits,mode,wanted", [
    (1, 16, "linear", 2), (1, 8, "linear", 3), (1, 4, "kmeans", 3), (2, 16, "linear", 2), (4, 8, "linear", 4),
    (3, 8, "dequantization", 3), (1, 8, "dequantization", 1),
])  # fmt: skip
def test_specification_version(version: int, nbits: int, mode: str, wanted: int) -> None:
    spec = inner_product(np.eye(4, 6))
    spec.specificationVersion = version
    assert quantize_weights(spec, nbits, mode).specificationVersion == wanted


@pytest.mark.parametrize("mode", MODES[:-1])
def test_constant_and_tiny_channels(mode: str) -> None:
    weight = [[0] * 6, [3] * 6, [-2] * 6, [1e-9, 1e-9, 0, 0, 0, 0], [1e-45, 0, 0, 0, 0, 0]]
    result = quantize_weights(inner_product(weight), 8, mode)
    values = values_of(raw_weights(result)["ip.innerProduct.weights"], 30).reshape(5, 6)
    assert np.allclose(values, weight, atol=0.011)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "nbits,mode", [(16, "linear"), (4, "kmeans"), (8, "linear"), (8, "linear_lut"), (3, "custom_lut")]
)
def test_infinities_are_left_alone(bad: float, nbits: int, mode: str, caplog: Any) -> None:
    spec = inner_product([[1, bad, 2], [3, 4, 5]], np.array([1.0, 2.0]))
    result = quantize_weights(spec, nbits, mode, lut_function=signs)
    weights = raw_weights(result)
    assert np.array_equal(
        weights["ip.innerProduct.weights"].floatValue, raw_weights(spec)["ip.innerProduct.weights"].floatValue,
        equal_nan=True,
    )  # fmt: skip
    assert not weights["ip.innerProduct.bias"].floatValue
    assert "ip.weights is left alone: it holds infinities or NaN" in caplog.text
    assert "1 of 2 weights are left alone" in caplog.text


def test_too_large_for_half_precision(caplog: Any) -> None:
    result = quantize_weights(inner_product([[1, 7e4, 2]]), 16)
    assert list(raw_weights(result)["ip.innerProduct.weights"].floatValue) == [1, 7e4, 2]
    assert "float16" in caplog.text
    with pytest.raises(Exception, match="half precision"):
        by_peer(inner_product([[1, 7e4, 2]]), 16)


def test_too_far_apart_for_float32(caplog: Any) -> None:
    quantize_weights(inner_product([[-3e38, 3e38]]), 1)
    assert "too far apart" in caplog.text


@pytest.mark.parametrize("nbits,mode", [(8, "linear"), (16, "linear"), (4, "kmeans")])
def test_updatable_layers_are_left_alone(nbits: int, mode: str, caplog: Any) -> None:
    spec = inner_product(np.eye(4, 6))
    layer = spec.neuralNetwork.layers[0]
    layer.isUpdatable = layer.innerProduct.weights.isUpdatable = spec.isUpdatable = True
    result = quantize_weights(spec, nbits, mode)
    assert result.neuralNetwork == spec.neuralNetwork
    assert "ip.weights is left alone: its layer is updatable" in caplog.text


def test_small_weights_can_be_left_alone() -> None:
    result = raw_weights(quantize_weights(original(), 8, weight_threshold=500))
    assert [name for name, weight in result.items() if weight.rawValue] == [
        "conv.convolution.weights", "deconv.convolution.weights", "grouped.convolution.weights",
    ]  # fmt: skip


def test_custom_lut_gets_what_the_peer_gives() -> None:
    seen: dict[str, list[Any]] = {"ours": [], "theirs": []}

    def record(who: str, nbits: int, weight: Any) -> Any:
        seen[who].append((nbits, weight.shape, weight.dtype, weight.copy()))
        return signs(nbits, weight)

    spec = every_layer(5)
    ours = quantize_weights(spec, 3, "custom_lut", lut_function=functools.partial(record, "ours"))
    theirs = by_peer(copied(spec), 3, "custom_lut", lut_function=functools.partial(record, "theirs"))
    assert len(seen["ours"]) == len(seen["theirs"])
    for one, other in zip(seen["ours"], seen["theirs"], strict=True):
        assert one[:3] == other[:3] and (one[3] == other[3]).all()
    assert ours == theirs


@pytest.mark.parametrize("answer", [
    None, ([0, 1], [0]), ([0, 1, 2], np.zeros(12)), ([0, np.nan], np.zeros(12)), ([0, 1], np.full(12, 2)),
    ([0, 1], np.full(12, -1)), ([0, 1], np.full(12, 0.5)), (["a", "b"], np.zeros(12)),
])  # fmt: skip
def test_custom_lut_is_checked(answer: Any) -> None:
    with pytest.raises(ConfigError, match=r"ip.weights: lut_function"):
        quantize_weights(inner_product(np.ones((3, 4))), 1, "custom_lut", lut_function=lambda n, w: answer)


@pytest.mark.parametrize("arguments,message", [
    ({"nbits": 9}, "nbits must be"), ({"nbits": 0}, "nbits must be"), ({"nbits": "8"}, "nbits must be"),
    ({"nbits": 4, "quantization_mode": "lienar"}, "quantization_mode must be one of"),
    ({"nbits": 1, "quantization_mode": "linear_symmetric"}, "2 bits or more"),
    ({"nbits": 4, "quantization_mode": "custom_lut"}, "needs lut_function"),
    ({"nbits": 4, "selector": "conv"}, "no method do_quantize"),
])  # fmt: skip
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize_weights(inner_product(np.eye(4)), **arguments)


def test_progress_and_workers() -> None:
    seen: list[Any] = []
    one = quantize_weights(original(), 4, "kmeans", workers=1, progress=lambda *args: seen.append(args))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1)) and seen[0][1] == len(seen)
    assert one == quantize_weights(original(), 4, "kmeans", workers=4)


def test_nothing_selected_nothing_changed(caplog: Any) -> None:
    class Nothing(QuantizedLayerSelector):
        def do_quantize(self, layer: Any, **kwargs: Any) -> bool:
            return False

    with caplog.at_level(logging.WARNING):
        assert quantize_weights(original(), 8, selector=Nothing()).neuralNetwork == original().neuralNetwork
    assert "no weight was compressed: the model has none that the selector chooses" in caplog.text
