"""The file format of ML programs: packages, the protobuf, weight files, and the weights in them."""

from corepress.formats.mlprogram.model import Model, checked, load
from corepress.formats.mlprogram.weight import Consumer, Weight

__all__ = ["Consumer", "Model", "Weight", "checked", "load"]
