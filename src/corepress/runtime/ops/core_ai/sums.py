"""Reductions, which keep the axes that they reduce, and prefixes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.ops import reduction
from corepress.runtime.registry import Ints, core_ai


@core_ai("reduce_max")
def reduce_max(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_max(x, axes, True)


@core_ai("reduce_min")
def reduce_min(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_min(x, axes, True)


@core_ai("reduce_mean")
def reduce_mean(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_mean(x, axes, True)


@core_ai("reduce_sum")
def reduce_sum(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_sum(x, axes, True)


@core_ai("reduce_product")
def reduce_product(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_prod(x, axes, True)


@core_ai("all")
def all_(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_min(x.byte(), axes, True).bool()


@core_ai("any")
def any_(x: Tensor, axes: Ints) -> Tensor:
    return reduction.reduce_max(x.byte(), axes, True).bool()


@core_ai("argmax")
def argmax(x: Tensor, axis: int) -> Tensor:
    return torch.argmax(x, axis, True)


@core_ai("scan")
def scan(x: Tensor, axis: int, reverse: bool = False, mode: str = "sum") -> Tensor:
    if reverse:
        x = x.flip(axis)
    if mode in ("sum", "product"):
        found = (torch.cumsum if mode == "sum" else torch.cumprod)(x, axis, dtype=x.dtype)
    else:
        found = (torch.cummax if mode == "max" else torch.cummin)(x, axis).values
    return found.flip(axis) if reverse else found
