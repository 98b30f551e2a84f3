"""Reductions, which keep the axes that they reduce, and prefixes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.runtime.ops import reduction
from corepress.runtime.registry import Ints, core_ai


def _keeping(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Ints) -> Tensor:
        return reduce(x, axes, True)

    return reduced


for _name, _reduce in {
    "reduce_max": reduction.reduce_max,
    "reduce_mean": reduction.reduce_mean,
    "reduce_min": reduction.reduce_min,
    "reduce_product": reduction.reduce_prod,
    "reduce_sum": reduction.reduce_sum,
}.items():
    core_ai(_name)(_keeping(_reduce))


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
