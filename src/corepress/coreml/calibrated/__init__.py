"""Compression of a package with the help of sample inputs, without the model that it was converted from.

The functions have the names and configurations of `corepress.coreml`, and one more argument: samples.
"""

from corepress.errors import importing

with importing("corepress.coreml.calibrated"):
    from corepress.coreml.calibrated.compress import linear_quantize_weights, palettize_weights, prune_weights

__all__ = ["linear_quantize_weights", "palettize_weights", "prune_weights"]
