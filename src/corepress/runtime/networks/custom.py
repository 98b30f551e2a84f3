"""Custom layers: classes of the app, of which a file holds the name, the parameters and the weights only.

Who runs such a model gives a function for each class: `load(path, custom={"Swish": swish})`. It is called with the
layer's inputs, tensors of the network's type (of five dimensions, [sequence, batch, channels, height, width], where the
network's arrays have that many), and returns a tensor, or several for a layer of several outputs. If it has parameters
of these names, it is given `parameters`, the layer's as a dictionary of Python values, and `weights`, a list of tensors
of one dimension: numbers as such, raw bytes as uint8.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import ConfigError, FormatError
from corepress.formats.neural_network.values import form, read_values

Custom = Mapping[str, Callable[..., Any]]
_GIVEN = ("parameters", "weights")


def check_custom(custom: Custom | None) -> Custom:
    """Functions by class name; a ConfigError for anything else."""
    for name, function in (custom or {}).items():
        if not callable(function):
            raise ConfigError(f"custom: {name!r} needs a function of the layer's inputs, not {type(function).__name__}")
    return custom or {}


def custom_function(custom: Custom, layer: Any, message: Any) -> tuple[Callable[..., Any], list[str]]:
    """What computes a custom layer, and which of `parameters` and `weights` it takes."""
    name = message.className
    if name not in custom:
        raise FormatError(
            f"its class {name!r} is defined by an app, not by the file: give a function of the layer's inputs, "
            f"corepress.runtime.load(path, custom={{{name!r}: function}})"
        )
    try:
        parameters = inspect.signature(custom[name]).parameters
    except (TypeError, ValueError):  # some functions written in C have none
        parameters = {}  # type: ignore[assignment]
    return partial(_call, custom[name], name, len(layer.output)), [key for key in _GIVEN if key in parameters]


def _call(function: Callable[..., Any], name: str, outputs: int, values: Sequence[Tensor], **given: Any) -> Any:
    try:
        result = function(*values, **given)
    except Exception as error:
        raise ConfigError(f"the function for custom layers of the class {name!r} failed: {error}") from error
    results = tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(results) != outputs:
        raise ConfigError(f"the function for {name!r} gave {len(results)} results, but the layer has {outputs} outputs")
    like = values[0] if values else torch.empty(0)
    tensors = tuple(_as_tensor(one, like, name) for one in results)
    return tensors if outputs != 1 else tensors[0]


def _as_tensor(result: Any, like: Tensor, name: str) -> Tensor:
    """Arrays of NumPy will do, too."""
    if not isinstance(result, Tensor | np.ndarray | float | int):
        raise ConfigError(f"the function for {name!r} must give tensors, not {type(result).__name__}")
    return torch.as_tensor(result, dtype=like.dtype, device=like.device)


def parameters_of(message: Any) -> dict[str, Any]:
    """The parameters of a custom layer as Python values, by name."""
    return {
        entry.key: getattr(entry.value, kind) if (kind := entry.value.WhichOneof("value")) else None
        for entry in sorted(message.parameters, key=lambda entry: entry.key)
    }


def raw_values(params: Any) -> NDArray[Any]:
    """A weight whose size its layer does not say: one dimension, float32, or uint8 where it holds other than floats."""
    sizes = {"float32": 4, "float16": 2}
    kind = form(params)
    if kind not in sizes:
        return np.frombuffer(params.rawValue or params.int8RawValue, np.uint8)
    stored = sum(map(len, params.floatValue)) or len(params.float16Value)
    return read_values(params, (stored // sizes[kind],), None)
