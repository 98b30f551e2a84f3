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
    """A norm that a linear layer alone reads, and an attention with a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v, self.out, self.first = (nn.Linear(16, 16) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(x.reshape(1, 16, 16)))
        q, k, v = (one(x).reshape(1, 16, 4, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(1, 16, 16))


class Closed(nn.Module):
    """Values that something else reads: an output, GELU, one weight for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x.reshape(1, 4, 64)))
        y = nn.functional.gelu(self.b(x))
        return x, self.c(self.c(y))


def package(net: nn.Module, folder: Path, half: bool = False, spread: float = 3) -> Path:
    import coremltools as ct

    torch.manual_seed(0)
    for parameter in net.parameters():
        sizes = torch.exp2(spread * torch.randn(parameter.shape[0])).clamp(1 / 64, 8)
        parameter.data = 0.3 * torch.randn_like(parameter) * sizes.reshape(-1, *[1] * (parameter.dim() - 1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            torch.jit.trace(net.eval(), torch.zeros(1, 4, SIDE, SIDE)),
            inputs=[ct.TensorType("x", (1, 4, SIDE, SIDE))],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    path = folder / "net.mlpackage"
    model.save(str(path))
    return path


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0, 1, (1, 4, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]
