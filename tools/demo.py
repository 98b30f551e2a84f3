"""Compress the example package in several ways, save each to build/demo, run it on real images, and print the table.

Without PyTorch (`make demo TORCH=`) the packages are not run, and W8A8, which is calibrated by running, is left out.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import corepress as cto
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    linear_quantize_activations,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples" / "digits.mlpackage"
IMAGES = ROOT / "examples" / "digits_test.npz"
FOLDER = ROOT / "build" / "demo"
CALIBRATION = 64  # images that W8A8 sees; the accuracy of all rows is that of the others
HAS_TORCH = importlib.util.find_spec("torch") is not None

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


def w8a8(model: cto.Model) -> cto.Model:
    samples = [{"image": image[None]} for image in np.load(IMAGES)["images"][:CALIBRATION]]
    config = OptimizationConfig(OpLinearQuantizerConfig())
    return linear_quantize_weights(linear_quantize_activations(model, config, samples), config)


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
if HAS_TORCH:
    METHODS["W8A8"] = w8a8


def main() -> None:
    console = Console()
    model = cto.load(SOURCE)
    table = Table(title=f"{SOURCE.name}, {model.size():,} bytes", box=SIMPLE_HEAD)
    headers = ["method", "kB", "ratio", "bits", "SNR dB", "seconds", *["right %"] * HAS_TORCH]
    for header in headers:
        table.add_column(header, justify="left" if header == "method" else "right", no_wrap=True)
    if HAS_TORCH:
        table.add_row("as it is", f"{model.size() / 1000:.1f}", "1.00", "16.00", "", "", accuracy(model))
    for name, method in METHODS.items():
        method(model)  # loads the compiled code, and the first time ever compiles it
        start = time.perf_counter()
        saved = method(model).save(FOLDER / f"{file_name(name)}.mlpackage", overwrite=True)
        seconds = time.perf_counter() - start
        right = [accuracy(saved)] if HAS_TORCH else []
        table.add_row(name, *numbers(saved), f"{seconds:.3f}", *right)
    console.print(table)
    console.print("bits: of a weight, on average. SNR: of the worst weight. seconds: with save.")
    if not HAS_TORCH:
        console.print("With PyTorch, `make demo`, each package also runs on 296 test images.")
    console.print(f"The packages are in {FOLDER.relative_to(ROOT)}. Now yours:")
    console.print(f"  corepress palettize {SOURCE.relative_to(ROOT)} -o small.mlpackage --nbits 4")


def numbers(model: cto.Model) -> list[str]:
    """Size, ratio, bits per weight and worst SNR."""
    report = cto.report(model)
    worst = "" if report.worst is None else f"{report.worst.snr:.1f}"
    return [f"{report.size_after / 1000:.1f}", f"{report.ratio:.2f}", f"{report.bits_per_weight:.2f}", worst]


def accuracy(model: cto.Model) -> str:
    """The part of the test images that the model reads right, in percent."""
    from corepress import runtime

    program = runtime.load(model)
    data = np.load(IMAGES)
    images, labels = data["images"][CALIBRATION:], data["labels"][CALIBRATION:]
    found = [int(program.predict({"image": image[None]})["logits"].argmax()) for image in images]
    right = int(np.sum(np.array(found) == labels))
    return f"{100 * right / len(labels):.1f}"


def file_name(method: str) -> str:
    """The letters and digits of a method's name, in words joined by "-"."""
    return "-".join("".join(c if c.isalnum() else " " for c in method).split())


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    main()
