"""What is done with one weight of a neural network: other numbers in its place, in fewer bits or in more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from corepress.errors import DataError
from corepress.formats.neural_network import values
from corepress.formats.neural_network.forms import Floats, Linear
from corepress.formats.neural_network.layers import LayerWeight
from corepress.neural_network import quantizers
from corepress.neural_network.quantizers import LutFunction
from corepress.weights import Palettized, worded_bits

# Changes one weight in place; raises CorepressError with the reason to leave it alone.
Action = Callable[[LayerWeight], None]

# By the word for the mode: with a scale and a bias for each channel, and with a table for the whole weight.
_SCALED: dict[str, Callable[[Floats, int, int | None], Linear]] = {
    "linear": quantizers.linear,
    "linear_symmetric": quantizers.linear_symmetric,
}
_TABLED: dict[str, Callable[[Floats, int], Palettized]] = {
    "linear_lut": quantizers.linear_lut,
    "kmeans": quantizers.kmeans,
    "kmeans_lut": quantizers.kmeans,
}
MODES = (*_SCALED, *_TABLED, "custom_lut", "dequantization")


def action_of(bits: int, mode: str, lut_function: LutFunction | None) -> Action:
    """What `quantize_weights` does with a weight; 16 bits are float16, whatever the mode."""
    if mode == "dequantization":
        return to_floats
    if bits == 16:
        return to_halves

    def quantize(weight: LayerWeight) -> None:
        _refuse_quantized(weight)
        dense = finite(weight)
        form: Linear | Palettized
        if mode in _SCALED:
            form = _SCALED[mode](dense, bits, None if weight.one_scale else weight.axis)
        elif mode in _TABLED:
            form = _TABLED[mode](dense, bits)
        else:
            assert lut_function is not None
            form = quantizers.custom_lut(dense, bits, lut_function)
        values.write_quantized(weight.params, form)

    return quantize


def to_floats(weight: LayerWeight) -> None:
    if weight.form != "float32":
        values.write_floats(weight.params, weight.dense())
    if weight.layer_type in ("innerProduct", "batchedMatmul"):
        getattr(weight.layer, weight.layer_type).ClearField("int8DynamicQuantize")


def to_halves(weight: LayerWeight) -> None:
    _refuse_quantized(weight)
    if weight.form != "float16":
        values.write_halves(weight.params, finite(weight))


def to_int8(weight: LayerWeight) -> None:
    if weight.form == "int8":
        return
    dense = finite(weight)
    scale = np.float32(max(dense.max(), -dense.min()) / np.float32(127))
    step = scale if scale > 0 else np.float32(1)
    values.write_int8(weight.params, np.clip(np.rint(dense / step), -127, 127).astype(np.int8), scale)
    getattr(weight.layer, weight.layer_type).int8DynamicQuantize = True


def finite(weight: LayerWeight) -> Floats:
    dense = weight.dense()
    if not np.isfinite(dense).all():
        raise DataError("it holds infinities or NaN")
    return dense


def _refuse_quantized(weight: LayerWeight) -> None:
    if weight.form in ("linear", "lut", "int8"):
        raise DataError(f"it is quantized to {worded_bits(weight.bits)} already; dequantize it first")
