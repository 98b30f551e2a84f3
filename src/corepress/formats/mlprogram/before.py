"""Which dense weights of a model were quantized before it was converted."""

from __future__ import annotations

from collections.abc import Iterable

from corepress.formats.mlprogram.weight import Weight
from corepress.weights.lattice import columns_of_a_scale


def quantized_before(weights: Iterable[Weight]) -> dict[str, int]:
    """By the names of dense weights that had 4 bits or fewer before, how many columns shared a scale."""
    found: dict[str, int] = {}
    for weight in weights:
        if not weight.compression and len(weight.shape) > 1 and weight.dtype in ("float16", "float32"):
            columns = columns_of_a_scale(weight.dense())
            weight.release()
            if columns is not None:
                found[weight.name] = columns
    return found
