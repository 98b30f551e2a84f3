"""Lists of tensors, which loops read and write. A list is a value: writing makes a new one that shares the elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import Ints, operation


@dataclass(frozen=True)
class TensorList:
    """`items`: those that have been written, by index. `shape`: of each; a name stands for a size not known yet."""

    items: Mapping[int, Tensor]
    length: int
    shape: tuple[int | str, ...]
    dtype: torch.dtype
    grows: bool

    def read(self, index: int) -> Tensor:
        """An item; one that has not been written is zero, in the shape of those that have been."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is out of bounds for a list of {self.length} tensors")
        return self.items[index] if index in self.items else self._zeros()

    def write(self, values: Mapping[int, Tensor]) -> TensorList:
        """The list with other items, and longer where it may grow."""
        needed = max(values, default=-1) + 1
        if min(values, default=0) < 0 or (needed > self.length and not self.grows):
            raise IndexError(f"indices {sorted(values)} are out of bounds for a list of {self.length} tensors")
        return replace(self, items={**self.items, **values}, length=max(self.length, needed))

    def stack(self, indices: Ints) -> Tensor:
        """The items at these indices along a new first axis."""
        items = [self.read(index) for index in indices] or [self._zeros()]
        limits.check(len(items), *items[0].shape)
        return torch.stack(items)[: len(indices)]

    def _zeros(self) -> Tensor:
        for item in self.items.values():
            return torch.zeros_like(item)
        sizes = [size for size in self.shape if isinstance(size, int)]
        limits.check(*sizes)
        if len(sizes) < len(self.shape):
            raise ValueError("nothing has been written to the list yet, so the shape of its elements is not known")
        return torch.zeros(sizes, dtype=self.dtype)


@operation
def make_list(
    elem_shape: Sequence[int | str], init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> TensorList:
    return TensorList({}, init_length, tuple(elem_shape), torch_dtype(dtype), dynamic_length)


@operation
def list_length(ls: TensorList) -> Tensor:
    return torch.tensor(ls.length, dtype=torch.int32)


@operation
def list_read(ls: TensorList, index: int) -> Tensor:
    return ls.read(index)


@operation
def list_write(ls: TensorList, index: int, value: Tensor) -> TensorList:
    return ls.write({index: value})


@operation
def list_gather(ls: TensorList, indices: Ints) -> Tensor:
    return ls.stack(indices)


@operation
def list_scatter(ls: TensorList, indices: Ints, value: Tensor) -> TensorList:
    return ls.write(dict(zip(indices, value.unbind(0), strict=True)))
