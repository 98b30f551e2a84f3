"""Peak memory of GPTQ and SparseGPT on a whole model, ours and coremltools', above the model itself.

    python benchmarks/layerwise_memory.py

A chain of 24 linear layers of 2048 x 2048 float32 (16 MiB each, 384 MiB in all) is compressed in place, calibrated on
1,024 vectors (8 MiB). Each run is a process of its own: what its resident memory peaks at during `compress`, less what
it has before, in MiB and in weights of one layer. The Hessian of a layer is as large as its weight. What is freed goes
back to the system at once (MALLOC_MMAP_THRESHOLD_): else glibc keeps holes, more with every layer.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from layerwise import CONFIGS, LIBRARIES
from measure import peak_rss

WIDTH, DEPTH, BATCHES = 2048, 24, 64
ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def main() -> None:
    if len(sys.argv) > 1:
        print(peak_above(*sys.argv[1:]))
        return
    table = Table(
        title=f"{DEPTH} layers of {WIDTH} x {WIDTH}", caption="peak above the model: MiB (weights of a layer)"
    )
    for header in ("method", "ours", "coremltools"):
        table.add_column(header, justify="right")
    for name in ("GPTQ, 4 bits", "SparseGPT, 50 %"):
        cells = []
        for library in LIBRARIES:
            command = [sys.executable, __file__, library, name]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
            found = int(done.stdout.split()[-1])
            cells.append(f"{found / 2**20:.0f} ({found / (4 * WIDTH**2):.1f})")
        table.add_row(name, *cells)
    Console().print(table)


def peak_above(library: str, name: str) -> int:
    """Bytes. What is imported and compiled on first use is there before, by a run on a tiny model."""
    logging.disable(logging.WARNING)
    module = importlib.import_module(f"{library}.torch.layerwise_compression")

    def compress(width: int, depth: int) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
        batches = [torch.randn(16, width) for _ in range(BATCHES)]
        settings = {"global_config": CONFIGS[name], "calibration_nsamples": BATCHES}
        compressor = module.LayerwiseCompressor(model, module.LayerwiseCompressorConfig.from_dict(settings))
        before = peak_rss()
        compressor.compress(dataloader=batches, device="cpu", inplace=True)
        return peak_rss() - before

    compress(64, 1)
    return compress(WIDTH, DEPTH)


if __name__ == "__main__":
    main()
