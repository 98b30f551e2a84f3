"""Rules about neural networks, the models of iOS 15 and older. Those about inputs and recurrences are the same as for
ML programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from corepress.formats.features import Interface
from corepress.formats.neural_network.layers import layers_of
from corepress.linting.features import enumerated, ranges
from corepress.linting.function import Spot
from corepress.linting.programs import RULES as PROGRAM_RULES
from corepress.linting.rule import Rule

_RECURRENT = frozenset({"simpleRecurrent", "gru", "uniDirectionalLSTM", "biDirectionalLSTM"})


class Network(NamedTuple):
    """A neural network, as rules see it."""

    network: Any
    interface: Interface


Find = Callable[[Network], Iterator[Spot]]


def _recurrences(given: Network) -> Iterator[Spot]:
    for layer in layers_of(given.network):
        if layer.WhichOneof("layer") in _RECURRENT:
            yield Spot("operation", layer.name, str(layer.WhichOneof("layer")))


def _shared(name: str) -> Rule:
    return next(rule for rule in PROGRAM_RULES if rule.id == name)


RULES: dict[Rule, Find] = {
    _shared("range-of-shapes"): lambda given: (Spot("input", *found) for found in ranges(given.interface)),
    _shared("several-enumerated"): lambda given: (Spot("input", *found) for found in enumerated(given.interface)),
    _shared("recurrence"): _recurrences,
}
"""The rules about a neural network, each with the function that finds the places."""
