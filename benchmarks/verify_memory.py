"""Peak memory of `verify`, beside the size of the package: python benchmarks/verify_memory.py

A transformer of 248M parameters (fp16, 496 MB; made on first use) is compared with its copy with 8-bit tables on four
samples, each run in a process of its own. `imports` is what Python, NumPy and PyTorch take before; `layer` the largest
weight in float32.
"""

from __future__ import annotations

import logging
import subprocess
import sys

from rich.console import Console
from rich.table import Table

import models
from measure import peak_rss, size

JOBS = {"verify": {}, "verify, per_op": {"per_op": True}, "original with itself": {"itself": True}}


def main() -> None:
    if len(sys.argv) > 1:
        print(*peaks(*sys.argv[1:]))
        return
    package, small = models.package(models.LARGE), models.palettized(models.LARGE)
    layer = 4 * models.HIDDEN * models.WIDTH
    table = Table(
        title=f"package {size(package) / 1e6:.0f} MB, 8-bit tables {size(small) / 1e6:.0f}, layer {layer / 1e6:.0f}"
    )
    for header in ("job", "peak MB", "of it imports", "above the imports", "of the package"):
        table.add_column(header, justify="right")
    for name in JOBS:
        done = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        imports, peak = map(int, done.stdout.split()[-2:])
        above = peak - imports
        cells = (f"{number / 1e6:.0f}" for number in (peak, imports, above))
        table.add_row(name, *cells, f"{above / size(package):.2f}x")
    Console().print(table)


def peaks(name: str) -> tuple[int, int]:
    """Bytes: after the imports and a comparison of a tiny model, and in all."""
    from corepress import verify

    logging.disable(logging.WARNING)
    options = dict(JOBS[name])
    tiny = models.package(models.TINY)
    verify(tiny, tiny, **{key: value for key, value in options.items() if key != "itself"})
    imports = peak_rss()
    package = models.package(models.LARGE)
    verify(package, package if options.pop("itself", False) else models.palettized(models.LARGE), **options)
    return imports, peak_rss()


if __name__ == "__main__":
    main()
