"""What a case of the grid is, and the digest of its results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

Array = NDArray[Any]


class Case(NamedTuple):
    """`results`: arrays whose bytes must stay. `error`: where a sum may be ordered otherwise, so that last digits may
    differ, the squared error of the results, which must not become larger than before."""

    name: str
    results: tuple[Any, ...]
    error: float | None = None


Group = Callable[[], Iterator[Case]]


def recorded(case: Case) -> str:
    """A case as it stands in the file: the digest, and the error where there is one."""
    return digest(case.results) if case.error is None else f"{digest(case.results)} {case.error!r}"


def digest(results: tuple[Any, ...]) -> str:
    """16 hexadecimal digits of SHA-256 over the type, the shape and the bytes of every array."""
    total = hashlib.sha256()
    for array in (np.asarray(part) for result in results for part in _parts(result)):
        total.update(f"{array.dtype.name}{array.shape}".encode())
        total.update(_canonical(array).tobytes())
    return total.hexdigest()[:16]


def _parts(result: Any) -> list[Any]:
    match result:
        case Palettized(indices, lut, axis):
            return [indices, *_parts(lut), -1 if axis is None else axis]
        case Quantized(data, scale, offset, bits):
            return [*_parts(data), scale, *([] if offset is None else [offset]), bits]
        case Sparse(mask, values):
            return [mask, *_parts(values)]
    return [result]


def _canonical(array: Array) -> Array:
    """Not a number is the same whatever its sign and payload, which differ from processor to processor."""
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return array
    return np.where(np.isnan(array), array.dtype.type(np.nan), array)


def squared_error(weight: Array, form: Array | CompressedWeight) -> float:
    dense = form if isinstance(form, np.ndarray) else form.decompress()
    difference = weight.astype(np.float64) - dense.astype(np.float64)
    return float((difference * difference).sum())
