"""Compression of neural networks, the models of iOS 15 and older: `.mlmodel` files that hold no ML program.

The names are those of `coremltools.models.neural_network.quantization_utils`. Each function takes a path, a
specification, an `MLModel`, or a `corepress.neural_network.Model`, which it never changes, and gives the same kind back
(for a path, a `Model` to `save`).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

from corepress.configuration import LEFT_ALONE, Rule
from corepress.engine import Progress, not_smaller, nothing_done
from corepress.errors import ConfigError, CorepressError, Missed
from corepress.fields import warn_or_raise
from corepress.formats.neural_network import values
from corepress.formats.neural_network.constants import reason_to_spare
from corepress.formats.neural_network.layers import LayerWeight, find_weights
from corepress.formats.neural_network.model import Model
from corepress.formats.neural_network.normalization import endangered
from corepress.neural_network.actions import MODES, Action, action_of, to_floats, to_int8
from corepress.neural_network.compare import compare_models
from corepress.neural_network.config import HALF, NetworkConfig, idle
from corepress.neural_network.interop import takes_any_model
from corepress.neural_network.quantizers import LutFunction
from corepress.neural_network.rewrite import rewrite
from corepress.neural_network.selectors import (
    AdvancedQuantizedLayerSelector,
    MatrixMultiplyLayerSelector,
    QuantizedLayerSelector,
)

__all__ = [
    "AdvancedQuantizedLayerSelector",
    "MatrixMultiplyLayerSelector",
    "QuantizedLayerSelector",
    "activate_int8_int8_matrix_multiplications",
    "compare_models",
    "compress_weights",
    "quantize_weights",
]

log = logging.getLogger(__name__)

Find = Callable[[Model], list[LayerWeight]]
_NAMED = 3
# The oldest specification versions that hold float16, packed integers, and products of int8.
_HALF, _PACKED, _INT8 = 2, 3, 5


def quantize_weights(
    full_precision_model: Any,
    nbits: int,
    quantization_mode: str = "linear",
    sample_data: Any = None,
    *,
    lut_function: LutFunction | None = None,
    selector: QuantizedLayerSelector | None = None,
    weight_threshold: int = 0,
    spare_constants: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Store the weights of a model's neural networks in fewer bits, or as float32 again.

    Weights of updatable layers, weights with infinities or NaN, weights that float16 can't hold and damaged ones are
    left alone, with a warning; so are quantized ones, which must be dequantized first. `Model.skipped` lists them. A
    convolution of which too little is left, by itself or amplified by the batch norm behind it, is warned of.

    Source: `coremltools.models.neural_network.quantization_utils`.

    Args:
        full_precision_model: A path, a specification, an `MLModel` or a `corepress.neural_network.Model`.
        nbits: 1 to 8, or 16 for float16, whatever the mode.
        quantization_mode: "linear", even steps from the least to the greatest value of each output channel, with a
            scale and a bias; "linear_symmetric", from -max|w| to max|w| (2 bits or more); "linear_lut", one table of
            even steps for the weight; "kmeans" or "kmeans_lut", the table of the least squared error; "custom_lut", the
            table and indices that `lut_function` gives; "dequantization", float32 (`nbits` is ignored).
        sample_data: Inputs for `compare_models`, which prints how the results differ.
        lut_function: Called with `nbits` and each weight, float32 of its shape; returns 2**nbits numbers and the index
            of each element in C order.
        selector: Chooses the layers.
        weight_threshold: Weights of up to so many values stay as they are.
        spare_constants: Leaves alone the statistics of batch norms, of which a variance near 0 decides how much a
            channel is amplified, and constants that no product, look-up or recurrence reads, such as anchors: True does
            so, False does not, None does not, as coremltools, but warns.
        strict: Make an error (Missed) of a call that compresses no weight, where a warning would do.
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For arguments that don't fit.
        FormatError: For a model that can't be read.

    Examples:
        >>> from corepress.neural_network.quantization_utils import quantize_weights
        >>> small = quantize_weights("net.mlmodel", nbits=8)
        >>> small.weights()[0].form, small.weights()[0].bits
        ('linear', 8)
    """
    _check(nbits, quantization_mode, lut_function, selector)
    if quantization_mode == "dequantization":
        find, version = functools.partial(_chosen, selector=None), 1
    else:
        find = functools.partial(
            _chosen, selector=selector or QuantizedLayerSelector(), threshold=weight_threshold, spare=spare_constants
        )
        version = _HALF if nbits == 16 else _PACKED
    if quantization_mode == "custom_lut":
        workers = 1  # the function may not bear to be called by several threads
    action = action_of(nbits, quantization_mode, lut_function)
    result = _compressed(full_precision_model, find, action, version, strict, workers, progress)
    if sample_data is not None:
        _compare_if_possible(full_precision_model, result, sample_data)
    return result


