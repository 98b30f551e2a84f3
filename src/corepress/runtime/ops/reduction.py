"""Reductions over some or all axes; of integers to integers, with the fraction cut off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import Ints, operation

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: Reduction, x: Tensor, axes: Ints | None, keep_dims: bool) -> Tensor:
    """`function` over `axes` (None: all of them), in the type of `x`."""
    if axes is not None and not len(axes):
        # No axes are none at all, where PyTorch takes them for all: reduce over an extra one.
        return function(x.unsqueeze(0), [0], False).to(x.dtype)
    dims = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    return function(x, dims, keep_dims).to(x.dtype)


def _floating(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x
    return x.float() if x.is_mps else x.double()  # MPS has no float64


@operation
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return torch.argmax(x, axis, keep_dims).to(torch_dtype(output_dtype))


@operation
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return torch.argmin(x, axis, keep_dims).to(torch_dtype(output_dtype))


@operation
def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: x.abs().sum(dims, keep), x, axes, keep_dims)


@operation
def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    # vector_norm squares and adds in float32 for float16, which would overflow at 256.
    return _reduce(lambda x, dims, keep: torch.linalg.vector_norm(_floating(x), 2, dims, keep), x, axes, keep_dims)


@operation
def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: _floating(x).sum(dims, keep).log(), x, axes, keep_dims)


@operation
def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: torch.logsumexp(_floating(x), dims, keep), x, axes, keep_dims)


@operation
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(torch.amax, x, axes, keep_dims)


@operation
def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: _floating(x).mean(dims, keep), x, axes, keep_dims)


@operation
def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(torch.amin, x, axes, keep_dims)


@operation
def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    def product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        for dim in sorted(dims, reverse=True):
            x = x.prod(dim, keep)
        return x

    return _reduce(product, x, axes, keep_dims)


@operation
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: x.sum(dims, keep), x, axes, keep_dims)


@operation
def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(lambda x, dims, keep: x.square().sum(dims, keep), x, axes, keep_dims)
