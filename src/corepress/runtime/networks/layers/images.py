"""The older layers, which work on channels, height and width."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.networks.registry import LAYERS, layer, on_images
from corepress.runtime.ops import (
    conv,
    image_resizing,
    linear,
    normalization,
    pool,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
)
from corepress.runtime.registry import Floats, Ints

Binary = Callable[[Tensor, Tensor], Tensor]


def _edges(amounts: SimpleNamespace | None) -> list[int]:
    """Top, bottom, left, right of a `BorderAmounts`."""
    edges = amounts.borderAmounts if amounts is not None else []
    return [size for edge in edges for size in (edge.startEdgeSize, edge.endEdgeSize)] or [0, 0, 0, 0]


def _padding(valid: SimpleNamespace | None, same: SimpleNamespace | None) -> tuple[str, list[int]]:
    """`pad_type` and `pad` as the operations of MIL take them."""
    if same is not None:
        return "same" if same.asymmetryMode == "BOTTOM_RIGHT_HEAVY" else "same_lower", [0, 0, 0, 0]
    return "custom", _edges(valid and valid.paddingAmounts)


@layer
def convolution(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    *,
    nGroups: int = 1,
    stride: Ints = (1, 1),
    dilationFactor: Ints = (1, 1),
    valid: SimpleNamespace | None = None,
    same: SimpleNamespace | None = None,
    isDeconvolution: bool = False,
    outputShape: Ints | None = None,
) -> Tensor:
    pad_type, pad = _padding(valid, same)
    if not isDeconvolution:
        return on_images(lambda x: conv.conv(x, weights, bias, stride, pad_type, pad, dilationFactor, nGroups), x)
    if pad_type == "same_lower":
        raise ValueError("a transposed convolution that cuts more from the top and left is not supported")
    return on_images(
        lambda x: conv.conv_transpose(x, weights, bias, pad, outputShape, pad_type, stride, dilationFactor, nGroups), x
    )


@layer
def pooling(
    x: Tensor,
    *,
    type: str,
    kernelSize: Ints = (3, 3),
    stride: Ints = (1, 1),
    valid: SimpleNamespace | None = None,
    same: SimpleNamespace | None = None,
    includeLastPixel: SimpleNamespace | None = None,
    avgPoolExcludePadding: bool = False,
    globalPooling: bool = False,
) -> Tensor:
    if globalPooling:
        return _GLOBAL_POOLS[type](x, (-2, -1), True)
    pad_type, pad = _padding(valid, same)
    ceil = includeLastPixel is not None
    if includeLastPixel is not None:
        high, wide = includeLastPixel.paddingAmounts or (0, 0)
        pad = [high, high, wide, wide]
    if type == "AVERAGE":
        return on_images(lambda x: pool.avg_pool(x, kernelSize, pad_type, stride, pad, avgPoolExcludePadding, ceil), x)
    function = pool.max_pool if type == "MAX" else pool.l2_pool
    return on_images(lambda x: function(x, kernelSize, pad_type, stride, pad, ceil), x)


_GLOBAL_POOLS = {"MAX": reduction.reduce_max, "AVERAGE": reduction.reduce_mean, "L2": reduction.reduce_l2_norm}


@layer
def innerProduct(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dim() < 4:
        return linear.linear(x, weights, bias)
    return linear.linear(x.flatten(-3), weights, bias)[..., None, None]


@layer
def embedding(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    return embeddingND(x.flatten(-3), weights, bias)[..., None, None]


@layer
def embeddingND(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = scatter_gather.gather(weights.T, x.squeeze(-1))
    return rows if bias is None else rows + bias


# Normalization.


@layer
def batchnorm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    *,
    computeMeanVar: bool = False,
    instanceNormalization: bool = False,
    epsilon: float = 1e-5,
) -> Tensor:
    if computeMeanVar and instanceNormalization:
        return on_images(lambda x: normalization.instance_norm(x, gamma, beta, epsilon), x)
    if computeMeanVar or mean is None or variance is None:
        return on_images(lambda x: F.batch_norm(x, None, None, gamma, beta, True, eps=epsilon), x)
    return on_images(lambda x: normalization.batch_norm(x, mean, variance, gamma, beta, epsilon), x)


@layer
def mvn(x: Tensor, *, acrossChannels: bool = False, normalizeVariance: bool = False, epsilon: float = 1e-5) -> Tensor:
    axes = (-3, -2, -1) if acrossChannels else (-2, -1)
    return normalization.layer_norm(x, axes, epsilon=epsilon) if normalizeVariance else x - x.mean(axes, keepdim=True)


LAYERS["l2normalize"] = normalization.l2_norm


@layer
def lrn(x: Tensor, *, alpha: float, beta: float, localSize: int, k: float = 1.0) -> Tensor:
    return normalization.local_response_norm(x, localSize, alpha, beta, k)


@layer
def crop(
    x: Tensor, like: Tensor | None = None, *, cropAmounts: SimpleNamespace | None = None, offset: Ints = (0, 0)
) -> Tensor:
    if like is not None:
        (top, left), (height, width) = offset, like.shape[-2:]
        return x[..., top : top + height, left : left + width]
    top, bottom, left, right = _edges(cropAmounts)
    return image_resizing.crop(x, (top, bottom), (left, right))


@layer
def padding(
    x: Tensor,
    *,
    constant: SimpleNamespace | None = None,
    reflection: SimpleNamespace | None = None,
    replication: SimpleNamespace | None = None,
    paddingAmounts: SimpleNamespace | None = None,
) -> Tensor:
    mode = "reflect" if reflection is not None else "replicate" if replication is not None else "constant"
    return tensor_operation.pad(x, _edges(paddingAmounts), mode, constant.value if constant is not None else 0.0)


@layer
def upsample(
    x: Tensor,
    *,
    mode: str,
    linearUpsampleMode: str,
    scalingFactor: Ints = (1, 1),
    fractionalScalingFactor: Floats | None = None,
) -> Tensor:
    height, width = fractionalScalingFactor or scalingFactor
    if mode == "NN":
        return image_resizing.upsample_nearest_neighbor(x, height, width)
    align, centers = linearUpsampleMode == "ALIGN_CORNERS_TRUE", linearUpsampleMode == "ALIGN_CORNERS_FALSE"
    return on_images(lambda x: image_resizing.upsample_bilinear(x, height, width, align, centers), x)


_GRIDS = {
    "STRICT_ALIGN_ENDPOINTS_MODE": "STRICT_ALIGN_CORNERS",
    "ALIGN_ENDPOINTS_MODE": "ALIGN_CORNERS",
    "UPSAMPLE_MODE": "DEFAULT",
    "ROI_ALIGN_MODE": "OFFSET_CORNERS",
}


def _grid(mode: SimpleNamespace | None) -> str:
    """The sampling mode as the operations of MIL call it."""
    return _GRIDS[mode.samplingMethod if mode is not None else "STRICT_ALIGN_ENDPOINTS_MODE"]


@layer
def resizeBilinear(x: Tensor, *, targetSize: Ints = (1, 1), mode: SimpleNamespace | None = None) -> Tensor:
    height, width = targetSize
    return on_images(lambda x: image_resizing.resize_bilinear(x, height, width, _grid(mode)), x)


@layer
def cropResize(
    x: Tensor,
    boxes: Tensor,
    *,
    targetSize: Ints = (1, 1),
    normalizedCoordinates: bool = False,
    mode: SimpleNamespace | None = None,
    boxIndicesMode: SimpleNamespace | None = None,
    spatialScale: float = 1.0,
) -> Tensor:
    """Parts of images [1, batch, channels, height, width], by boxes [n, 1, 4 or 5, 1, 1]: see `image_resizing`."""
    if x.dim() != 5 or x.shape[0] != 1:
        raise ValueError(f"images of the shape [1, batch, channels, height, width] are needed, not {tuple(x.shape)}")
    height, width = targetSize
    return image_resizing.crop_resize(
        x[0], boxes, target_height=height, target_width=width, normalized_coordinates=normalizedCoordinates,
        spatial_scale=spatialScale, sampling_mode=_grid(mode),
        box_coordinate_mode=boxIndicesMode.boxMode if boxIndicesMode is not None else "CORNERS_HEIGHT_FIRST",
    )  # fmt: skip


@layer
def reorganizeData(x: Tensor, *, mode: str, blockSize: int) -> Tensor:
    function = {
        "SPACE_TO_DEPTH": tensor_transformation.space_to_depth,
        "DEPTH_TO_SPACE": tensor_transformation.depth_to_space,
        "PIXEL_SHUFFLE": tensor_transformation.pixel_shuffle,
    }[mode]
    return on_images(lambda x: function(x, blockSize), x)
