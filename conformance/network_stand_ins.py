"""Puts corepress.neural_network in the place of `quantization_utils`, for tests that are imported afterwards.

Neural networks run on a Mac only: here corepress.runtime predicts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.models import neural_network

from conformance import operations
from corepress.neural_network import quantization_utils as ours
from corepress.neural_network import quantizers
from corepress.neural_network.interop import as_model
from corepress.runtime import load
from corepress.weights import decompress

utils = ct.models.utils
MODES = {
    ct.models._QUANTIZATION_MODE_LINEAR_QUANTIZATION: "linear",
    ct.models._QUANTIZATION_MODE_LINEAR_SYMMETRIC: "linear_symmetric",
    ct.models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR: "linear_lut",
    ct.models._QUANTIZATION_MODE_LOOKUP_TABLE_KMEANS: "kmeans",
    ct.models._QUANTIZATION_MODE_DEQUANTIZE: "dequantization",
}


def replace_the_peer(control: bool = False) -> None:
    """What is imported from now on finds our names, believes that it is on a Mac, and predicts by corepress.

    `control`: the peer's own names stay.
    """
    utils._is_macos = lambda: True
    utils._macos_version = lambda: operations.MACOS
    ct.models.MLModel.predict = predict
    if control:
        return
    public = {name: getattr(ours, name) for name in ours.__all__}
    public["activate_int8_int8_matrix_multiplications"] = in_place(ours.activate_int8_int8_matrix_multiplications)
    private = {"_quantize_spec_weights": quantize_spec, "_get_kmeans_lookup_table_and_weight": kmeans}
    original = neural_network.quantization_utils
    vars(original).update(public | private)


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The peer's functions change the specification that they are given; ours gives a copy."""

    @functools.wraps(function)
    def wrapper(spec: Any, *arguments: Any, **options: Any) -> Any:
        spec.CopyFrom(function(spec, *arguments, **options))
        return spec

    return wrapper


def quantize_spec(spec: Any, nbits: int, mode: str, **options: Any) -> Any:
    return in_place(ours.quantize_weights)(spec, nbits, MODES[mode], **options)


def kmeans(nbits: int, weight: Any, **_: Any) -> tuple[Any, Any]:
    """A table and the indices of the elements, in C order."""
    found = quantizers.kmeans(np.asarray(weight, np.float32), nbits)
    return decompress(found.lut).ravel(), found.indices.ravel()


def predict(model: Any, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    operations.predictions += 1
    found: dict[str, Any] = load(as_model(model)).predict(data)
    return found
