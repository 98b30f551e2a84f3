"""Small networks of PyTorch that coremltools converts, between whose layers factors of channels can move, or can't."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

C, SIDE = 16, 8  # coremltools stores fewer than 10 numbers in place, not as a weight


class Convolutions(nn.Module):
    """Padding, a depthwise convolution, a residual, a gate, and a linear layer behind pooling."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.stem, self.function = nn.Conv2d(4, C, 1), function
        self.deep = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(C, C, 2, groups=C), function)
        self.narrow, self.gate = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1)
        self.pool, self.head = nn.AvgPool2d(SIDE), nn.Linear(C, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.stem(x))
        x = x + self.narrow(self.deep(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(self.pool(x).flatten(1))


class Attention(nn.Module):
    """A norm that a linear layer alone reads, and an attention, of one operation if `fused`, with a residual around it;
    `length`: of its inputs."""

    def __init__(self, fused: bool = False, length: int = 16) -> None:
        super().__init__()
        self.fused, self.length = fused, length
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v, self.out, self.first = (nn.Linear(16, 16) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(x.reshape(1, self.length, 16)))
        q, k, v = (one(x).reshape(1, self.length, 4, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(1, self.length, 16))


class Gains(nn.Module):
    """A norm by the root of the mean square, whose gain a product of matrices reads, and that of it another."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(16))
        self.first, self.second = nn.Parameter(torch.ones(16, 32)), nn.Parameter(torch.ones(32, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(1, 16, 16)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * self.gain
        return torch.relu(x @ self.first) @ self.second


class Closed(nn.Module):
    """Values that something else reads: an output, GELU, one weight for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x.reshape(1, 4, 64)))
        y = nn.functional.gelu(self.b(x))
        return x, self.c(self.c(y))


def package(net: nn.Module, folder: Path, half: bool = False, spread: float = 3, lengths: int = 0) -> Path:
    """A package of a network with random weights, whose channels differ by some 2**`spread`. `lengths`: the most that
    the last but one axis of a network for vectors may have; 0 for one that takes pictures."""
    import coremltools as ct

    shape = (1, 16, 16) if lengths else (1, 4, SIDE, SIDE)
    flexible = (1, ct.RangeDim(1, lengths, default=16), 16) if lengths else shape

    torch.manual_seed(0)
    for parameter in net.parameters():
        sizes = torch.exp2(spread * torch.randn(parameter.shape[0])).clamp(1 / 64, 8)
        parameter.data = 0.3 * torch.randn_like(parameter) * sizes.reshape(-1, *[1] * (parameter.dim() - 1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            torch.jit.trace(net.eval(), torch.zeros(shape)),
            inputs=[ct.TensorType("x", flexible)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    path = folder / "net.mlpackage"
    model.save(str(path))
    return path


def samples(count: int, seed: int = 0, shape: tuple[int, ...] = (1, 4, SIDE, SIDE)) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]
