"""One weight, the Hessian of its inputs and a configuration to a compressed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.hessian import Hessian
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian
from corepress.algorithms.fitted.sparsegpt import sparsegpt
from corepress.algorithms.lut import quantize_lut
from corepress.coreml.granularity import CompressionGranularity as Granularity
from corepress.coreml.palettize import Palettize
from corepress.coreml.prune import Prune
from corepress.coreml.quantize import Quantize
from corepress.weights import CompressedWeight, Quantized, Sparse

Array = NDArray[Any]


def fit(action: Any, value: Array | CompressedWeight, layout: Layout, hessian: Hessian) -> CompressedWeight | None:
    """`action`: what the plain method would do; `value`: the weight. None where only the plain method serves."""
    if isinstance(action, Quantize):
        return _quantized(action, value, layout, hessian)
    if not isinstance(value, np.ndarray):
        return None
    if isinstance(action, Palettize):
        return _palettized(action, value, layout, hessian)
    if isinstance(action, Prune):
        return _pruned(action, value, layout, hessian)
    return None


def _palettized(action: Palettize, value: Array, layout: Layout, hessian: Hessian) -> CompressedWeight | None:
    config = action.config
    output_axis = 1 if layout.transposed else 0
    if config.mode != "KMEANS" or config.enable_per_channel_scale or layout.groups > 1 or config.nbits is None:
        return None
    grouped = config.granularity is Granularity.PER_GROUPED_CHANNEL
    if grouped and config.channel_axis is not None and action.axis(value.ndim) != output_axis:
        return None
    form = palettize_by_hessian(
        layout.matrices(value)[0],
        hessian.matrix[0].numpy(),
        config.nbits,
        group_size=action.group_size(layout.rows) if grouped else 0,
        cluster_dim=config.cluster_dim,
    )
    lut_dtype: Any = config.lut_dtype
    form = form if lut_dtype is None else quantize_lut(form, None, lut_dtype)
    return layout.form([form])  # type: ignore[no-any-return]


def _quantized(
    action: Quantize, value: Array | CompressedWeight, layout: Layout, hessian: Hessian
) -> CompressedWeight | None:
    config = action.config
    mask = value.mask if isinstance(value, Sparse) else None
    dense = value.values if isinstance(value, Sparse) else value
    per_tensor = config.granularity is Granularity.PER_TENSOR
    if not isinstance(dense, np.ndarray) or (per_tensor and layout.groups > 1):
        return None
    block = None
    if config.granularity is Granularity.PER_BLOCK:
        if not isinstance(config.block_size, int):
            return None
        block = action.block_sizes(value.shape)[0 if layout.transposed else 1] * layout.elements
    forms = []
    for group, weight in enumerate(layout.matrices(dense)):
        kept = None if mask is None else torch.from_numpy(layout.matrices(mask)[group].copy())
        form = gptq(
            _tensor(weight),
            hessian.matrix[group],
            bits=4 if config.dtype.nbits == 4 else 8,
            symmetric=config.mode == "LINEAR_SYMMETRIC",
            per_tensor=per_tensor,
            block_size=block,
            by_activation=block is None,
            scale_search=config.scale_search,
            keep=kept,
            factor=hessian.factor(group, by_activation=block is None),
        )
        forms.append(_as_type(form, config.dtype.signed, config.mode == "LINEAR_SYMMETRIC"))
    whole = layout.form(forms)
    if per_tensor:  # every row has the same scale
        first = (slice(0, 1),) * len(value.shape)
        offset = None if whole.offset is None else whole.offset[first]
        whole = Quantized(whole.data, whole.scale[first], offset, bits=whole.bits)
    return whole if mask is None else Sparse(mask, whole)


def _as_type(form: Quantized, signed: bool, symmetric: bool) -> Quantized:
    """Levels 0 to 2**bits - 1 as signed numbers around zero, whose offset is zero if symmetric."""
    if not signed:
        return form
    assert isinstance(form.data, np.ndarray) and form.offset is not None
    middle = 2 ** (form.bits - 1)
    data, offset = ((part.astype(np.int16) - middle).astype(np.int8) for part in (form.data, form.offset))
    return Quantized(data, form.scale, None if symmetric else offset, bits=form.bits)


def _pruned(action: Prune, value: Array, layout: Layout, hessian: Hessian) -> CompressedWeight | None:
    config = action.config
    ratio, sparsity = getattr(config, "n_m_ratio", None), getattr(config, "target_sparsity", None)
    if (ratio is None and sparsity is None) or getattr(config, "block_size", None) is not None:
        return None
    if ratio is not None and (config.dim != 1 or layout.elements > 1 or layout.transposed):  # type: ignore[union-attr]
        return None
    forms = [
        sparsegpt(
            _tensor(weight),
            hessian.matrix[group],
            sparsity=sparsity or 0.0,
            n_m_ratio=ratio,
            factor=hessian.factor(group),
        )
        for group, weight in enumerate(layout.matrices(value))
    ]
    return layout.form(forms)  # type: ignore[no-any-return]


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))
