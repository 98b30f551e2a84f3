"""Runs neural networks, the model type of iOS 15 and older: their layers become the steps of a plan."""

from corepress.runtime.neural_network.custom import Custom
from corepress.runtime.neural_network.load import load_network

__all__ = ["Custom", "load_network"]
