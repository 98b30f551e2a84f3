"""Compressed weights as modules that coreai-torch turns into Core AI's compressed constants.

Indices, tables, scales, integers and masks stay as they are. What there is no form for keeps its values in the nearest
one: indices of 3 bits take 4; a sparse weight with a table for each group of channels, or with offsets, keeps all of
its indices or integers, and a mask beside them; tables of integers with a scale for each entry hold the products.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.errors import importing
from corepress.formats.neural_network.forms import Linear, channel_counts, tabled
from corepress.weights import Palettized, Quantized, Sparse, decompress

# Of an index, which coreai-torch 0.4 can store.
BITS = (1, 2, 4, 6, 8)
_INTEGERS = {(4, "i"): "int4", (4, "u"): "uint4", (8, "i"): "int8", (8, "u"): "uint8"}


class Constant(nn.Module):
    """`forward()` gives dense values, by operations of Core AI on what is stored.

    `parts`: the arrays that are stored; coreai-torch goes by their names. `dense`: makes the values of them. `inner`:
    another constant, whose values are one more part.
    """

    def __init__(
        self,
        parts: dict[str, NDArray[Any]],
        dense: Callable[[dict[str, Tensor]], Tensor],
        inner: Constant | None = None,
    ):
        super().__init__()
        for name, array in parts.items():
            self.register_buffer(name, torch.from_numpy(np.array(array)))
        self.inner = inner
        self._dense = dense

    def forward(self) -> Tensor:
        """See the class."""
        parts = dict(self.named_buffers(recurse=False))
        return self._dense(parts if self.inner is None else {**parts, "values": self.inner()})


def know_operations(purpose: str) -> None:
    """Let PyTorch know the operations that `Constant` calls; MissingDependencyError without coreai-torch."""
    with importing(purpose), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coreai_torch._compression.custom_layers  # noqa: F401


@singledispatch
def compressed(form: Any) -> Constant:
    """The constant of a compressed weight."""
    raise TypeError(f"{type(form).__name__} is no compressed weight")


@compressed.register
def _palettized(form: Palettized) -> Constant:
    lut = form.lut
    if not isinstance(lut, Quantized):
        return _looked_up(form, lut)
    if isinstance(lut.data, np.ndarray) and lut.bits == 8 and lut.scale.shape[-2:] == (1, 1):
        # One scale for each table: that of a group of channels of the weight.
        scale, offset = lut.scale.reshape(lut.scale.shape[:-2]), lut.offset
        return _scaled(scale, None if offset is None else offset.reshape(scale.shape), _looked_up(form, lut.data))
    return _looked_up(form, decompress(lut))


@compressed.register
def _quantized(form: Quantized) -> Constant:
    data = form.data
    if not isinstance(data, Palettized):
        return _integers(form, data)
    if data.dtype.kind == "f":
        return Constant({"scale": form.scale}, _product, compressed(data))
    return _scaled(form.scale, form.offset, compressed(data))


@compressed.register
def _even_steps(form: Linear) -> Constant:
    """Of a neural network: one table, or a scale and a least value for each channel."""
    if form.scale.size == 1:
        table = Linear(np.arange(2**form.bits, dtype=np.uint8), form.scale, form.bias, form.bits, None).decompress()
        return compressed(tabled(form.indices, table))
    counts = channel_counts(form.indices.shape, form.axis)
    kind = _INTEGERS[4 if form.bits <= 4 else 8, "u"]
    return Constant(
        {"data": form.indices, "scale": form.scale.reshape(counts), "least": form.bias.reshape(counts)},
        lambda parts: torch.ops.coreai.constexpr_blockwise_shift_scale(
            parts["data"], parts["scale"], None, parts["least"], getattr(torch, kind), None
        ),
    )


@compressed.register
def _sparse(form: Sparse) -> Constant:
    values, mask = form.values, form.mask
    if isinstance(values, np.ndarray):
        return Constant({"nonzero": values[mask], "mask": mask}, lambda parts: _kept(parts["nonzero"], parts["mask"]))
    one_table = isinstance(values, Palettized) and math.prod(values.lut.shape) == values.lut.shape[-2]
    if isinstance(values, Palettized) and isinstance(values.lut, np.ndarray) and one_table:
        # One table of scalars: the indices of what is kept are enough.
        indices = Palettized(values.indices[mask], values.lut.reshape(1, -1, 1))
        return _under(mask, compressed(indices))
    symmetric = isinstance(values, Quantized) and values.offset is None and values.bits == 8
    if isinstance(values, Quantized) and isinstance(values.data, np.ndarray) and symmetric:
        parts = {"nonzero": values.data[mask], "mask": mask}
        return _scaled(values.scale, None, Constant(parts, lambda own: _kept(own["nonzero"], own["mask"])))
    return Constant({"mask": mask}, _masked, compressed(values))


def _looked_up(form: Palettized, lut: NDArray[Any]) -> Constant:
    axis = form.vector_axis or 0

    def dense(parts: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.ops.coreai.lut_to_dense(parts["indices"], parts["lut"], axis)
        return found

    return Constant({"indices": form.indices, "lut": _widened(lut)}, dense)


def _integers(form: Quantized, data: NDArray[Any]) -> Constant:
    kind = getattr(torch, _INTEGERS[form.bits, data.dtype.kind])
    offset = {} if form.offset is None else {"offset": form.offset}
    return Constant(
        {"data": data, "scale": form.scale, **offset},
        lambda parts: _shifted_and_scaled(parts["data"], parts["scale"], parts.get("offset"), kind),
    )


def _scaled(scale: NDArray[Any], offset: NDArray[Any] | None, of: Constant) -> Constant:
    """Integers that another constant gives, times scales, after an offset."""
    return Constant(
        {"scale": scale, **({} if offset is None else {"offset": offset})},
        lambda parts: _shifted_and_scaled(parts["values"], parts["scale"], parts.get("offset"), None),
        of,
    )


def _under(mask: NDArray[np.bool_], of: Constant) -> Constant:
    return Constant({"mask": mask}, lambda parts: _kept(parts["values"], parts["mask"]), of)


def _shifted_and_scaled(data: Tensor, scale: Tensor, offset: Tensor | None, kind: torch.dtype | None) -> Tensor:
    found: Tensor = torch.ops.coreai.constexpr_blockwise_shift_scale(data, scale, offset, None, kind, None)
    return found


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    found: Tensor = torch.ops.coreai.sparse_to_dense(values, mask)
    return found


def _masked(parts: dict[str, Tensor]) -> Tensor:
    return torch.where(parts["mask"], parts["values"], torch.zeros_like(parts["values"]))


def _product(parts: dict[str, Tensor]) -> Tensor:
    """Values times the scale of their block."""
    values, scale = parts["values"], parts["scale"]
    for axis, (size, count) in enumerate(zip(values.shape, scale.shape, strict=True)):
        if 1 < count < size:
            scale = scale.repeat_interleave(size // count, axis)
    return values * scale


def _widened(lut: NDArray[Any]) -> NDArray[Any]:
    """Tables for the next number of bits that there is; no index means what is added."""
    bits = (lut.shape[-2] - 1).bit_length()
    widths = [(0, 0)] * lut.ndim
    widths[-2] = 0, (1 << next(known for known in BITS if known >= bits)) - lut.shape[-2]
    return np.pad(lut, widths)