def compress_weights(
    model: Any,
    config: NetworkConfig,
    *,
    spare_constants: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    words: Callable[[Rule], tuple[str, str]] = lambda rule: (rule.level, rule.key),
) -> Any:
    """Store each weight of a model's neural networks as a configuration says; an addition, for recipes.

    What is left alone, and said of it, is as in `quantize_weights`.

    Args:
        model: As in `quantize_weights`.
        config: Which weights, and how.
        spare_constants: As in `quantize_weights`.
        strict: Make an error of a rule that changes nothing, and of a call that compresses no weight.
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        words: What the level and the key of a rule are called where it was written, for messages.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For rules without effect, with `strict`.
        FormatError: For a model that can't be read.

    Examples:
        >>> from corepress.neural_network.config import NetworkConfig, NetworkPaletteConfig
        >>> from corepress.neural_network.quantization_utils import compress_weights
        >>> compress_weights("net.mlmodel", NetworkConfig(NetworkPaletteConfig(nbits=3))).weights()[0].bits
        3
    """

    def find(own: Model) -> list[LayerWeight]:
        found = own.weights()
        warn_or_raise(idle(config, found, words), log, strict)
        wanted = {weight.name for weight in found if config.config_for(weight) is not None}
        chosen = [weight for weight in _chosen(own, None, 0, spare_constants) if weight.name in wanted]
        own.skipped |= {weight.name: LEFT_ALONE for weight in found if weight.name not in wanted}
        return chosen

    def action(weight: LayerWeight) -> None:
        if (own := config.config_for(weight)) is not None:
            action_of(*own.asked(), None)(weight)

    halves = all(own.nbits == HALF for own in config.configs())
    return _compressed(model, find, action, _HALF if halves else _PACKED, strict, workers, progress)


def activate_int8_int8_matrix_multiplications(spec: Any, selector: QuantizedLayerSelector | None = None) -> Any:
    """Let inner products, and batched ones with a constant, multiply int8 by int8 (iOS14, specification version 5).

    Their weights become int8 with one scale; the activations are quantized while the model runs. Weights are left alone
    as in `quantize_weights`. coremltools changes its argument; corepress gives a changed copy.

    Args:
        spec: A path, a specification, an `MLModel` or a `corepress.neural_network.Model`.
        selector: Which of them, such as a `MatrixMultiplyLayerSelector`; by default all.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        FormatError: For a model that can't be read.

    Examples:
        >>> from corepress.neural_network.quantization_utils import activate_int8_int8_matrix_multiplications
        >>> activate_int8_int8_matrix_multiplications("net.mlmodel").weights()[0].form
        'int8'
    """
    if selector is not None and not hasattr(selector, "do_quantize"):
        raise ConfigError(f"selector: it has no method do_quantize: {selector!r}")
    return _int8(spec, selector or MatrixMultiplyLayerSelector())


@takes_any_model
def _compressed(
    model: Model,
    find: Find,
    action: Action,
    version: int,
    strict: bool,
    workers: int | None,
    progress: Progress | None,
) -> Model:
    rewrite(model, find(model), action, version, workers, progress)
    if model.origin is not None and action is to_floats:
        if all(old.params == new.params for old, new in zip(model.origin.weights(), model.weights(), strict=True)):
            log.warning("no weight was decompressed: none of the model is compressed")
    elif model.origin is not None:
        _conclude(model.origin, model, strict)
        _warn_of_ruin(model.origin, model)
    return model


