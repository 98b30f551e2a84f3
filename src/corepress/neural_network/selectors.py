"""Which layers to quantize: the selectors of coremltools, and your own, derived from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from corepress.errors import ConfigError
from corepress.formats.neural_network.layers import INNER, WITH_WEIGHTS


class QuantizedLayerSelector:
    """All layers that can be quantized. Derive from it and override `do_quantize` to choose among them.

    Source: `coremltools.models.neural_network.quantization_utils`.

    Examples:
        >>> from corepress.neural_network.quantization_utils import QuantizedLayerSelector, quantize_weights
        >>> class NotTheLast(QuantizedLayerSelector):
        ...     def do_quantize(self, layer, **kwargs):
        ...         return layer.name != "last"
        >>> quantize_weights("net.mlmodel", nbits=8, selector=NotTheLast()).weights()[0].bits
        8
    """

    def __init__(self) -> None:
        self.quantizable_layer_types = {*WITH_WEIGHTS, *INNER, "depthwiseConv"}

    def do_quantize(self, layer: Any, **kwargs: Any) -> bool:
        """Quantize this layer?

        `layer`: its protobuf message, with `name`, `WhichOneof("layer")`, and the sizes that shape its weights; the
        values of the weights themselves are bytes. `weight_param`: None for the layer; "bias" to ask in addition for
        the bias of a convolution, inner product or batched matrix product that is quantized.
        A `loop` or a `branch` stands for the networks in it, whose layers are asked for in turn.
        """
        return layer.WhichOneof("layer") in self.quantizable_layer_types


class AdvancedQuantizedLayerSelector(QuantizedLayerSelector):
    """Leave out some types of layers, and small convolutions.

    Source: `coremltools.models.neural_network.quantization_utils`.

    Args:
        skip_layer_types: Of `quantizable_layer_types`; "depthwiseConv" are convolutions with a kernel for each channel,
            and "bias" also leaves out the biases of other layers.
        minimum_conv_kernel_channels: Convolutions need at least so many channels in a kernel.
        minimum_conv_weight_count: Convolutions need at least so many weights.

    Raises:
        ConfigError: For unknown types.

    Examples:
        >>> from corepress.neural_network.quantization_utils import AdvancedQuantizedLayerSelector, quantize_weights
        >>> selector = AdvancedQuantizedLayerSelector(skip_layer_types=["embedding", "bias"])
        >>> quantize_weights("net.mlmodel", nbits=8, selector=selector).weights()[0].bits
        8
    """

    def __init__(
        self,
        skip_layer_types: Sequence[str] = (),
        minimum_conv_kernel_channels: int = 4,
        minimum_conv_weight_count: int = 4096,
    ):
        super().__init__()
        unknown = [kind for kind in skip_layer_types if kind not in self.quantizable_layer_types]
        if isinstance(skip_layer_types, str) or unknown:
            raise ConfigError(
                f"skip_layer_types: {skip_layer_types!r} is not a list of "
                f"{', '.join(sorted(self.quantizable_layer_types))}"
            )
        self.skip_layer_types = list(skip_layer_types)
        self.minimum_conv_kernel_channels = minimum_conv_kernel_channels
        self.minimum_conv_weight_count = minimum_conv_weight_count

    def do_quantize(self, layer: Any, weight_param: str | None = None, **kwargs: Any) -> bool:
        kind = layer.WhichOneof("layer")
        if not super().do_quantize(layer) or kind in self.skip_layer_types:
            return False
        if weight_param == "bias" and "bias" in self.skip_layer_types:
            return False
        return kind != "convolution" or self._wants(layer.convolution)

    def _wants(self, conv: Any) -> bool:
        if conv.kernelChannels == 1 and conv.nGroups > 1 and "depthwiseConv" in self.skip_layer_types:
            return False
        count = conv.outputChannels * conv.kernelChannels * math.prod(conv.kernelSize[:2] or (3, 3))
        return bool(
            conv.kernelChannels >= self.minimum_conv_kernel_channels and count >= self.minimum_conv_weight_count
        )


class MatrixMultiplyLayerSelector(QuantizedLayerSelector):
    """Inner products, and batched matrix products with a constant, of some sizes or some names; None for no limit.

    Source: `coremltools.models.neural_network.quantization_utils`.

    Args:
        minimum_weight_count: The least number of weights.
        minimum_input_channels: The least number of input channels.
        minimum_output_channels: The least number of output channels.
        maximum_input_channels: The greatest number of input channels.
        maximum_output_channels: The greatest number of output channels.
        include_layers_with_names: Only these layers; None or empty for all.

    Raises:
        ConfigError: For limits that contradict each other.

    Examples:
        >>> from corepress.neural_network.quantization_utils import MatrixMultiplyLayerSelector, quantize_weights
        >>> selector = MatrixMultiplyLayerSelector(minimum_input_channels=8)
        >>> quantize_weights("net.mlmodel", nbits=8, selector=selector).weights()[0].bits
        8
    """

    def __init__(
        self,
        minimum_weight_count: int = 1,
        minimum_input_channels: int = 1,
        minimum_output_channels: int = 1,
        maximum_input_channels: int | None = None,
        maximum_output_channels: int | None = None,
        include_layers_with_names: Sequence[str] | None = None,
    ):
        super().__init__()
        if isinstance(include_layers_with_names, str):
            raise ConfigError(f"include_layers_with_names: a list is needed, not {include_layers_with_names!r}")
        self.minimum_weight_count = minimum_weight_count
        self.minimum_input_channels = minimum_input_channels
        self.minimum_output_channels = minimum_output_channels
        self.maximum_input_channels = maximum_input_channels
        self.maximum_output_channels = maximum_output_channels
        self.include_layers_with_names = list(include_layers_with_names or ())

    def do_quantize(self, layer: Any, weight_param: str | None = None, **kwargs: Any) -> bool:
        kind = layer.WhichOneof("layer")
        if kind in ("loop", "branch"):
            return super().do_quantize(layer)
        if kind not in ("innerProduct", "batchedMatmul") or not super().do_quantize(layer):
            return False
        if self.include_layers_with_names and layer.name not in self.include_layers_with_names:
            return False
        params = getattr(layer, kind)
        if kind == "innerProduct":
            inputs, outputs = params.inputChannels, params.outputChannels
        else:
            inputs, outputs = params.weightMatrixFirstDimension, params.weightMatrixSecondDimension
        return (
            inputs * outputs >= self.minimum_weight_count
            and _within(inputs, self.minimum_input_channels, self.maximum_input_channels)
            and _within(outputs, self.minimum_output_channels, self.maximum_output_channels)
        )


def _within(size: int, least: int, most: int | None) -> bool:
    return size >= least and (most is None or size <= most)
