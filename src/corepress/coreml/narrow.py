"""`narrow_indices`: indices of look-up tables in as few bits as they need."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from corepress.coreml.interop import takes_any_model
from corepress.coreml.rewrite import Outcome, rewrite
from corepress.engine import Progress, Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, index_bits

log = logging.getLogger(__name__)


@takes_any_model
def narrow_indices(mlmodel: Model, *, workers: int | None = None, progress: Progress | None = None) -> Model:
    """Store the indices of look-up tables in as few bits as they need; the values of all weights stay as they are.

    Tables end with entries that no index takes where a converter has no indices of some width: coreai-torch has none
    of 3 bits, so that a module of 3 bits takes 4 in the `.aimodel` that it writes, a third more than it need be.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools; also a Core AI model.
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        FormatError: For a model that can't be read.

    Examples:
        >>> narrow = cto.coreml.narrow_indices("small.mlpackage")
        >>> narrow.size() <= cto.load("small.mlpackage").size()
        True
    """
    return rewrite(mlmodel, _choose, workers=workers, progress=progress, conclude=_conclude)


def _conclude(model: Model, outcome: Outcome) -> None:
    if not outcome.done:
        log.warning("no weight is narrowed: all indices take as few bits as they need")


def _choose(weight: Weight) -> Any:
    if "palettized" not in weight.compression:
        raise Skip("it has no look-up table", quiet=True)
    return _narrowed


def _narrowed(weight: Weight) -> CompressedWeight:
    form = weight.read()
    narrow: CompressedWeight = _narrow(form)
    if narrow is form:
        raise Skip("its indices need their bits", quiet=True)
    return narrow


def _narrow(form: Any) -> Any:
    """A form with smaller tables; the form itself where there are none, or all entries are needed."""
    if isinstance(form, Quantized):
        data = _narrow(form.data)
        return form if data is form.data else replace(form, data=data)
    if isinstance(form, Sparse):
        values = _narrow(form.values)
        return form if values is form.values else replace(form, values=values)
    if not isinstance(form, Palettized):
        return form
    entries = 1 << index_bits(int(form.indices.max(initial=0)) + 1)
    return form if entries >= form.lut.shape[-2] else replace(form, lut=_cut(form.lut, entries))


def _cut(lut: Any, entries: int) -> Any:
    """The first entries of each table."""
    if not isinstance(lut, Quantized):
        return lut[..., :entries, :].copy()
    # A scale for each entry, or for all.
    parts = {name: getattr(lut, name) for name in ("scale", "offset") if getattr(lut, name) is not None}
    own = {name: part[..., :entries, :] if part.shape[-2] > 1 else part for name, part in parts.items()}
    return replace(lut, data=_cut(lut.data, entries), **own)
