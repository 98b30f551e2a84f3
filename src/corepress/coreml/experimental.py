"""Activations of 8 bits: the public interface of `coremltools.optimize.coreml.experimental`."""

from corepress.coreml.activations.quantize import linear_quantize_activations
from corepress.coreml.op_configs import OpActivationLinearQuantizerConfig

__all__ = ["OpActivationLinearQuantizerConfig", "linear_quantize_activations"]
