"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.registry import operation


@operation
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(F.leaky_relu(x, alpha), max=beta)


@operation
def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


@operation
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"mode {mode!r} is unknown")


@operation
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@operation
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@operation
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.prelu(x, alpha.to(x.dtype))


@operation
def relu(x: Tensor) -> Tensor:
    return F.relu(x)


@operation
def relu6(x: Tensor) -> Tensor:
    return F.relu6(x)


@operation
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operation
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operation
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@operation
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operation
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@operation
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    channel = (-1, *[1] * (x.dim() - 2))
    return alpha.to(x.dtype).view(channel) * F.softplus(beta.to(x.dtype).view(channel) * x)


@operation
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@operation
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.masked_fill(x, x < alpha, 0)  # not F.threshold, which drops alpha itself
