"""GPTQ and SparseGPT on one linear layer, ours and coremltools': seconds and error of the layer's output.

    python benchmarks/layerwise.py              # 384 x 384, 1536 x 384, 4096 x 4096
    python benchmarks/layerwise.py --small      # without the last, of which coremltools takes minutes

Both get the same weight and the same correlated inputs. Seconds are of `add_batch` and `compress` of the algorithm's
class: statistics, compression and the buffers that `coremltools.convert` reads; the fastest run of ours and theirs
taken in turn. Processor seconds are of all cores together; they say more on a machine that others use too.
The error is relative: the squared change of the outputs over the squared outputs.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

SHAPES = ((384, 384), (1536, 384), (4096, 4096))
SAMPLES = 4096
LIBRARIES = ("corepress", "coremltools.optimize")
CONFIGS = {
    "GPTQ, 4 bits": {"algorithm": "gptq", "weight_dtype": "uint4"},
    "GPTQ, 4 bits, blocks of 32": {"algorithm": "gptq", "weight_dtype": "uint4", "block_size": 32},
    "GPTQ, normal float 4": {"algorithm": "gptq", "weight_dtype": "uint4", "enable_normal_float": True},
    "SparseGPT, 50 %": {"algorithm": "sparse_gpt", "weight_dtype": "float32"},
    "SparseGPT, 2:4": {"algorithm": "sparse_gpt", "weight_dtype": "float32", "n_m_ratio": (2, 4)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="leave out 4096 x 4096")
    logging.disable(logging.WARNING)
    shapes = SHAPES[:-1] if parser.parse_args().small else SHAPES
    table = Table(title="one linear layer", caption="seconds (processor seconds), relative error of the outputs")
    for header in ("rows x columns", "method", "ours", "coremltools", "times faster", "error / theirs"):
        table.add_column(header, justify="right")
    warm_up = linear(64, 64)
    for config in CONFIGS.values():
        measure("corepress", *warm_up, config)
    for shape in shapes:
        layer, inputs = linear(*shape)
        for name, config in CONFIGS.items():
            runs: dict[str, list[tuple[float, float, float]]] = {library: [] for library in LIBRARIES}
            for _ in range(1 if shape[0] > 2000 else 3):
                for library in LIBRARIES:
                    runs[library].append(measure(library, layer, inputs, config))
            ours, theirs = (min(runs[library]) for library in LIBRARIES)
            cells = [f"{seconds:.3f} ({processor:.3f}), {error:.6f}" for seconds, processor, error in (ours, theirs)]
            gains = f"{theirs[0] / ours[0]:.1f} ({theirs[1] / ours[1]:.1f})", f"{ours[2] / theirs[2]:.4f}"
            table.add_row(f"{shape[0]} x {shape[1]}", name, *cells, *gains)
    Console().print(table)


@torch.no_grad()
def linear(rows: int, columns: int) -> tuple[nn.Linear, Tensor]:
    """A layer with normal weights, and inputs whose channels go together in part."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=random) / columns**0.5 + 0.3 * torch.eye(columns)
    layer = nn.Linear(columns, rows, bias=False)
    layer.weight.copy_(torch.randn(rows, columns, generator=random) * 0.02)
    return layer, torch.randn(SAMPLES, columns, generator=random) @ mixing


@torch.no_grad()
def measure(library: str, layer: nn.Linear, inputs: Tensor, config: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds, processor seconds and relative error of one run on a copy of the layer."""
    algorithms = importlib.import_module(f"{library}.torch.layerwise_compression.algorithms")
    kind = algorithms.LayerwiseCompressionAlgorithmConfig.get_class(config["algorithm"])
    own = nn.Linear(layer.in_features, layer.out_features, bias=False)
    own.weight.copy_(layer.weight)
    wanted = layer(inputs)
    algorithm = algorithms.LayerwiseCompressionAlgorithm.get_class(config["algorithm"])(own, kind.from_dict(config))
    begin = time.perf_counter(), time.process_time()
    algorithm.add_batch(inputs, wanted)
    algorithm.compress()
    end = time.perf_counter(), time.process_time()
    error = float((own(inputs) - wanted).double().square().sum() / wanted.double().square().sum())
    return end[0] - begin[0], end[1] - begin[1], error


if __name__ == "__main__":
    main()
