"""Normalization; all but the last rounding is in float32, also for fp16."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime import limits
from corepress.runtime.registry import Ints, operation


@operation
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    gamma, beta = (None if part is None else part.float() for part in (gamma, beta))
    return F.batch_norm(x, mean.float(), variance.float(), gamma, beta, eps=epsilon)


@operation
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    # Not F.instance_norm, which refuses a single element.
    gamma, beta = _like(x, gamma), _like(x, beta)
    return torch.group_norm(x, x.shape[1], gamma, beta, epsilon)


@operation
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    wide = x.float()
    length = (wide.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()
    return (wide / length).to(x.dtype)


@operation
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    chosen = sorted({axis % x.dim() for axis in axes}) if axes is not None else list(range(x.dim()))
    if chosen == list(range(x.dim() - len(chosen), x.dim())):
        return F.layer_norm(x, x.shape[chosen[0] :], _like(x, gamma), _like(x, beta), epsilon)
    order = [axis for axis in range(x.dim()) if axis not in chosen] + chosen
    shape = [x.shape[axis] for axis in chosen]
    y = F.layer_norm(x.permute(order), shape, _like(x, gamma), _like(x, beta), epsilon)
    return y.permute([order.index(axis) for axis in range(x.dim())])


@operation
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    # Along axis -3: of rank 3 not the documented channels but, in coremltools' own tests, the first axis.
    images = x.float().reshape(-1, *x.shape[-3:])
    limits.check(len(images), x.shape[-3] + size, *x.shape[-2:])
    return F.local_response_norm(images, size, alpha, beta, k).reshape(x.shape).to(x.dtype)


def _like(x: Tensor, parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
