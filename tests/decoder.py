"""A small language model with a cache of keys and values, as a package, and sequences as an app runs it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.runtime.zoo import CachedGpt

CONTEXT, WORDS = 24, 100


def network() -> CachedGpt:
    """The model in PyTorch, with an empty cache."""
    torch.manual_seed(0)
    model = CachedGpt(context=CONTEXT).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.qkv.weight.mul_(3)  # so that the tokens before count
    return model


def package(folder: Path, tokens: int = 8) -> Path:
    """The model as a package, which takes up to so many `tokens` in a step."""
    import coremltools as ct

    several = ct.RangeDim(1, tokens, 1)
    inputs = [
        ct.TensorType("ids", (1, several), dtype=np.int32),
        ct.TensorType("mask", (1, 1, several, ct.RangeDim(1, CONTEXT, 1)), dtype=np.float32),
    ]
    example = (torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 1, 2, 5))
    return _saved(network(), inputs, example, folder / "decoder.mlpackage")


class Summing(nn.Module):
    """Attention without a softmax (Katharopoulos et al. 2020, arXiv 2006.16236): its state is a sum over all words."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.words, self.qkv = nn.Embedding(WORDS, width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, WORDS)
        self.register_buffer("memory", torch.zeros(width, width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)[:, 0]
        q, k, v = self.qkv(x).chunk(3, -1)
        self.memory[:] = self.memory + (F.elu(k) + 1).T @ v
        return self.head(self.out((F.elu(q) + 1) @ self.memory))


def summing(folder: Path) -> Path:
    """A package whose numbers grow from word to word; it takes one in a step."""
    import coremltools as ct

    torch.manual_seed(0)
    inputs = [ct.TensorType("ids", (1, 1), dtype=np.int32)]
    return _saved(Summing().eval(), inputs, (torch.zeros(1, 1, dtype=torch.int32),), folder / "summing.mlpackage")


def _saved(model: nn.Module, inputs: list[Any], example: tuple[Tensor, ...], path: Path) -> Path:
    import coremltools as ct

    states = [ct.StateType(ct.TensorType(shape=b.shape, dtype=np.float16), name) for name, b in model.named_buffers()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(model, example, check_trace=False),
            inputs=inputs,
            outputs=[ct.TensorType("logits", dtype=np.float32)],
            states=states,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    converted.save(str(path))
    return path


def steps(words: np.ndarray, prefill: int = 4) -> list[dict[str, Any]]:
    """A text as the app runs it: the first words at once, then one after the other."""
    found, end = [], 0
    for count in (prefill, *[1] * (len(words) - prefill)):
        end += count
        seen = np.arange(end) <= np.arange(end - count, end)[:, None]
        mask = np.where(seen, 0.0, -1e4).astype(np.float32)[None, None]
        found.append({"ids": words[None, end - count : end].astype(np.int32), "mask": mask})
    return found


def sequences(count: int, length: int = 12, seed: int = 0, prefill: int = 4) -> list[list[dict[str, Any]]]:
    """Texts of random words."""
    rng = np.random.default_rng(seed)
    return [steps(rng.integers(0, WORDS, length), prefill) for _ in range(count)]


def answers(model: CachedGpt, sequence: list[dict[str, Any]]) -> list[np.ndarray]:
    """What the model in PyTorch answers to each step, from an empty cache."""
    for buffer in model.buffers():
        buffer.zero_()
    with torch.no_grad():
        return [model(torch.tensor(step["ids"]), torch.tensor(step["mask"])).numpy() for step in sequence]
