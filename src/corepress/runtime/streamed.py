"""Constants that are read from their package when an operation needs them, and forgotten afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.formats.dtypes import BY_MIL
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.constexpr import read_weight
from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.weight import release
from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.precision import Precision
from corepress.weights import CompressedWeight

# Smaller constants stay in memory: together they are few.
_SMALL = 1 << 16
# What larger ones may take before the others are streamed: enough for a small model to be read once only.
KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class Streamed:
    """A constant that is in memory only while it is read. `shape`, `dtype`: of what `read` gives."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def float(self) -> Streamed:
        """The same in float32, as a tensor has it."""
        return Streamed(self.shape, torch.float32, lambda: self.read().float())


class Constants(dict[str, Any]):
    """Constants by name: those in memory, and those that are read each time they are asked for."""

    def __init__(self, held: Mapping[str, Any], streamed: Mapping[str, Streamed]):
        super().__init__(held)
        self.streamed = streamed

    def __missing__(self, name: str) -> Tensor:
        return self.streamed[name].read()


def streamed(
    node: Node,
    model: Model,
    convert: Callable[[NDArray[Any] | CompressedWeight], Tensor],
    precision: Precision,
    device: torch.device,
) -> Streamed | None:
    """The constant that `node` produces, to be read later; None for a small one, and one that is no tensor.

    `convert` makes a tensor of what `read_weight` gives, in the type that `precision` asks for.
    """
    kind = node.op.outputs[0].type
    dtype = BY_MIL.get(kind.tensorType.dataType)
    shape = tuple(dimension.constant.size for dimension in kind.tensorType.dimensions)
    if dtype is None or math.prod(shape) < _SMALL:
        return None
    declared = precision.tensor(torch.empty(0, dtype=torch_dtype(dtype.name))).dtype

    def read() -> Tensor:
        tensor = convert(read_weight(node, model))
        release(node, model)
        return tensor.to(device)

    return Streamed(shape, declared, read)
