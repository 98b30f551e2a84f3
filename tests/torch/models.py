"""Small models of each kind of module that can be compressed, each with an input for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import corepress.torch as cpt


class Conv1D(nn.Module):
    """A linear layer as GPT-2 of Hugging Face has it, with its weight as (in, out)."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


# Each with the shape of its input.
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(32, 16), (2, 32)),
    "Conv1d": (lambda: nn.Conv1d(16, 8, 3), (1, 16, 8)),
    "Conv2d": (lambda: nn.Conv2d(16, 8, 3), (1, 16, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(16, 8, 3), (1, 16, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(16, 8, 3), (1, 16, 8)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(16, 8, 3), (1, 16, 6, 6)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(16, 8, 3), (1, 16, 4, 4, 4)),
    "Embedding": (lambda: nn.Embedding(32, 16), (3,)),
    "MultiheadAttention": (Attention, (1, 4, 16)),
    "Conv1D": (lambda: Conv1D(16, 32), (2, 32)),
}
METHODS: dict[str, tuple[Any, Any]] = {
    "palettize": (cpt.palettization.PostTrainingPalettizer, cpt.palettization.PostTrainingPalettizerConfig),
    "quantize": (cpt.quantization.PostTrainingQuantizer, cpt.quantization.PostTrainingQuantizerConfig),
}


def make(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    build, shape = KINDS[kind]
    x = torch.randint(0, 32, shape, dtype=torch.int32) if kind == "Embedding" else torch.randn(shape)
    return nn.Sequential(build()).eval(), x


def optimizer(method: str, model: nn.Module, **options: Any) -> Any:
    """The method with these options for every module."""
    cls, config = METHODS[method]
    return cls(model, config.from_dict({"global_config": options}))


def compress(method: str, model: nn.Module, inplace: bool = False, **options: Any) -> nn.Module:
    compressed: nn.Module = optimizer(method, model, **options).compress(inplace=inplace)
    return compressed


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
