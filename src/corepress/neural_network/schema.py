"""The protobuf messages of `schema.proto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corepress.mlprogram.schema import load_messages

_messages = load_messages(Path(__file__).parent / "schema.binpb")

# Message classes are made at run time, so their static type is Any.
Model: Any = _messages["Model"]
NeuralNetwork: Any = _messages["NeuralNetwork"]
