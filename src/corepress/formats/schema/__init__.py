"""The messages of Core ML's model format, each once: models, ML programs and neural networks.

`model.proto` imports `mil.proto` and `neural_network.proto`; `schema.binpb` is what `make schema` compiles of them. One
more field: add it to its `.proto` under Apple's name and number, run `make schema`. One more message that Python makes
or parses by itself: a line below. Nothing of corepress is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _pool() -> descriptor_pool.DescriptorPool:
    """The compiled schema, read at import: generated code would be tied to one range of protobuf versions."""
    files = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "schema.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


_POOL = _pool()


def _message(name: str) -> Any:
    """The class of a message. It is made at run time, so that its static type is Any."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"corepress.schema.{name}"))


Model = _message("model.Model")
ModelDescription = _message("model.ModelDescription")
FeatureDescription = _message("model.FeatureDescription")
DictionaryFeatureType = _message("model.DictionaryFeatureType")
SequenceFeatureType = _message("model.SequenceFeatureType")
Metadata = _message("model.Metadata")
Labeled = _message("model.Labeled")
TextLabeled = _message("model.TextLabeled")
TreeEnsemble = _message("model.TreeEnsemble")
CustomModel = _message("model.CustomModel")
LinkedModel = _message("model.LinkedModel")

Operation = _message("mil.Operation")
Value = _message("mil.Value")
ListValue = _message("mil.ListValue")

NeuralNetwork = _message("neural_network.NeuralNetwork")
Layer = _message("neural_network.Layer")
