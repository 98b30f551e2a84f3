"""Attention (iOS18)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.registry import operation


@operation
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if key.shape[-2] != value.shape[-2]:  # which PyTorch does not always look at, and reads beyond the end
        raise ValueError(f"there are {key.shape[-2]} keys, but {value.shape[-2]} values")
    if attn_mask is not None:
        attn_mask = attn_mask if attn_mask.dtype == torch.bool else attn_mask.to(query.dtype)
        attn_mask = attn_mask if attn_mask.dim() > 1 else attn_mask.unsqueeze(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
