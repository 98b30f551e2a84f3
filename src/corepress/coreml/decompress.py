"""`decompress_weights`: compressed weights become plain float tensors again."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from corepress.coreml.interop import takes_any_model
from corepress.coreml.rewrite import Outcome, rewrite
from corepress.engine import Progress, Skip
from corepress.formats.mlprogram import Model, Weight

log = logging.getLogger(__name__)


@takes_any_model
def decompress_weights(mlmodel: Model, *, workers: int | None = None, progress: Progress | None = None) -> Model:
    """Replace every compressed weight by the dense tensor that Core ML would make of it, bit for bit.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        FormatError: For a model that can't be read.

    Examples:
        >>> dense = cto.coreml.decompress_weights("small.mlpackage")
        >>> {weight.compression for weight in dense.weights()}
        {''}
    """
    return rewrite(mlmodel, _choose, workers=workers, progress=progress, conclude=_conclude)


def _conclude(model: Model, outcome: Outcome) -> None:
    if not outcome.done:
        log.warning("no weight was decompressed: none of the model is compressed")


def _choose(weight: Weight):  # type: ignore[no-untyped-def]
    if not weight.compression:
        raise Skip("it is not compressed", quiet=True)
    return _dense


def _dense(weight: Weight) -> NDArray[np.generic]:
    return weight.dense()
