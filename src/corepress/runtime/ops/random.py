"""Random tensors. With a seed of 0 or more a draw is the same each time and on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.registry import Ints, operation


def _draw(sample: Callable[..., Tensor], shape: Ints, seed: int, device: torch.device) -> Tensor:
    """`sample` (torch.rand or torch.randn) in float32: its fp16 form on a CPU has only 2,048 different values."""
    limits.check(*shape)
    if seed < 0:
        return sample(list(shape), dtype=torch.float32, device=device)
    generator = torch.Generator("cpu").manual_seed(seed)
    return sample(list(shape), dtype=torch.float32, device="cpu", generator=generator).to(device)


def _parameters(first: Tensor | None, second: Tensor | None, defaults: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Both parameters of a distribution; the one that is given sets the type of the other."""
    like = next((given for given in (first, second) if given is not None), torch.zeros(()))
    low, high = (
        given if given is not None else torch.full_like(like, default)
        for given, default in zip((first, second), defaults, strict=True)
    )
    return low, high


@operation
def random_bernoulli(shape: Ints, prob: Tensor | None = None, seed: int = -1) -> Tensor:
    p = torch.tensor(0.5) if prob is None else prob
    return (_draw(torch.rand, shape, seed, p.device) < p).to(p.dtype)


@operation
def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    probabilities = torch.softmax(x.float(), -1) if mode == "logits" else x.float()
    cumulative = torch.cumsum(probabilities, -1)
    total = cumulative[..., -1:].contiguous()
    drawn = _draw(torch.rand, [*x.shape[:-1], size], seed, x.device) * total
    # Strictly to the right: a category without probability is never drawn; nor is one past the last that has some,
    # where rounding makes the draw the total itself.
    last = torch.searchsorted(cumulative, total)
    return torch.minimum(torch.searchsorted(cumulative, drawn, right=True), last).to(x.dtype)


@operation
def random_normal(shape: Ints, mean: Tensor | None = None, stddev: Tensor | None = None, seed: int = -1) -> Tensor:
    center, width = _parameters(mean, stddev, (0.0, 1.0))
    return (center + width * _draw(torch.randn, shape, seed, center.device)).to(center.dtype)


@operation
def random_uniform(shape: Ints, low: Tensor | None = None, high: Tensor | None = None, seed: int = -1) -> Tensor:
    start, end = _parameters(low, high, (0.0, 1.0))
    drawn = (start + (end - start) * _draw(torch.rand, shape, seed, start.device)).to(start.dtype)
    return torch.where(drawn < end, drawn, start)  # `end` itself may come of rounding, but is excluded
