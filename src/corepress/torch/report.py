"""What a compression of a PyTorch model did, weight by weight."""

from __future__ import annotations

import math
from collections import UserDict
from typing import Any

from numpy.typing import NDArray

from corepress.metrics import decibels, energies
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress


class Report(UserDict[str, dict[str, Any]]):
    """One row of columns for each compressed weight, by its name; printed as a table.

    `skipped`: the weights that were left as they were, and why.
    """

    def __init__(self, rows: Any = None):
        super().__init__(rows)
        self.skipped: dict[str, str] = {}

    def normalized(self) -> Report:
        """The same with all columns in each row, -1 where one does not apply."""
        columns = list(dict.fromkeys(column for row in self.values() for column in row))
        report = Report({key: {column: row.get(column, -1) for column in columns} for key, row in self.items()})
        report.skipped = dict(self.skipped)
        return report

    def __repr__(self) -> str:
        rows = [["name", *column_names(self)]]
        rows += [[key, *(_text(row.get(column)) for column in rows[0][1:])] for key, row in self.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [" | ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, " | ".join("-" * width for width in widths))
        return "\n".join(lines) if self else ""


def column_names(report: Report) -> list[str]:
    return list(dict.fromkeys(column for row in report.values() for column in row))


def _text(value: Any) -> str:
    return f"{value:.5f}" if isinstance(value, float) else str(value)


def row(before: NDArray[Any], form: CompressedWeight, now: NDArray[Any] | None = None) -> dict[str, Any]:
    """The columns of one weight: those of coremltools, then `bits_per_weight`, `snr` (dB) and `stored_bytes`.

    `error` is the root of the mean squared difference. `now`: the value of `form`, where it is at hand.
    """
    now = decompress(form) if now is None else now
    signal, noise = energies(before, now)
    columns: dict[str, Any] = {"error": math.sqrt(noise / before.size), "#params": before.size}
    inner: Any = form
    if isinstance(inner, Sparse):
        columns |= sparsities(now)
        inner = inner.values
    if isinstance(inner, Quantized) and isinstance(inner.data, Palettized):
        inner = inner.data
    quantized = inner.lut if isinstance(inner, Palettized) else inner
    if isinstance(quantized, Quantized):
        columns["dtype"] = f"dtype=int{quantized.bits}"
    if isinstance(inner, Palettized):
        columns["palettization_mode"] = f"num_clusters={2**inner.bits}, cluster_dim={inner.cluster_dim}"
    columns["bits_per_weight"] = 8 * form.nbytes / before.size
    columns["snr"] = decibels(signal, noise)
    columns["stored_bytes"] = form.nbytes
    return columns


def sparsities(weight: NDArray[Any]) -> dict[str, Any]:
    """The fractions of zeros: of single elements, of output channels, and of pairs of output channels."""
    zero = weight == 0
    rows = zero.reshape(len(zero), -1)
    pairs = rows.reshape(len(rows) // 2, 2, -1).all(axis=1).mean() if len(rows) % 2 == 0 else -1
    return {
        "structured_weight_sparsity": float(rows.all(axis=1).mean()),
        "unstructured_weight_sparsity": float(zero.mean()),
        "block2_weight_sparsity": float(pairs),
    }
