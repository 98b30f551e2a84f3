"""Lengths that only an input tells, where shapes are flexible: arithmetic of them, with symbols of PyTorch.

A program computes the shapes that it reshapes to as it computes everything: `shape`, `gather`, `mul`, `concat`. As
tensors they would be values that nobody knows while a program is exported. Here they stay sums and products of the
lengths of the inputs, so that what is exported has symbolic shapes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Numbers, some of which are symbols: an array of objects of rank 0 or 1.
Lengths = NDArray[np.object_]


def is_symbolic(value: Any) -> bool:
    """Whether a value is such numbers, or holds some."""
    if isinstance(value, list | tuple):
        return any(map(is_symbolic, value))
    return isinstance(value, np.ndarray) and value.dtype == object


def lengths(numbers: Sequence[Any]) -> Lengths:
    """Numbers as an array."""
    found = np.empty(len(numbers), dtype=object)
    found[:] = list(numbers)
    return found


def as_tensor(value: Lengths, device: torch.device | None = None) -> Tensor:
    """The same as a tensor of int32."""
    parts = [torch.scalar_tensor(number, dtype=torch.int32, device=device) for number in value.reshape(-1)]
    return torch.stack(parts).reshape(value.shape) if value.ndim else parts[0]


def computed(kind: str, arguments: Mapping[str, Any]) -> Lengths | None:
    """The result of an operation on lengths and `numbers`; None for an operation that is no arithmetic of lengths."""
    function = _FUNCTIONS.get(kind)
    if function is None or any(value is None for value in arguments.values()):
        return None
    return function(**arguments)


def numbers(value: Any) -> Any:
    """Whole numbers of an argument; None for what is none, or has more than one axis."""
    if isinstance(value, list | tuple):
        parts = [numbers(item) for item in value]
        return None if any(part is None for part in parts) else parts
    if isinstance(value, Tensor):
        if value.ndim > 1 or value.is_floating_point() or value.is_complex():
            return None
        return np.array(value.tolist(), dtype=object)
    return value


def _gather(x: Lengths, indices: Any, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Lengths:
    return np.asarray(x[np.asarray(indices, dtype=np.int64)], dtype=object)


def _slice(
    x: Lengths, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Lengths:  # fmt: skip
    first, last = (np.asarray(bound, dtype=object).reshape(-1)[0] for bound in (begin, end))
    if squeeze_mask and squeeze_mask[0]:
        return np.asarray(x[first], dtype=object)
    step = 1 if stride is None else int(np.asarray(stride, dtype=object).reshape(-1)[0])
    return x[None if begin_mask and begin_mask[0] else first : None if end_mask and end_mask[0] else last : step]


def _concat(values: Sequence[Lengths], axis: int = 0, interleave: bool = False) -> Lengths | None:
    return None if interleave else np.concatenate([np.atleast_1d(np.asarray(value, dtype=object)) for value in values])


def _cast(x: Lengths, dtype: str) -> Lengths | None:
    return x if "int" in dtype else None


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[..., Lengths]:
    def apply(x: Any, y: Any) -> Lengths:
        one, other = np.broadcast_arrays(np.asarray(x, dtype=object), np.asarray(y, dtype=object))
        pairs = zip(one.reshape(-1), other.reshape(-1), strict=True)
        return lengths([function(*pair) for pair in pairs]).reshape(one.shape)

    return apply


def _reduced(function: Callable[[Any, Any], Any], start: int) -> Callable[..., Lengths]:
    def apply(x: Lengths, axes: Any = None, keep_dims: bool = False) -> Lengths:
        total: Any = start
        for number in x.reshape(-1):
            total = function(total, number)
        return lengths([total]).reshape((1,) if keep_dims else ())

    return apply


_FUNCTIONS: dict[str, Callable[..., Lengths | None]] = {
    "gather": _gather,
    "slice_by_index": _slice,
    "concat": _concat,
    "stack": lambda values, axis=0: _concat(values),
    "cast": _cast,
    "identity": lambda x: x,
    "squeeze": lambda x, axes=None: x.reshape(()),
    "expand_dims": lambda x, axes: x.reshape((1,)),
    "reshape": lambda x, shape: x.reshape(tuple(int(size) for size in shape)),
    "add": _elementwise(operator.add),
    "sub": _elementwise(operator.sub),
    "mul": _elementwise(operator.mul),
    "floor_div": _elementwise(operator.floordiv),
    "mod": _elementwise(operator.mod),
    "maximum": _elementwise(torch.sym_max),
    "minimum": _elementwise(torch.sym_min),
    "reduce_prod": _reduced(operator.mul, 1),
    "reduce_sum": _reduced(operator.add, 0),
}
