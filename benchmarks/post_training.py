"""PyTorch models after training, ours and coremltools': seconds of `compress`, which copies the model first.

    python benchmarks/post_training.py

Four linear layers of 768 x 3072 and back, 9.4M float32 weights. With `inplace` the copy is left out, as for
`SKMPalettizer`, whose sensitivities are random and the same for both. The fastest of runs taken in turn. The error is
the sum of squared differences of all weights, theirs over ours; of SKM, weighed by the sensitivities.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

LIBRARIES = ("corepress", "coremltools.optimize")
GROUPS = {"granularity": "per_grouped_channel", "group_size": 32}
ROWS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "PostTrainingPalettizer, 2 bits": ("PostTrainingPalettizer", {"n_bits": 2}, False),
    "PostTrainingPalettizer, 4 bits": ("PostTrainingPalettizer", {"n_bits": 4}, False),
    "PostTrainingPalettizer, 4 bits, inplace": ("PostTrainingPalettizer", {"n_bits": 4}, True),
    "PostTrainingPalettizer, 6 bits": ("PostTrainingPalettizer", {"n_bits": 6}, False),
    "PostTrainingPalettizer, 8 bits": ("PostTrainingPalettizer", {"n_bits": 8}, False),
    "PostTrainingPalettizer, 4 bits, groups of 32": ("PostTrainingPalettizer", {"n_bits": 4, **GROUPS}, False),
    "PostTrainingQuantizer, int8": ("PostTrainingQuantizer", {"weight_dtype": "int8"}, False),
    "PostTrainingQuantizer, int4, blocks of 32": (
        "PostTrainingQuantizer", {"weight_dtype": "int4", "granularity": "per_block", "block_size": 32}, False,
    ),
    "SKMPalettizer, 4 bits, inplace": ("SKMPalettizer", {"n_bits": 4}, True),
}  # fmt: skip


def main() -> None:
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(*((768, 3072) if i % 2 == 0 else (3072, 768))) for i in range(4)))
    weights = {f"{name}.weight": layer.weight for name, layer in model.named_children()}
    importance = {name: torch.rand_like(weight.detach()).pow(4) for name, weight in weights.items()}
    folder = tempfile.TemporaryDirectory()
    path = str(Path(folder.name, "sensitivities.pt"))
    torch.save(importance, path)
    table = Table(caption="seconds; error: coremltools' over ours")
    for header in ("method", "corepress", "coremltools", "times faster", "error"):
        table.add_column(header, justify="right")
    for title, (name, config, inplace) in ROWS.items():
        seconds: dict[str, float] = {}
        errors = {}
        for turn in range(4):
            for library in LIBRARIES:
                if library == LIBRARIES[1] and turn > 1:  # one run to warm up, one that counts
                    continue
                options = {"sensitivity_path": path} if name == "SKMPalettizer" else {}
                took, compressed = run(library, name, config, model, inplace=inplace, **options)
                seconds[library] = min(took, seconds.get(library, took)) if turn else took
                errors[library] = error(model, compressed, importance if name == "SKMPalettizer" else None)
        ours, theirs = (seconds[library] for library in LIBRARIES)
        ratio = errors[LIBRARIES[1]] / errors[LIBRARIES[0]]
        table.add_row(title, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}", f"{ratio:.4f}")
    Console().print(table)


def run(library: str, name: str, settings: dict[str, Any], model: nn.Module, **options: Any) -> tuple[float, nn.Module]:
    folder = "quantization" if name.endswith("Quantizer") else "palettization"
    module = importlib.import_module(f"{library}.torch.{folder}")
    config = getattr(module, f"{name}Config").from_dict({"global_config": settings})
    optimizer = getattr(module, name)(copy.deepcopy(model), config)
    begin = time.perf_counter()
    compressed = optimizer.compress(**options)
    return time.perf_counter() - begin, compressed


def error(model: nn.Module, compressed: nn.Module, importance: dict[str, torch.Tensor] | None) -> float:
    total = 0.0
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            squares = (compressed.get_parameter(name) - weight).detach().double().square()
            total += float((squares if importance is None else squares * importance[name]).sum())
    return total


if __name__ == "__main__":
    main()
