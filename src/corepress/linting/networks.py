"""Rules about neural networks, the models of iOS 15 and older. Those about inputs and recurrences are the same as for
ML programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from corepress.formats.features import Interface
from corepress.formats.neural_network.layers import LayerWeight, layers_of
from corepress.linting.features import enumerated, ranges
from corepress.linting.programs import RULES as PROGRAM_RULES
from corepress.linting.programs import Spot
from corepress.linting.rule import Rule

_RECURRENT = frozenset({"simpleRecurrent", "gru", "uniDirectionalLSTM", "biDirectionalLSTM"})
_PLAIN = ("float32", "float16", "none", "unknown")


class Network(NamedTuple):
    """A neural network, as rules see it."""

    network: Any
    interface: Interface


Find = Callable[[Network], Iterator[Spot]]


def _recurrences(given: Network) -> Iterator[Spot]:
    for layer in layers_of(given.network):
        if layer.WhichOneof("layer") in _RECURRENT:
            yield Spot("operation", layer.name, str(layer.WhichOneof("layer")))


def stored_small(weight: LayerWeight) -> str:
    """How a weight of a network is stored, where that is quantized; nothing where it is not."""
    return "" if weight.form in _PLAIN else f"{weight.bits} bits, {weight.form}"


def _shared(name: str) -> Rule:
    return next(rule for rule in PROGRAM_RULES if rule.id == name)


DEQUANTIZED = Rule(
    id="network-weights",
    severity="no gain",
    title="Quantized weights of a neural network",
    known=(
        "They become floating-point numbers again when the model is loaded: the download is smaller, but memory and "
        "time stay those of the plain model."
    ),
    instead="Nothing, where the size of the download is what counts; otherwise convert it to an ML program.",
    devices=("ane", "gpu", "cpu"),
    since="iOS 12",
    threads=("https://github.com/apple/coremltools/issues/200",),
)
"""The rule about a weight of a network: `stored_small` tells whether it applies."""

RULES: dict[Rule, Find] = {
    _shared("range-of-shapes"): lambda given: (Spot("input", *found) for found in ranges(given.interface)),
    _shared("several-enumerated"): lambda given: (Spot("input", *found) for found in enumerated(given.interface)),
    _shared("recurrence"): _recurrences,
}
"""The rules about a neural network, each with the function that finds the places."""
