"""How a compressed weight lives in a PyTorch module: its dense value, and buffers that say what it is made of.

`coremltools.convert` (9.0) finds the buffers in the state dictionary, by names such as `_COREML_/weight/lut`, and makes
`constexpr_*` operations of them. It computes indices and integers anew from the dense value, so that the value must be
exactly what the buffers stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import attrs
import numpy as np
import torch
from attrs import define
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.torch.parameters import Slot
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress
from corepress.weights.blocks import spread

PREFIX, SEPARATOR = "_COREML_", "/"
VERSION_BUFFER = f"{PREFIX}{SEPARATOR}metadata_version"


class CompressionType(Enum):
    pruning = 1
    palettization = 2
    quantization = 3

    def __str__(self) -> str:
        return self.name


def _type_numbers(types: Any) -> list[int] | None:
    return [CompressionType[str(kind)].value for kind in types] if types else None


@define
class CompressionMetadata:
    """What the buffers of one parameter say; field names are those of the buffers.

    `compression_type`: given as names, kept as numbers, in the order of application.
    """

    param_name: str
    quantization_n_bits: int | None = None
    quantization_scale: Tensor | None = None
    zero_point: Tensor | None = None
    lut: Tensor | None = None
    palettization_scale: Tensor | None = None
    vector_axis: int | None = None
    compression_type: list[int] | None = attrs.field(default=None, converter=_type_numbers)

    def register(self, module: nn.Module) -> None:
        """Make buffers of it; those that the parameter had before go."""
        forget(module, _buffer(self.param_name, ""))
        for key, value in attrs.asdict(self).items():
            if key != "param_name" and value is not None:
                module.register_buffer(_buffer(self.param_name, key), torch.as_tensor(value))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> dict[str, CompressionMetadata]:
        """The metadata of each parameter of a module, from its own state dictionary."""
        found: dict[str, dict[str, Any]] = {}
        for buffer, value in state.items():
            if not buffer.startswith(PREFIX) or buffer == VERSION_BUFFER:
                continue
            _, param_name, key = buffer.split(SEPARATOR)
            entry: Any = value
            if key == "compression_type":
                entry = [CompressionType(number) for number in value.tolist()]
            elif value.ndim == 0 and key in ("quantization_n_bits", "vector_axis"):
                entry = int(value)
            found.setdefault(param_name, {"param_name": param_name})[key] = entry
        return {name: cls(**values) for name, values in found.items()}


def _buffer(param_name: str, key: str) -> str:
    return SEPARATOR.join((PREFIX, param_name, key))


def forget(module: nn.Module, prefix: str = PREFIX) -> None:
    """Remove the buffers of a module itself whose names begin so."""
    for name in [name for name in module._buffers if name.startswith(prefix)]:
        delattr(module, name)


def described(model: nn.Module) -> Iterator[Slot]:
    """Each place in a model that holds a parameter with buffers that say what it is made of."""
    for module_name, module in model.named_modules():
        for name in CompressionMetadata.from_state_dict(dict(module.named_buffers(recurse=False))):
            yield Slot(module, module_name, name)


def register_version(model: nn.Module) -> None:
    model.register_buffer(VERSION_BUFFER, torch.tensor(1))


def write_weight(slot: Slot, form: CompressedWeight) -> None:
    """Give a parameter the value of a compressed form, in place, and the buffers that say so."""
    write_value(slot, decompress(form))
    describe(slot, form)


def write_value(slot: Slot, dense: NDArray[Any]) -> None:
    """Give a parameter a value, in place."""
    value = slot.value.detach()
    if value.device.type == "cpu" and value.dtype == torch.float32:
        np.copyto(value.numpy(), dense)  # PyTorch's own copy wakes its threads, though the others are at work
    else:
        value.copy_(torch.from_numpy(np.ascontiguousarray(dense)))


def replace_value(slot: Slot, dense: NDArray[Any]) -> None:
    """Give a parameter a value in other memory: that of the array, if it has the parameter's type."""
    value = slot.value
    value.data = torch.from_numpy(np.ascontiguousarray(dense)).to(value.device, value.dtype)


