"""Runs neural networks, the model type of iOS 15 and older: their layers become the steps of a plan."""

from corepress.runtime.networks.custom import Custom
from corepress.runtime.networks.load import load_network

__all__ = ["Custom", "load_network"]
