"""Weights that no product multiplies, so that compressing them saves little and may change much.

They are the statistics of batch norms, of which a variance near 0 decides how much a channel is amplified, and the
constants that only layers read which compute with their numbers one by one, such as anchors and grids of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corepress.formats.neural_network.layers import WITH_WEIGHTS, LayerWeight, all_layers
from corepress.formats.neural_network.normalization import is_statistic

_STATISTIC = (
    "it belongs to a batch norm, whose statistics decide how much a channel is amplified; spare_constants=False "
    "compresses it"
)
_CONSTANT = (
    "no product, look-up or recurrence reads it, so that each rounding error would go straight into the answers; "
    "spare_constants=False compresses it"
)
# Layers whose weights are vectors of a number for each channel or element. All others that have weights are products,
# look-ups or recurrences, and beside them some whose weights can't be compressed, or that have none.
_ONE_BY_ONE = frozenset({"batchnorm", "scale", "bias", "loadConstant", "loadConstantND"})
_PRODUCTS = (WITH_WEIGHTS - _ONE_BY_ONE) | {"convolution3d", "dot", "gather", "gatherND", "gatherAlongAxis", "custom"}
# Layers that only move numbers: what reads their results counts.
MOVING = frozenset({
    "reshape", "reshapeStatic", "reshapeDynamic", "reshapeLike", "rankPreservingReshape", "flatten", "flattenTo2D",
    "permute", "transpose", "expandDims", "squeeze", "copy", "tile", "broadcastToStatic", "broadcastToLike",
    "broadcastToDynamic", "concat", "concatND", "stack", "split", "splitND", "slice", "sliceStatic", "sliceDynamic",
    "sequenceRepeat",
})  # fmt: skip


def reason_to_spare(spec: Any) -> Callable[[LayerWeight], str]:
    """A function that says why a weight of the model is better left alone; nothing where it is not."""
    multiplied = _multiplied(spec)

    def reason(weight: LayerWeight) -> str:
        if is_statistic(weight):
            return _STATISTIC
        constant = weight.layer_type in ("loadConstant", "loadConstantND")
        return _CONSTANT if constant and multiplied.isdisjoint(weight.layer.output) else ""

    return reason


def _multiplied(spec: Any) -> set[str]:
    """The names of the values that a product, look-up or recurrence reads, moved or as they are."""
    sources: dict[str, list[str]] = {}
    waiting: list[str] = []
    for layer in all_layers(spec):
        kind = layer.WhichOneof("layer")
        if kind in _PRODUCTS:
            waiting += layer.input
        elif kind in MOVING:
            for name in layer.output:
                sources.setdefault(name, []).extend(layer.input)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sources.get(name, ())
    return found
