"""Activation-aware scales: input channels with large activations are rounded more finely, those with small ones less.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han 2024, "AWQ: Activation-aware Weight Quantization for On-Device
LLM Compression and Acceleration" (arXiv 2306.00978), equations 4 and 5. A layer W X is also (W diag(s)) (diag(1/s) X).
Whatever makes X can make diag(1/s) X instead, and W diag(s) is rounded in place of W. What s is good shows in the
squared error of the layer's outputs, which the Hessian of its inputs tells without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from corepress.algorithms.fitted.hessian import Hessian
from corepress.algorithms.fitted.layout import Layout

# Of the largest mean magnitude: channels with less are treated as if they had this, so that scales stay in 0.01..100.
_LEAST = 1e-4
_STEPS = 10
_NOISE = 1e-4  # of an error computed in float32

# A weight and the Hessian of its inputs, both scaled, to the weight's rounded value.
Rounding = Callable[[Tensor, Tensor], Tensor]


class Inputs:
    """What is known of a layer's inputs: `hessian`, and `magnitude`, (columns,), the mean |x| of each column."""

    def __init__(self, layout: Layout, device: torch.device | str = "cpu"):
        self.hessian = Hessian(layout.columns, layout.groups, device)
        self.magnitude = torch.zeros(layout.groups * layout.columns, device=device)

    def add(self, vectors: Tensor, counting: Tensor | None = None) -> None:
        """Vectors (groups, vectors, columns); `counting`: (vectors,), how much each counts, 1 by default."""
        vectors = vectors.float()
        weights = vectors.new_ones(vectors.shape[1]) if counting is None else counting
        before = self.hessian.count
        self.hessian.add(vectors * weights.sqrt()[:, None])
        if (count := self.hessian.count) > before:
            total = torch.einsum("gvc,v->gc", vectors.abs(), weights).flatten()
            self.magnitude += (total - (count - before) * self.magnitude) / count


class Layer(NamedTuple):
    """A weight of `layout.shape`, the Hessian of its inputs, (groups, columns, columns), and how it is rounded."""

    weight: Tensor
    layout: Layout
    hessian: Tensor
    rounding: Rounding


class Scaling(NamedTuple):
    """`scale`: (channels,) float32, s above. `alpha`: its exponent. `error`: with it; `plain_error`: with s = 1."""

    scale: Tensor
    alpha: float
    error: float
    plain_error: float


def activation_scale(layers: Sequence[Layer], magnitude: Tensor) -> Scaling:
    """The scale mean|x|**alpha of least squared output error, over 11 values of alpha from 0 to 1.

    `layers`: those that read the same input; their errors add up. `magnitude`: (channels,), the mean |x| of each input
    channel. Scales are normalised so that the product of the largest and the smallest is 1. Since alpha = 0 is s = 1,
    the error on these inputs never grows.
    """
    magnitude = magnitude.clamp(min=_LEAST * float(magnitude.max()))
    alive = float(magnitude.max()) > 0
    best = None
    for step in range(_STEPS + 1 if alive else 1):
        power = magnitude ** (step / _STEPS) if step else torch.ones_like(magnitude)
        scale = power / (power.max() * power.min()).sqrt()
        error = output_error(layers, scale)
        if best is None:
            best = Scaling(scale, 0.0, error, error)
        elif error < best.error * (1 - _NOISE):
            best = best._replace(scale=scale, alpha=step / _STEPS, error=error)
    assert best is not None
    return best


def output_error(layers: Sequence[Layer], scale: Tensor) -> float:
    """The squared error tr(D H D^T) of the outputs when the layers are scaled and rounded, with D = Q(W S) S^-1 - W."""
    total = 0.0
    for weight, layout, hessian, rounding in layers:
        columns = scale.repeat_interleave(layout.elements).reshape(layout.groups, layout.columns)
        scaled_hessian = hessian / (columns[:, :, None] * columns[:, None, :])
        scaled = weight.float() * spread(scale, layout)
        change = layout.matrices(rounding(scaled, scaled_hessian) - scaled)
        total += float(((change @ scaled_hessian) * change).sum(-1).cpu().double().sum())
    return total


def spread(scale: Tensor, layout: Layout) -> Tensor:
    """The scale of each input channel, so shaped that it can be multiplied with a layer's weight."""
    if layout.transposed:
        return scale[:, None]
    rows = scale.reshape(layout.groups, -1).repeat_interleave(layout.rows if layout.groups > 1 else 1, 0)
    return rows.reshape(*rows.shape, *[1] * (len(layout.shape) - 2))
