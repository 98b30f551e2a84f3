"""MIL values (tensor constants, inline or in a weight file) to NumPy arrays and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.blobs import BlobRecord, PendingBlob
from corepress.formats.dtypes import BY_MIL, BY_NAME, STRING_MIL, DType, dtype_of
from corepress.formats.schema import Value
from corepress.weights import pack_bits, packed_size, unpack_bits

Array = NDArray[Any]

# Smaller tensors are stored in the program itself, as coremltools does.
MIN_BLOB_ELEMENTS = 10
# No weight comes near this; a file that claims more is refused before anything is allocated.
MAX_ELEMENTS = 1 << 40


class BlobSource(Protocol):
    """Where the data of blob values lies: see `Model`."""

    def record(self, file: str, offset: int) -> BlobRecord | PendingBlob: ...

    def data(self, file: str, record: BlobRecord | PendingBlob) -> NDArray[np.uint8]: ...


def tensor_type(value: Any) -> tuple[DType, tuple[int, ...]] | None:
    """Type and shape of a tensor value; None for strings, lists, and types that corepress does not know."""
    if value.type.WhichOneof("type") != "tensorType":
        return None
    kind = value.type.tensorType
    dtype = BY_MIL.get(kind.dataType)
    sizes = []
    for dimension in kind.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            return None
        sizes.append(dimension.constant.size)
    return None if dtype is None else (dtype, tuple(sizes))


def elements(shape: Sequence[int], what: str) -> int:
    """Number of elements of a claimed shape, refused when it is absurd."""
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise FormatError(f"{what}: no tensor is as large as the shape {tuple(shape)}")
    return count


def check_blob(value: Any, blob: BlobRecord | PendingBlob, what: str) -> None:
    """Refuse a blob whose size or type does not fit the value that refers to it."""
    kind = tensor_type(value)
    if kind is None:
        raise FormatError(f"{what}: a blob in a weight file must be a tensor of known type and shape")
    dtype, shape = kind
    if blob.dtype is not dtype or blob.nbytes != packed_size(elements(shape, what), dtype.bits):
        raise FormatError(
            f"{what}: shape {shape} of {dtype.name} needs {packed_size(math.prod(shape), dtype.bits)} bytes, "
            f"but its blob holds {blob.nbytes} bytes of {blob.dtype.name}"
        )


def read_tensor(value: Any, blobs: BlobSource, what: str) -> Array:
    """The array of a tensor value. Where possible it is a view of the memory map: treat it as read-only."""
    kind = tensor_type(value)
    if kind is None:
        raise UnsupportedError(f"{what}: not a tensor of a type that corepress can read")
    dtype, shape = kind
    if value.WhichOneof("value") == "blobFileValue":
        reference = value.blobFileValue
        blob = blobs.record(reference.fileName, reference.offset)
        check_blob(value, blob, what)
        return from_bytes(blobs.data(reference.fileName, blob), dtype, shape)
    return _from_immediate(value, dtype, shape, what)


def from_bytes(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> Array:
    """The array of a type and shape whose stored bytes are `data`."""
    if dtype.sub_byte:
        return unpack_bits(data, dtype.bits, math.prod(shape), signed=dtype.signed).view(dtype.numpy).reshape(shape)
    return data.view(dtype.numpy).reshape(shape)


def _from_immediate(value: Any, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    count = elements(shape, what)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field is None:
        if count:
            raise FormatError(f"{what}: an inline tensor of shape {shape} without values")
        return np.zeros(shape, dtype.numpy)
    values = getattr(tensor, field).values
    if field == "bytes":
        if len(values) != packed_size(count, dtype.bits):
            raise FormatError(f"{what}: shape {shape} of {dtype.name} does not fit {len(values)} inline bytes")
        return from_bytes(np.frombuffer(values, np.uint8), dtype, shape)
    if field == "strings" or len(values) != count:
        raise FormatError(f"{what}: shape {shape} of {dtype.name} does not fit {len(values)} inline {field}")
    return np.array(values).astype(dtype.numpy).reshape(shape)


def string_value(text: str) -> Any:
    """The value of a string, such as the name of an operation."""
    value = Value()
    value.type.tensorType.dataType = STRING_MIL
    value.immediateValue.tensor.strings.values.append(text)
    return value


def read_string(value: Any) -> str | None:
    """The string of a string value, or None."""
    values = value.immediateValue.tensor.strings.values
    return values[0] if len(values) == 1 else None


def typed_value(dtype: DType, shape: Sequence[int]) -> Any:
    """A value with its type set and no content yet."""
    value = Value()
    set_tensor_type(value.type, dtype, shape)
    return value


def set_tensor_type(kind: Any, dtype: DType, shape: Sequence[int]) -> None:
    """Make `kind` (a `ValueType`) the type of a tensor; a size below 0 is not fixed."""
    tensor = kind.tensorType
    tensor.dataType = dtype.mil
    if shape:
        tensor.rank = len(shape)
    for size in shape:
        dimension = tensor.dimensions.add()
        if size < 0:
            dimension.unknown = b""
        else:
            dimension.constant.size = size


def immediate_value(array: Array, bits: int | None = None, dtype: DType | None = None) -> Any:
    """An array as an inline value; `bits` for integers narrower than the array's type."""
    array = np.asarray(array)
    dtype = dtype or dtype_of(array.dtype, bits)
    value = typed_value(dtype, array.shape)
    tensor = value.immediateValue.tensor
    if dtype.field == "bytes":
        tensor.bytes.values = packed_bytes(array, dtype).tobytes()
    else:
        getattr(tensor, dtype.field).values.extend(array.reshape(-1).tolist())
    return value


def packed_bytes(array: Array, dtype: DType) -> NDArray[np.uint8]:
    """The stored bytes of an array, packed when its type is narrower than a byte."""
    if dtype.sub_byte:
        return pack_bits(array, dtype.bits)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def scalar(number: int, dtype: str = "int32") -> Any:
    """A rank-0 value."""
    kind = BY_NAME[dtype]
    return immediate_value(np.array(number, kind.numpy))


def with_inputs(operation: Any, inputs: Mapping[str, Any]) -> Any:
    """An operation itself, with more inputs: of each the name of a value, or a message `Value`."""
    for name, value in inputs.items():
        binding = operation.inputs.add(key=name).value.arguments.add()
        if isinstance(value, str):
            binding.name = value
        else:
            binding.value.CopyFrom(value)
    return operation
