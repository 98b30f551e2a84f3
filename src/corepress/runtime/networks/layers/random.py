"""The layers that draw numbers. With a seed of 0 or more a draw is the same each time."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime.networks.registry import integers, layer
from corepress.runtime.ops import random
from corepress.runtime.registry import Ints


def _normal(shape: Ints, like: Tensor, mean: float, deviation: float, seed: int) -> Tensor:
    return random.random_normal(shape, like.new_tensor(mean), like.new_tensor(deviation), seed)


@layer
def randomNormalLike(x: Tensor, *, mean: float, stdDev: float, seed: int) -> Tensor:
    return _normal(x.shape, x, mean, stdDev, seed)


@layer
def randomNormalStatic(*, empty: Tensor, mean: float, stdDev: float, seed: int, outputShape: Ints) -> Tensor:
    return _normal(outputShape, empty, mean, stdDev, seed)


@layer
def randomNormalDynamic(shape: Tensor, *, mean: float, stdDev: float, seed: int) -> Tensor:
    return _normal(integers(shape), shape, mean, stdDev, seed)


def _uniform(shape: Ints, like: Tensor, low: float, high: float, seed: int) -> Tensor:
    return random.random_uniform(shape, like.new_tensor(low), like.new_tensor(high), seed)


@layer
def randomUniformLike(x: Tensor, *, minVal: float, maxVal: float, seed: int) -> Tensor:
    return _uniform(x.shape, x, minVal, maxVal, seed)


@layer
def randomUniformStatic(*, empty: Tensor, minVal: float, maxVal: float, seed: int, outputShape: Ints) -> Tensor:
    return _uniform(outputShape, empty, minVal, maxVal, seed)


@layer
def randomUniformDynamic(shape: Tensor, *, minVal: float, maxVal: float, seed: int) -> Tensor:
    return _uniform(integers(shape), shape, minVal, maxVal, seed)


@layer
def randomBernoulliLike(x: Tensor, *, prob: float, seed: int) -> Tensor:
    return random.random_bernoulli(x.shape, x.new_tensor(prob), seed)


@layer
def randomBernoulliStatic(*, empty: Tensor, prob: float, seed: int, outputShape: Ints) -> Tensor:
    return random.random_bernoulli(outputShape, empty.new_tensor(prob), seed)


@layer
def randomBernoulliDynamic(shape: Tensor, *, prob: float, seed: int) -> Tensor:
    return random.random_bernoulli(integers(shape), shape.new_tensor(prob), seed)


@layer
def categoricalDistribution(
    x: Tensor, *, numSamples: int, isLogits: bool = False, eps: float = 1e-10, temperature: float = 1.0, seed: int
) -> Tensor:
    """`numSamples` indices of classes, which lie in the last dimension; `eps` keeps the logarithm of 0 finite."""
    logits = x.float() if isLogits else (x.float() + eps).log()
    drawn = random.random_categorical(torch.softmax(logits / temperature, -1), "probs", numSamples, seed)
    return drawn.to(x.dtype)