def describe(slot: Slot, form: CompressedWeight) -> None:
    """Register the buffers of a form whose value the parameter has already, being shared."""
    metadata_of(slot.name, form).register(slot.module)


def metadata_of(param_name: str, form: CompressedWeight) -> CompressionMetadata:
    """The buffers that stand for a compressed form."""
    types: list[str] = []
    fields: dict[str, Any] = {}
    inner: Any = form
    if isinstance(inner, Sparse):
        types.append("pruning")
        inner = inner.values
    if isinstance(inner, Quantized) and isinstance(inner.data, Palettized):
        # coremltools has it without the places of a kernel, and converts both.
        scale = inner.scale
        fields["palettization_scale"] = _tensor(scale.reshape(scale.shape[:2]) if scale.ndim == 4 else scale)
        inner = inner.data
    if isinstance(inner, Palettized):
        types.append("palettization")
        fields["lut"] = _tensor(decompress(inner.lut))
        fields["vector_axis"] = inner.vector_axis
        inner = inner.lut
    if isinstance(inner, Quantized):
        types.append("quantization")
        fields["quantization_n_bits"] = inner.bits
        fields["quantization_scale"] = _tensor(inner.scale)
        fields["zero_point"] = None if inner.offset is None else _tensor(inner.offset)
    return CompressionMetadata(param_name, compression_type=types, **fields)


def read_weight(slot: Slot) -> NDArray[Any] | CompressedWeight:
    """The form of a parameter as its buffers tell it; the plain array if it has none.

    bfloat16, float64 and other types that Core ML does not have come as float32.
    """
    dense = array_of(slot.value)
    prefix = _buffer(slot.name, "")
    state = {name: buffer for name, buffer in slot.module._buffers.items() if name.startswith(prefix)}
    metadata = CompressionMetadata.from_state_dict(state).get(slot.name)  # type: ignore[arg-type]
    return dense if metadata is None else form_of(metadata, dense)


def form_of(metadata: CompressionMetadata, dense: NDArray[Any]) -> NDArray[Any] | CompressedWeight:
    """The compressed form whose dense value and whose buffers these are."""
    kinds = [CompressionType(number) for number in metadata.compression_type or []]
    form: Any = dense
    if metadata.lut is not None:
        form = _palettized(metadata, dense)
    elif CompressionType.quantization in kinds:
        form = _quantized(metadata, dense)
    return Sparse(dense != 0, form) if CompressionType.pruning in kinds else form


def _palettized(metadata: CompressionMetadata, dense: NDArray[Any]) -> Palettized | Quantized:
    from corepress.algorithms.palettize import indices_into

    assert metadata.lut is not None
    table = array_of(metadata.lut)
    lut: NDArray[Any] | Quantized = table if metadata.quantization_scale is None else _quantized(metadata, table)
    scale = None if metadata.palettization_scale is None else array_of(metadata.palettization_scale)
    if scale is not None:
        scale = scale.reshape(*scale.shape, *[1] * (dense.ndim - scale.ndim))
    target = dense if scale is None else (dense / scale).astype(table.dtype)
    form = Palettized(indices_into(target, table, metadata.vector_axis), lut, metadata.vector_axis)
    return form if scale is None else Quantized(form, scale)


def _quantized(metadata: CompressionMetadata, dense: NDArray[Any]) -> Quantized:
    assert metadata.quantization_scale is not None
    bits = int(metadata.quantization_n_bits or 8)
    scale = array_of(metadata.quantization_scale)
    offset = None if metadata.zero_point is None else array_of(metadata.zero_point)
    spread_scale, spread_offset = (None if part is None else spread(part, dense.shape) for part in (scale, offset))
    data = np.rint(dense / spread_scale) + (0 if spread_offset is None else spread_offset)
    unsigned = offset is not None and (offset.dtype == np.uint8 or (offset.dtype.kind == "f" and data.min() >= 0))
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    integer_type = np.uint8 if unsigned else np.int8
    integers = data.clip(low, high).astype(integer_type)
    return Quantized(integers, scale, None if offset is None else offset.astype(integer_type), bits=bits)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A tensor as NumPy has it; bfloat16, float64 and the like as float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32):
        tensor = tensor.float()
    return tensor.numpy()


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))
