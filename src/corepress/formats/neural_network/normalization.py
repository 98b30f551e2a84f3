"""Convolutions of which compression leaves too little, by themselves or amplified by the batch norm behind them.

A batch norm divides by the square root of a variance. Where that is nearly 0, because the values of a kernel cancel
each other out on what they see, a small change of the variance or of the kernel becomes a large one of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import CorepressError
from corepress.formats.neural_network.layers import LayerWeight

Array = NDArray[Any]

_EPSILON = 1e-5  # what the format means by 0
# Of the energy of a layer's outputs: noise above this part, 10 dB below them, is reported.
_NOISE = 0.1


def is_statistic(weight: LayerWeight) -> bool:
    """Whether a weight is a scale, shift, mean or variance of a batch norm."""
    return weight.layer_type == "batchnorm"


@dataclass(frozen=True)
class Endangered:
    """A convolution whose outputs hold `noise`, as part of their energy, by the rounding of its weight.

    `norm`: the name of the batch norm behind it that amplifies it, or empty where the kernels themselves are so
    different that some are lost.
    """

    name: str
    norm: str
    noise: float


def endangered(before: list[LayerWeight], after: list[LayerWeight]) -> Iterator[Endangered]:
    """The convolutions of which too little is left; all weights of a model, and those of what was made of it."""
    norms = _norms(before)
    for old, new in zip(before, after, strict=True):
        if old.layer_type != "convolution" or old.field != "weights" or old.params == new.params:
            continue
        if old.layer.convolution.isDeconvolution or not (old.layer.output and old.shape[0]):
            continue
        norm = norms.get(old.layer.output[0])
        depthwise = old.layer.convolution.kernelChannels == 1 and old.layer.convolution.nGroups > 1
        if norm is None and not depthwise:
            continue
        try:
            rows, changed = (weight.dense().reshape(old.shape[0], -1).astype(np.float64) for weight in (old, new))
            noise = _noise(rows, changed - rows, None if norm is None else _amplification(norm))
        except CorepressError:
            continue  # a damaged weight has its own warning
        if noise > _NOISE:
            yield Endangered(old.layer.name, "" if norm is None else norm["variance"].layer.name, noise)


def _norms(weights: list[LayerWeight]) -> dict[str, Mapping[str, LayerWeight]]:
    """The weights of each batch norm by their fields, by the name of the value that it reads."""
    found: dict[str, dict[str, LayerWeight]] = {}
    for weight in weights:
        if is_statistic(weight) and weight.layer.input:
            found.setdefault(weight.layer.input[0], {})[weight.field] = weight
    return {name: fields for name, fields in found.items() if "variance" in fields}


def _amplification(norm: Mapping[str, LayerWeight]) -> tuple[Array, Array]:
    """What a batch norm divides each channel by, and multiplies it with then."""
    epsilon = norm["variance"].layer.batchnorm.epsilon or _EPSILON
    deviations = np.sqrt(np.abs(norm["variance"].dense().astype(np.float64)) + epsilon)
    return deviations, norm["gamma"].dense().astype(np.float64) if "gamma" in norm else np.ones_like(deviations)


def _noise(rows: Array, errors: Array, norm: tuple[Array, Array] | None) -> float:
    """The energy of the error as part of that of the outputs.

    `rows`: a kernel each. What the kernels see is unknown: it is taken to be of one size for all of them, that which
    explains the deviations of most outputs. Without a norm all kernels count alike.
    """
    size, error = np.linalg.norm(rows, axis=1), np.linalg.norm(errors, axis=1)
    alive = size > 0
    if not alive.any():
        return 0.0
    if norm is None or norm[0].shape != size.shape or norm[1].shape != size.shape:
        return float(np.mean((error[alive] / size[alive]) ** 2))
    deviations, gamma = norm
    seen = np.median(deviations[alive] / size[alive])
    energy = float((gamma[alive] ** 2).sum())
    return float(((gamma * error * seen / deviations)[alive] ** 2).sum()) / energy if energy else 0.0
