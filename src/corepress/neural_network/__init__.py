"""Compression of neural networks, the older model type (iOS 15 and before): see `quantization_utils`."""

from corepress.neural_network import quantization_utils
from corepress.neural_network.layers import LayerWeight
from corepress.neural_network.model import Model, load

__all__ = ["LayerWeight", "Model", "load", "quantization_utils"]
