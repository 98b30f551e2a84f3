"""Values for pages, made up: networks of any number of weights, with names that nobody would wish for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corepress.metrics import Row as Output
from corepress.reports import Report, Row
from corepress.reports.page import page
from corepress.searching.result import Chosen, Point, Result
from corepress.verification import Verification
from corepress.weights import Palettized

HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 2">',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "<img src=https://example.com/seen.png>",
    "'\u2028\u2029\x00\x1b[31m",
    "a" * 100_000,
    "javascript:window.broken=3",
)


@dataclass
class Weight:
    name: str
    value: Any
    function: str = "main"

    def dense(self) -> np.ndarray:
        return self.value if isinstance(self.value, np.ndarray) else self.value.decompress()

    def read(self) -> Any:
        return self.value


@dataclass
class Held:
    """A model that holds weights."""

    held: list[Weight] = field(default_factory=list)

    def weights(self) -> list[Weight]:
        return self.held


def named(number: int) -> str:
    return HOSTILE[number] if number < len(HOSTILE) else f"layer_{number}_weight"


def rows(count: int) -> tuple[Row, ...]:
    """Weights of two bits, each eighth of them left alone, that lost from 5 to 30 dB."""
    return tuple(
        Row(
            named(number), "main", (64, 64), "float16", ("linear",), "" if left else "palettized", 16 if left else 2,
            16.0 if left else 2.1, 8192, 8192 if left else 1075, None if left else 5 + 25 * number / count,
            "it is <b>small</b>" if left else "", not left,
        )
        for number in range(count)
        for left in [number % 8 == 7]
    )  # fmt: skip


def models(count: int) -> tuple[Held, Held]:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(64, 64)).astype(np.float16)
    table = np.array([-1.5, -0.5, 0.5, 1.5], np.float16).reshape(1, 1, 4, 1)
    small = Palettized(rng.integers(0, 4, (64, 64), dtype=np.uint8), table)
    names = [named(number) for number in range(count)]
    return Held([Weight(name, dense) for name in names]), Held([Weight(name, small) for name in names])


def verification(count: int) -> Verification:
    operations = tuple(
        Output(named(number), "linear", snr=60 - 50 * number / count, cosine=0.99) for number in range(count)
    )
    outputs = (Output(HOSTILE[0], snr=10.0, cosine=0.95, psnr=20.0, top1=0.9, max_abs=1.0),)
    return Verification(outputs, operations, "snr", 20.0, 4, False, 4)


def search() -> Result:
    """What a search found: three models, the middle one chosen. Of one the answers are the original's."""
    weights = (Chosen("layer_9_weight", (64, 64), "linear", "palettized 2 bits", 2.1, 1075, 0.01),)
    points = tuple(
        Point(size * 1000, bits, {"snr": snr}, {"steps": []}, weights, chosen)
        for size, bits, snr, chosen in [(10, 2.0, 12.0, False), (20, 4.0, 25.0, True), (80, 16.0, math.inf, False)]
    )
    return Result(None, points, "snr", {"snr": 24.0}, True, ("a note on <i>it</i>",))


def written(folder: Path, count: int) -> Path:
    """A page with every section that needs no pictures, of a network of `count` weights."""
    path = folder / f"{count}.html"
    report = Report(rows(count), count * 8192, count * 2000, "iOS16", "iOS18")
    content = page(
        "palettize",
        report,
        names=(HOSTILE[0], HOSTILE[1]),
        models=models(count),
        verification=verification(count),
        basis="4 samples of --data",
        command=f"corepress palettize '{HOSTILE[0]}'",
        recipe="steps:\n- palettize: {nbits: 2}",
        notes=[HOSTILE[4]],
    )
    path.write_text(content, encoding="utf-8")
    return path
