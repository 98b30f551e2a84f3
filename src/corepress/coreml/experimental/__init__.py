"""Activations of 8 bits: the public interface of `coremltools.optimize.coreml.experimental`."""

from corepress.coreml.experimental.activations import (
    OpActivationLinearQuantizerConfig,
    linear_quantize_activations,
)

__all__ = ["OpActivationLinearQuantizerConfig", "linear_quantize_activations"]