def _chosen(
    model: Model, selector: QuantizedLayerSelector | None, threshold: int = 0, spare: bool | None = False
) -> list[LayerWeight]:
    """The weights to work on. Why the others are left alone is noted in `model.skipped`."""
    reason_of = reason_to_spare(model.spec)
    chosen, exposed = [], []
    for weight in find_weights(model.spec, selector):
        reason = "" if spare is False else reason_of(weight)
        if 0 < math.prod(weight.shape) <= threshold:
            model.skipped[weight.name] = f"it has no more than {threshold} elements (weight_threshold)"
        elif spare and reason:
            model.skipped[weight.name] = reason
        else:
            chosen.append(weight)
            exposed += [weight.name] if reason else []
    if exposed:
        log.warning(
            "%s compressed, as coremltools does, though statistics of batch norms, or constants which no "
            "product, look-up or recurrence reads (%s%s); that can ruin a model: spare_constants=True leaves such "
            "constants alone",
            "1 weight is" if len(exposed) == 1 else f"{len(exposed)} weights are",
            ", ".join(exposed[:_NAMED]), ", ..." if len(exposed) > _NAMED else "",
        )  # fmt: skip
    return chosen


def _conclude(before: Model, after: Model, strict: bool) -> None:
    """Say that no weight was compressed, or that the model did not become smaller."""
    if after.changed:
        if (sizes := (before.size(), after.size()))[1] >= sizes[0]:
            log.warning("%s", not_smaller(*sizes))
        return
    left = [(weight, after.skipped[weight.name]) for weight in after.weights() if weight.name in after.skipped]
    sentence = nothing_done("no weight was compressed", left, "the model has none that the selector chooses")
    if strict:
        raise Missed(sentence)
    log.warning("%s", sentence)


def _warn_of_ruin(before: Model, after: Model) -> None:
    for layer in endangered(before.weights(), after.weights()):
        cause = f"amplified by the batch norm {layer.norm!r} behind it" if layer.norm else "of its smallest kernels"
        log.warning(
            "layer %r: the rounding of its weight, %s, may be %.0f %% of the energy of its output; use more bits, "
            "leave it alone, or compare the outputs (corepress.verify)",
            layer.name, cause, 100 * min(layer.noise, 1),
        )  # fmt: skip


@takes_any_model
def _int8(model: Model, selector: QuantizedLayerSelector) -> Model:
    kinds = ("innerProduct", "batchedMatmul")
    weights = [w for w in find_weights(model.spec, selector) if w.layer_type in kinds]
    matrices = [w for w in weights if w.name.endswith(".weights")]
    rewrite(model, matrices, to_int8, _INT8)
    changed = {id(w.layer) for w in matrices if w.form == "int8"}
    # Beside int8 weights a bias is not quantized.
    for weight in weights:
        if weight.name.endswith(".bias") and id(weight.layer) in changed and weight.form in ("linear", "lut"):
            values.write_floats(weight.params, weight.dense())
    return model


def _check(nbits: Any, mode: Any, lut_function: Any, selector: Any) -> None:
    if mode not in MODES:
        raise ConfigError(f"quantization_mode must be one of {', '.join(MODES)}, not {mode!r}")
    if nbits not in (*range(1, 9), 16):
        raise ConfigError(f"nbits must be 1 to 8, or 16 for half precision, not {nbits!r}")
    if mode == "linear_symmetric" and nbits == 1:
        raise ConfigError("linear_symmetric needs 2 bits or more")
    if mode == "custom_lut" and not callable(lut_function):
        raise ConfigError("custom_lut needs lut_function, a function of nbits and a weight")
    if selector is not None and not hasattr(selector, "do_quantize"):
        raise ConfigError(f"selector: it has no method do_quantize: {selector!r}")


def _compare_if_possible(full: Any, result: Any, sample_data: Any) -> None:
    try:
        compare_models(full, result, sample_data)
    except CorepressError as error:
        log.warning("the models are not compared: %s", error)
