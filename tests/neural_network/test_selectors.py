"""The selectors choose what coremltools' choose, and what hers can't."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from corepress.errors import ConfigError
from corepress.neural_network import quantization_utils as ours
from tests.formats.neural_network.networks import every_layer
from tests.formats.neural_network.reading import weights_of
from tests.lazy import lazy
from tests.neural_network.test_quantize import by_peer, copied, raw_weights

peer = lazy("coremltools.models.neural_network.quantization_utils")


@pytest.mark.parametrize("arguments", [
    {}, {"minimum_conv_kernel_channels": 0, "minimum_conv_weight_count": 0},
    *({"minimum_conv_kernel_channels": n, "minimum_conv_weight_count": 0} for n in (1, 8, 9)),
    *({"minimum_conv_kernel_channels": 0, "minimum_conv_weight_count": n} for n in (144, 145, 1152, 1153)),
    *({"skip_layer_types": kinds, "minimum_conv_kernel_channels": 0, "minimum_conv_weight_count": 0} for kinds in (
        ["depthwiseConv"], ["convolution"], ["bias"], ["innerProduct"], ["loop"], ["branch"], ["batchedMatmul"],
        ["batchnorm", "gru", "uniDirectionalLSTM", "biDirectionalLSTM", "simpleRecurrent", "scale"],
        ["embedding", "loadConstantND"], ["embeddingND", "loadConstant"],
    )),
])  # fmt: skip
@pytest.mark.parametrize("nbits", [8, 16])
def test_advanced_selector(arguments: dict[str, Any], nbits: int) -> None:
    spec = every_layer(grouped_deconvolution=nbits == 16)
    result = ours.quantize_weights(spec, nbits, selector=ours.AdvancedQuantizedLayerSelector(**arguments))
    assert result == by_peer(copied(spec), nbits, selector=peer.AdvancedQuantizedLayerSelector(**arguments))


@pytest.mark.parametrize("arguments", [
    {}, {"minimum_weight_count": 100}, {"minimum_input_channels": 10}, {"maximum_input_channels": 9},
    {"minimum_output_channels": 11}, {"maximum_output_channels": 10},
])  # fmt: skip
def test_matrix_multiply_selector(arguments: dict[str, Any]) -> None:
    spec = every_layer(grouped_deconvolution=False)
    result = ours.quantize_weights(spec, 8, selector=ours.MatrixMultiplyLayerSelector(**arguments))
    assert result == by_peer(copied(spec), 8, selector=peer.MatrixMultiplyLayerSelector(**arguments))


def test_by_name_where_the_peer_fails() -> None:
    with pytest.raises(AttributeError, match="include_layers_with_names"):
        by_peer(every_layer(), 8, selector=peer.MatrixMultiplyLayerSelector(include_layers_with_names=["ip"]))
    selector = ours.MatrixMultiplyLayerSelector(include_layers_with_names=["ip", "body"])
    result = ours.quantize_weights(every_layer(), 8, selector=selector)
    chosen = {name.split(".")[0] for name, weight in raw_weights(result).items() if weight.rawValue}
    assert chosen == {"ip", "loop"}
    (body,) = result.neuralNetwork.layers[-2].loop.bodyNetwork.layers
    assert body.innerProduct.weights.rawValue


def test_limits_can_be_changed_later() -> None:
    selector = ours.MatrixMultiplyLayerSelector()
    selector.minimum_input_channels = 12
    result = ours.quantize_weights(every_layer(), 8, selector=selector)
    assert {n.split(".")[0] for n, weight in raw_weights(result).items() if weight.rawValue} == {"ip"}


def test_a_selector_of_ones_own() -> None:
    class Mine(ours.QuantizedLayerSelector):
        def do_quantize(self, layer: Any, **kwargs: Any) -> bool:
            return super().do_quantize(layer) and layer.name != "conv" and kwargs.get("weight_param") != "bias"

    result = raw_weights(ours.quantize_weights(every_layer(), 8, selector=Mine()))
    assert result["conv.convolution.weights"].floatValue and result["depthwise.convolution.weights"].rawValue
    assert result["ip.innerProduct.bias"].floatValue and result["emb.embedding.bias"].rawValue


def test_a_selector_that_takes_all() -> None:
    # The peer raises for layers that can't be quantized.
    class All(ours.QuantizedLayerSelector):
        def do_quantize(self, layer: Any, **kwargs: Any) -> bool:
            return True

    assert ours.quantize_weights(every_layer(), 8, selector=All()) == ours.quantize_weights(every_layer(), 8)


@pytest.mark.parametrize("kinds", [["convolutions"], "bias", ["pooling"]])
def test_unknown_types(kinds: Any) -> None:
    with pytest.raises(ConfigError, match="skip_layer_types"):
        ours.AdvancedQuantizedLayerSelector(kinds)
    with pytest.raises(ConfigError, match="a list is needed"):
        ours.MatrixMultiplyLayerSelector(include_layers_with_names="ip")


def activated_by_peer(spec: Any, selector: Any = None) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return peer.activate_int8_int8_matrix_multiplications(copied(spec), selector)


@pytest.mark.parametrize("nbits", [0, 1, 4, 8])
@pytest.mark.parametrize("arguments", [{}, {"minimum_weight_count": 100}, {"maximum_input_channels": 9}])
def test_int8_by_int8(nbits: int, arguments: dict[str, Any]) -> None:
    spec = every_layer(grouped_deconvolution=False)
    spec.specificationVersion = 4
    if nbits:
        spec = ours.quantize_weights(spec, nbits)
    before = copied(spec)
    result = ours.activate_int8_int8_matrix_multiplications(spec, ours.MatrixMultiplyLayerSelector(**arguments))
    theirs = activated_by_peer(spec, peer.MatrixMultiplyLayerSelector(**arguments))
    assert spec == before and result.specificationVersion == theirs.specificationVersion == 5
    other = raw_weights(theirs)
    for name, weight in raw_weights(result).items():
        assert weight.rawValue == other[name].rawValue
        # The peer rounds towards zero, we to the nearest.
        one, two = (np.frombuffer(w.int8RawValue, np.int8).astype(int) for w in (weight, other[name]))
        assert ((abs(one) == abs(two)) | (abs(one) == abs(two) + 1)).all()
        assert np.allclose(weight.floatValue, other[name].floatValue)
        assert np.allclose(
            weight.quantization.linearQuantization.scale, other[name].quantization.linearQuantization.scale
        )
    assert [layer.innerProduct.int8DynamicQuantize for layer in result.neuralNetwork.layers] == [
        layer.innerProduct.int8DynamicQuantize for layer in theirs.neuralNetwork.layers
    ]


def test_nothing_to_multiply_nothing_changed() -> None:
    spec = every_layer()
    spec.specificationVersion = 4
    none = ours.MatrixMultiplyLayerSelector(minimum_weight_count=1000)
    assert ours.activate_int8_int8_matrix_multiplications(spec, none) == spec


def test_int8_from_half_precision_and_back(caplog: Any) -> None:
    # The peer raises IndexError for the first, and for the second an exception about its scales.
    spec = every_layer()
    int8 = ours.activate_int8_int8_matrix_multiplications(ours.quantize_weights(spec, 16))
    weight = raw_weights(int8)["ip.innerProduct.weights"]
    assert weight.int8RawValue and ours.activate_int8_int8_matrix_multiplications(int8) == int8
    back = ours.quantize_weights(int8, 8, "dequantization")
    layer = next(layer for layer in back.neuralNetwork.layers if layer.name == "ip").innerProduct
    scale = weight.quantization.linearQuantization.scale[0]
    assert np.allclose(layer.weights.floatValue, np.frombuffer(weight.int8RawValue, np.int8) * scale)
    assert not layer.int8DynamicQuantize
    assert ours.quantize_weights(int8, 4) != int8 and "ip.weights is left alone: it is quantized to 8" in caplog.text


def test_int8_leaves_infinities_alone(caplog: Any) -> None:
    spec = every_layer()
    ip = next(layer for layer in spec.neuralNetwork.layers if layer.name == "ip").innerProduct
    ip.weights.floatValue[0] = np.inf
    result = ours.activate_int8_int8_matrix_multiplications(spec)
    weights = dict(weights_of(result))
    assert sum(bool(weight.int8RawValue) for weight in weights.values()) == 5
    assert "ip.weights is left alone: it holds infinities" in caplog.text
    with pytest.raises(ConfigError, match="do_quantize"):
        ours.activate_int8_int8_matrix_multiplications(spec, "ip")
