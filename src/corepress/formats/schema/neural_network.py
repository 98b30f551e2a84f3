"""The messages of `neural_network.proto`."""

from __future__ import annotations

from typing import Any

from corepress.formats.schema.messages import load_messages

_messages = load_messages("neural_network")

# Message classes are made at run time, so their static type is Any.
Model: Any = _messages["Model"]
NeuralNetwork: Any = _messages["NeuralNetwork"]
