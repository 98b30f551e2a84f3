"""One step of training with DKM or with pruning, ours and coremltools', beside the plain step: seconds and memory.

    python benchmarks/training.py             # linear layers of 10 million weights
    python benchmarks/training.py --small     # of 1 million

Each measurement has a process of its own, with one thread. Seconds are of the processor, of forward, backward, the
optimiser and the method's own `step`: the median of a few steps after the first, which finds the first tables and
stands beside; with `kmeans_n_init` 1, as with the default of 10 coremltools takes minutes a layer for it. Memory is the
peak of the process while it trains, above what it held when the model was ready.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

WIDTH, BATCH = 1024, 512
GROUPS = {"n_bits": 4, "granularity": "per_grouped_channel", "group_size": 128}
METHODS: dict[str, dict[str, Any]] = {
    "DKM, 4 bits": {"n_bits": 4},
    "DKM, 2 bits": {"n_bits": 2},
    "DKM, 4 bits, groups of 128": GROUPS,
    "DKM, 4 bits, vectors of 2": {"n_bits": 4, "cluster_dim": 2},
    "pruning, 75 %": {"target_sparsity": 0.75},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--one", nargs=3, metavar=("LIBRARY", "METHOD", "LAYERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        library, method, layers = arguments.one
        print(json.dumps(measure(library, method, int(layers))))
        return
    layers = 1 if arguments.small else 10
    table = Table(title=f"a training step of {layers} linear layers of {WIDTH} x {WIDTH}")
    for header in ("method", "", "seconds", "first step", "MB", "loss after"):
        table.add_column(header, justify="right")
    rows = [("plain", "plain")] + [
        (name, each) for name in arguments.methods for each in ("corepress", "coremltools.optimize")
    ]
    for method, library in rows:
        found = in_a_process(library, method, layers)
        cells = ["failed: out of memory?"] if found is None else [
            f"{found['step']:.3f}", f"{found['first']:.3f}", f"{found['peak'] / 1e6:.0f}", f"{found['loss']:.4f}",
        ]  # fmt: skip
        table.add_row(method, library, *cells)
        print(method, library, *cells, file=sys.stderr)
    Console().print(table)


def in_a_process(library: str, method: str, layers: int) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--one", library, method, str(layers)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else None


def measure(library: str, method: str, layers: int, steps: int = 2) -> dict[str, float]:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    compressor = None if library == "plain" else optimizer(library, method, model)
    if compressor is not None:
        model = compressor.prepare(inplace=True)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    x = torch.randn(BATCH, WIDTH)
    before = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(1 + steps):
        start = time.process_time()
        loss = (model(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if compressor is not None:
            compressor.step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    step = statistics.median(seconds[1:])
    return {"step": step, "first": seconds[0], "peak": peak - before, "loss": loss.item()}


def optimizer(library: str, method: str, model: nn.Module) -> Any:
    """The method with its options for all layers, from either library."""
    if library == "corepress":
        from corepress.torch import palettization, pruning
    else:
        from coremltools.optimize.torch import palettization, pruning  # type: ignore[no-redef]
    options = {"global_config": METHODS[method]}
    if method.startswith("DKM"):
        options["global_config"] |= {"kmeans_n_init": 1}
        return palettization.DKMPalettizer(model, palettization.DKMPalettizerConfig.from_dict(options))
    return pruning.MagnitudePruner(model, pruning.MagnitudePrunerConfig.from_dict(options))


if __name__ == "__main__":
    main()
