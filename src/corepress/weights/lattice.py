"""Whether a dense weight was quantized before it came into the model: then its values lie on few even steps.

Files of GGUF, GPTQ or AWQ are made dense when a model is converted. What was stored there, integers of 4 bits or fewer
with a scale for each block of a row, can be told from the values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Even steps of 4 bits. More of them, in a float16, can't be told from chance.
_STEPS = 15
# The columns that such files put under one scale; a whole row comes before these.
_BLOCKS = (256, 128, 64, 32, 16)
# Values that are looked at first.
_ENOUGH = 1 << 14
# A step is told from rounding if it is so many times larger.
_CLEAR = 4
# Of a block of one or two values nothing is learnt, and fewer others than these are too few to conclude from.
_FEW_BLOCKS = 8


def columns_of_a_scale(weight: Array) -> int | None:
    """How many neighbouring columns of a row lie on the same 15 even steps or fewer; None if there are no such steps.

    `weight`: float16 or float32, of rank 2 or more. Rows are along the first axis, or of a matrix along the second one
    where the first has none. A part of them is looked at, spread evenly.
    """
    found = _of_rows(weight.reshape(len(weight), -1))
    return _of_rows(weight.T) if found is None and weight.ndim == 2 else found


def _of_rows(rows: Array) -> int | None:
    count, columns = (int(size) for size in rows.shape)
    some = rows[:: max(1, -(-count * columns // _ENOUGH))]
    for block in (columns, *(size for size in _BLOCKS if size < columns and columns % size == 0)):
        if _on_steps(some.reshape(-1, block), rows.dtype):
            return block
    return None


def steps_of(blocks: Array, stored: np.dtype[Any], most: int) -> Array | None:
    """Of blocks (n, size) that lie on even steps the size of a step, (n,) float32, 0 where a block has not three values
    to tell it; None if they don't. `stored`: the type that the values were rounded to. `most`: steps of a block."""
    if not _on_steps(blocks[:: max(1, -(-blocks.size // _ENOUGH))], stored, most):
        return None
    steps, found = _steps(blocks, stored, most)
    return steps if found.all() else None


def _on_steps(blocks: Array, stored: np.dtype[Any], most: int = _STEPS) -> bool:
    if not _steps(blocks[:_FEW_BLOCKS], stored, most)[1].all():  # most weights end here
        return False
    steps, found = _steps(blocks, stored, most)
    told = int((steps > 0).sum())
    return bool(found.all()) and told > 0 and told >= min(_FEW_BLOCKS, len(blocks))


def _steps(blocks: Array, stored: np.dtype[Any], most: int) -> tuple[Array, Array]:
    """Of each block the step, 0 where there is none; and whether it lies on even steps, or can't tell."""
    blocks = np.asarray(blocks, np.float64)
    lowest, highest = blocks.min(1), blocks.max(1)
    # A value was rounded by half its last digit, its integer times the scale as well, and so were both ends.
    rounding = 3 * float(np.finfo(stored).eps) * np.abs(blocks).max(1)
    between = (blocks > lowest[:, None]) & (blocks < highest[:, None])
    result, found = np.zeros(len(blocks), np.float32), np.isfinite(lowest + highest) & ~between.any(1)
    for steps in range(2, min(most, _STEPS) + 1):
        with np.errstate(invalid="ignore", divide="ignore"):
            step = (highest - lowest) / steps
            places = (blocks - lowest[:, None]) / step[:, None]
            far = np.abs(places - np.rint(places)).max(1) * step
        fits = ~found & (step > _CLEAR * rounding) & (far <= rounding)
        result[fits] = step[fits]
        found |= fits
    return result, found
