"""Which values of a weight to keep, by magnitude, on the weight's own device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corepress.errors import ConfigError


def magnitude_mask(weight: Tensor, sparsity: float, block_size: int = 1, granularity: str = "per_scalar") -> Tensor:
    """True where a value stays, so that the fraction `sparsity` of all goes; equal ones at the limit stay.

    `weight`: floating point, rank 1 to 5. `block_size`: whole blocks of that many output channels (axis 0) go, by their
    Euclidean norms; the last may be shorter. `granularity`: "per_kernel" and "per_channel" judge, from rank 3 on, whole
    kernels or output channels by their norms. The mask has the weight's rank, and ones for the axes that it spans.
    """
    sizes = weight.detach().abs().float()
    if weight.ndim > 2 and granularity != "per_scalar":
        if granularity not in ("per_kernel", "per_channel"):
            raise ConfigError(f'granularity "{granularity}" is for matrices: it does not fit {tuple(weight.shape)}')
        sizes = sizes.square().sum(list(range(2 if granularity == "per_kernel" else 1, weight.ndim)), True).sqrt()
    if block_size > 1:
        sizes = _block_norms(sizes, block_size)
    kept = math.ceil(sizes.numel() * (1 - sparsity) - 1e-6)
    if kept == 0:
        return torch.zeros_like(sizes, dtype=torch.bool)
    return sizes >= sizes.flatten().kthvalue(sizes.numel() - kept + 1).values


def _block_norms(sizes: Tensor, block_size: int) -> Tensor:
    """The norm of each element's block of neighbours on axis 0."""
    channels = len(sizes)
    padding = sizes.new_zeros(-channels % block_size, *sizes.shape[1:])
    blocks = torch.cat([sizes, padding]).reshape(-1, block_size, *sizes.shape[1:])
    return blocks.square().sum(dim=1).sqrt().repeat_interleave(block_size, dim=0)[:channels]


def n_m_mask(weight: Tensor, zeros: int, m: int, dim: int = 1) -> Tensor:
    """False for the `zeros` smallest of each `m` neighbours on axis `dim` (0 or 1); of equal ones for the first.

    `weight`: floating point, rank 2 to 5. Where `m` does not divide the axis, its end is filled up with zeros.
    """
    if dim not in (0, 1) or not 2 <= weight.ndim <= 5:
        raise ConfigError(f"n:m sparsity runs along axis 0 or 1 of a weight of rank 2 to 5, not along {dim}")
    sizes = weight.detach().abs().float().movedim(dim, -1)
    channels = sizes.shape[-1]
    groups = torch.nn.functional.pad(sizes, (0, -channels % m)).reshape(*sizes.shape[:-1], -1, m)
    order = groups.argsort(dim=-1, stable=True)
    mask = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, order[..., :zeros], False)
    return mask.flatten(-2)[..., :channels].movedim(-1, dim).contiguous()
