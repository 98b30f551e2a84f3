"""What to say of weights that were quantized before they came into the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corepress.formats.mlprogram import Model
    from corepress.reports import Report

# From so many dB on, what a float16 rounds is all that a form loses of a weight.
_KEPT = 55
# The largest blocks that files of weights have; where more columns share a scale, these are a whole row.
_LARGEST = 256


def told(blocks: Collection[int]) -> str:
    """Of how many weights it can be told, and what keeps them as they are. `blocks`: of each, the columns that shared a
    scale."""
    [(block, count)] = Counter(min(block, _LARGEST + 1) for block in blocks).most_common(1)
    rows = block > _LARGEST
    where = "with a scale for each row" if rows else f"in blocks of {block} columns"
    options = "--granularity per_channel" if rows else f"--granularity per_block --block-size {block}"
    subject, them = ("1 weight was", "it") if count == 1 else (f"{count} weights were", "them")
    return (
        f"{subject} quantized to 4 bits or fewer {where} before the model was converted: "
        f"quantize --mode linear --dtype uint4 {options} --float-zero-point keeps {them} so"
    )


def lost(original: Model, result: Report) -> str:
    """The same of those that a compression has changed; empty if there are none."""
    from corepress.formats.mlprogram.before import quantized_before

    changed = {row.name for row in result.compressed if row.snr is None or row.snr < _KEPT}
    found = quantized_before(weight for weight in original.weights() if weight.name in changed)
    return told(found.values()) if found else ""
