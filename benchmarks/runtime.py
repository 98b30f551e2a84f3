"""How fast the runtime is: products with packed weights beside PyTorch's, and the executor beside PyTorch eager.

    python benchmarks/runtime.py

"fp32" is `torch.matmul` with a dense weight; times are the best of several, in milliseconds, on the cores that PyTorch
uses.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from corepress.runtime import load
from corepress.runtime.packed import Packed, pack
from corepress.weights import Palettized, Quantized

SHAPES = ((4096, 4096), (11008, 4096))
RUNS = 15


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console()
    with torch.no_grad():
        console.print(products())
        console.print(executor())


def products() -> Table:
    table = Table("weight", "batch", "fp32", "int4, blocks of 32", "4-bit LUT", "int8", title="products, ms")
    for rows, columns in SHAPES:
        dense = torch.randn(rows, columns)
        weights = [int4(rows, columns), lut4(rows, columns), int8(rows, columns)]
        for batch in (1, 32):
            x = torch.randn(batch, columns)
            base = best(lambda x=x, dense=dense: torch.matmul(x, dense.T))
            cells = [best(lambda x=x, weight=weight: weight(x)) for weight in weights]
            shown = [f"{seconds * 1e3:.2f} ({base / seconds:.1f}x)" for seconds in cells]
            table.add_row(f"{rows} x {columns}", str(batch), f"{base * 1e3:.2f}", *shown)
    for weight in weights:
        size = sum(buffer.nbytes for buffer in weight.buffers()) / (2 * weight.rows * weight.columns)
        table.caption = f"{table.caption or 'of the memory of fp16:'} {size:.3f}"
    return table


def int4(rows: int, columns: int) -> Packed:
    data = np.random.default_rng(0).integers(-8, 8, (rows, columns), dtype=np.int8)
    return packed(Quantized(data, np.full((rows, columns // 32), 0.01, np.float16), bits=4))


def int8(rows: int, columns: int) -> Packed:
    data = np.random.default_rng(0).integers(-128, 128, (rows, columns), dtype=np.int8)
    return packed(Quantized(data, np.full((rows, 1), 0.01, np.float16)))


def lut4(rows: int, columns: int) -> Packed:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 16, (rows, columns), dtype=np.uint8)
    return packed(Palettized(indices, rng.normal(size=(1, 1, 16, 1)).astype(np.float16)))


def packed(weight: Palettized | Quantized) -> Packed:
    result = pack(weight, torch.float16)
    assert result is not None
    return result


def executor() -> Table:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the networks of the tests
    from tests.runtime.zoo import Layer, Residual

    resnet = nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(32, 64, 1), Residual(64, 128, 2),
        Residual(128, 256, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 1000),
    )  # fmt: skip
    transformer = nn.Sequential(*(Layer(256) for _ in range(6)))
    table = Table("network", "PyTorch eager", "our runtime", "overhead", title="ahead of time, fp32, ms")
    for name, model, x in (
        ("ResNet-like, 224 x 224", resnet, torch.randn(1, 3, 224, 224)),
        ("transformer, 6 layers of 256, 64 tokens", transformer, torch.randn(1, 64, 256)),
    ):
        module = converted(model.eval(), x)
        eager = best(lambda model=model, x=x: model(x))
        ours = best(lambda module=module, x=x: module(x))
        table.add_row(name, f"{eager * 1e3:.2f}", f"{ours * 1e3:.2f}", f"{ours / eager - 1:+.0%}")
    return table


def converted(model: nn.Module, x: torch.Tensor) -> Any:
    import coremltools as ct

    program = ct.convert(
        torch.jit.trace(model, x, check_trace=False),
        inputs=[ct.TensorType("x", x.shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mlpackage"
        program.save(str(path))
        return load(path).module


def best(work: Callable[[], Any]) -> float:
    for _ in range(3):
        work()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
