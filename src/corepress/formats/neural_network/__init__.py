"""Networks of iOS 15 and older: the layers that hold weights, and how these are stored."""

from corepress.formats.neural_network.layers import LayerWeight
from corepress.formats.neural_network.model import Model, load

__all__ = ["LayerWeight", "Model", "load"]
