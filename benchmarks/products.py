"""How fast products with packed weights are, beside `torch.matmul` with a dense float32 weight.

    python benchmarks/products.py

A language model goes through all its layers for each token, so its weights come from memory, not from a cache. "cycled"
goes through distinct weights whose float32 forms take 2 GB together; "in cache" takes one weight again and again, which
flatters float32 where a cache holds 64 MB. Times are for one product, in milliseconds, on the cores that PyTorch uses:
the mean over the weights of the best time of each.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from corepress.runtime.packed import Packed, pack
from corepress.weights import Palettized, Quantized

SHAPES = ((4096, 4096), (11008, 4096))
CYCLED = 2 << 30  # bytes of the float32 forms
ROUNDS = 7

rng = np.random.default_rng(0)


def main() -> None:
    console = Console()
    with torch.no_grad():
        for rows, columns in SHAPES:
            console.print(products(rows, columns))


def products(rows: int, columns: int) -> Table:
    one = {
        "int4, blocks of 32": integers(rows, columns, 4, 32),
        "int8": integers(rows, columns, 8, columns),
        **{f"{bits}-bit LUT": lookup(rows, columns, bits) for bits in (3, 4, 6, 8)},
    }
    dense = torch.randn(rows, columns)
    table = Table("tokens", "weights", "fp32", *one, title=f"{rows} x {columns}: ms a product")
    for tokens in (1, 32):
        x = torch.randn(tokens, columns)
        for where, count in (("in cache", 1), ("cycled", CYCLED // dense.nbytes)):
            every: list[list[Any]] = [[dense.clone() for _ in range(count)]]
            every += [[copy.deepcopy(weight) for _ in range(count)] for weight in one.values()]
            base, *others = best(every, x)
            shown = [f"{seconds * 1e3:.2f} ({base / seconds:.1f}x)" for seconds in others]
            table.add_row(str(tokens), where, f"{base * 1e3:.2f}", *shown)
    sizes = [sum(t.nbytes for t in weight.buffers()) / (2 * rows * columns) for weight in one.values()]
    table.add_row("", "of fp16's memory", "2", *(f"{size:.3f}" for size in sizes))
    return table


def best(every: Sequence[Sequence[Any]], x: torch.Tensor) -> list[float]:
    """The seconds that a product of `x` takes with each kind of weights.

    The kinds take turns, so that a busy machine slows all of them; the best time of each weight counts.
    """
    times = [[float("inf")] * len(weights) for weights in every]
    for _ in range(ROUNDS if len(every[0]) > 1 else 10 * ROUNDS):
        for own, weights in zip(times, every, strict=True):
            for i, weight in enumerate(weights):
                start = time.perf_counter()
                _ = weight(x) if isinstance(weight, Packed) else torch.matmul(x, weight.T)
                own[i] = min(own[i], time.perf_counter() - start)
    return [sum(own) / len(own) for own in times]


def integers(rows: int, columns: int, bits: int, size: int) -> Packed:
    half = 1 << (bits - 1)
    data = rng.integers(-half, half, (rows, columns), dtype=np.int8)
    return packed(Quantized(data, np.full((rows, columns // size), 0.01, np.float16), bits=bits))


def lookup(rows: int, columns: int, bits: int) -> Packed:
    indices = rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    return packed(Palettized(indices, rng.normal(size=(1, 1, 1 << bits, 1)).astype(np.float16)))


def packed(weight: Palettized | Quantized) -> Packed:
    result = pack(weight, torch.float16)
    assert result is not None
    return result


if __name__ == "__main__":
    main()
