"""`get_weights_metadata`: the weights of a model with their values and who reads them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from attrs import define, field, validators
from numpy.typing import NDArray

from corepress.coreml.interop import takes_any_model
from corepress.formats.mlprogram import Model, Weight

# Values of at most this magnitude count as zeros.
_ZERO = 1e-12


@define(frozen=True)
class CoreMLOpMetaData:
    """An operation that reads a weight, as `get_weights_metadata` gives it.

    Args:
        op_type: Such as "conv".
        name: Of the operation.
        params_name_mapping: Its large constant parameters: the name of each weight by that of the argument.

    Examples:
        >>> held = cto.coreml.get_weights_metadata("model.mlpackage")["scores_weight_to_fp16"]
        >>> held.child_ops[0].params_name_mapping["weight"]
        'scores_weight_to_fp16'
    """

    op_type: str = field(validator=validators.instance_of(str))
    name: str = field(validator=validators.instance_of(str))
    params_name_mapping: dict[str, str] = field(validator=validators.instance_of(dict))

    def __str__(self) -> str:
        parameters = "".join(f", {argument}={weight}" for argument, weight in self.params_name_mapping.items())
        return f"{self.op_type}(name={self.name}{parameters}, ...)"


@define(frozen=True)
class CoreMLWeightMetaData:
    """A weight and its readers, as `get_weights_metadata` gives it.

    Args:
        val: Its value, of its own shape and type.
        sparsity: The part of it that is zero, from 0 to 1.
        unique_values: The number of its distinct values.
        child_ops: The operations that read it.

    Examples:
        >>> held = cto.coreml.get_weights_metadata("model.mlpackage")["scores_weight_to_fp16"]
        >>> held.val.dtype, held.sparsity, held.child_ops[0].op_type
        (dtype('float16'), 0.0, 'linear')
    """

    val: NDArray[Any] = field(validator=validators.instance_of(np.ndarray))
    sparsity: float | None = field(validator=validators.instance_of(float))
    unique_values: int | None = field(validator=validators.instance_of(int))
    child_ops: list[CoreMLOpMetaData] | None = field(
        default=None, validator=validators.optional(validators.instance_of(list))
    )

    @sparsity.default
    def _sparsity(self) -> float:
        return float(np.count_nonzero(np.abs(self.val) <= _ZERO) / self.val.size)

    @unique_values.default
    def _unique_values(self) -> int:
        return len(np.unique(self.val))

    def __str__(self) -> str:
        lines = [
            f"  val: np.ndarray(shape={self.val.shape}, dtype={self.val.dtype})",
            f"  sparsity: {self.sparsity}",
            f"  unique_values: {self.unique_values}",
        ]
        if self.child_ops is not None:
            lines += ["  child_ops: [", *(f"    {child}" for child in self.child_ops), "  ]"]
        return "\n".join(["[", *lines, "]"])


class WeightsMetaData(OrderedDict[str, CoreMLWeightMetaData]):
    """Metadata by weight name, with a readable `str`."""

    def __str__(self) -> str:
        return "".join(f"{name}\n{metadata}\n" for name, metadata in self.items())


@takes_any_model
def get_weights_metadata(mlmodel: Model, weight_threshold: int = 2048) -> WeightsMetaData:
    """Look at the values of every plain weight. They are copies: this holds all weights in memory.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        weight_threshold: Only weights of at least so many elements.

    Returns:
        A dictionary of `CoreMLWeightMetaData` by name.

    Raises:
        FormatError: For a model that can't be read.

    Examples:
        >>> metadata = cto.coreml.get_weights_metadata("model.mlpackage", weight_threshold=100_000)
        >>> {name: held.val.shape for name, held in metadata.items()}
        {'hidden_weight_to_fp16': (256, 512)}
    """
    large = [w for w in mlmodel.weights() if not w.compression and w.size >= weight_threshold]
    parameters: dict[tuple[str, str], dict[str, str]] = {}
    for weight in large:
        for consumer in weight.consumers:
            parameters.setdefault((weight.function, consumer.name), {})[consumer.argument] = weight.name
    return WeightsMetaData((w.name, _metadata(w, parameters)) for w in large)


def _metadata(weight: Weight, parameters: dict[tuple[str, str], dict[str, str]]) -> CoreMLWeightMetaData:
    readers = {consumer.name: consumer.op_type for consumer in weight.consumers}
    children = [
        CoreMLOpMetaData(op_type, name, dict(parameters[weight.function, name])) for name, op_type in readers.items()
    ]
    return CoreMLWeightMetaData(np.array(weight.dense()), child_ops=children)
