"""Compress the example package in several ways, save each to build/demo, and print what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import corepress as cto
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples" / "digits.mlpackage"
FOLDER = ROOT / "build" / "demo"

Method = Callable[[cto.Model], cto.Model]


def palettize(nbits: int, joint: bool = False) -> Method:
    config = OptimizationConfig(OpPalettizerConfig(nbits=nbits))
    return lambda model: palettize_weights(model, config, joint_compression=joint)


def quantize(**arguments: object) -> Method:
    config = OptimizationConfig(OpLinearQuantizerConfig(**arguments))
    return lambda model: linear_quantize_weights(model, config)


def prune(sparsity: float) -> Method:
    config = OptimizationConfig(OpMagnitudePrunerConfig(target_sparsity=sparsity))
    return lambda model: prune_weights(model, config)


def prune_and_palettize(sparsity: float, nbits: int) -> Method:
    return lambda model: palettize(nbits, joint=True)(prune(sparsity)(model))


METHODS: dict[str, Method] = {
    "palettize 8 bits": palettize(8),
    "palettize 6 bits": palettize(6),
    "palettize 4 bits": palettize(4),
    "palettize 3 bits": palettize(3),
    "palettize 2 bits": palettize(2),
    "int8 per channel": quantize(dtype="int8"),
    "int4 blocks of 32": quantize(dtype="int4", granularity="per_block", block_size=32),
    "prune 50 %": prune(0.5),
    "prune 50 %, then 4 bits": prune_and_palettize(0.5, 4),
}


def main() -> None:
    console = Console()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = cto.load(SOURCE)
    table = Table(title=f"{SOURCE.name}, {model.size():,} bytes", box=SIMPLE_HEAD)
    for header in ("method", "bytes", "ratio", "bits/weight", "SNR dB", "seconds"):
        table.add_column(header, justify="left" if header == "method" else "right")
    for name, method in METHODS.items():
        method(model)  # loads the compiled code, and the first time ever compiles it
        start = time.perf_counter()
        saved = method(model).save(FOLDER / f"{file_name(name)}.mlpackage", overwrite=True)
        seconds = time.perf_counter() - start
        report = cto.report(saved)
        worst = report.worst
        table.add_row(
            name,
            f"{report.size_after:,}",
            f"{report.ratio:.2f}",
            f"{report.bits_per_weight:.2f}",
            f"{worst.snr:.1f}" if worst is not None else "",
            f"{seconds:.3f}",
        )
    console.print(table)
    console.print("SNR: energy of a weight over that of its error, worst weight. Seconds: with save.")
    console.print(f"The packages are in {FOLDER.relative_to(ROOT)}. Now yours:")
    console.print(f"  corepress palettize {SOURCE.relative_to(ROOT)} -o small.mlpackage --nbits 4")


def file_name(method: str) -> str:
    """The letters and digits of a method's name, in words joined by "-"."""
    return "-".join("".join(c if c.isalnum() else " " for c in method).split())


if __name__ == "__main__":
    main()
