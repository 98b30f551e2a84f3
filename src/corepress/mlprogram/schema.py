"""The protobuf messages of `schema.proto`, built from its compiled descriptor.

Built at import, and not by generated code, because generated code is tied to one range of protobuf versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def load_messages(path: Path) -> dict[str, Any]:
    """The message classes of a compiled schema, by name."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(path.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    package = files.file[0].package
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in files.file[0].message_type
    }


_messages = load_messages(Path(__file__).parent / "schema.binpb")

# Message classes are made at run time, so their static type is Any.
Model: Any = _messages["Model"]
Program: Any = _messages["Program"]
Function: Any = _messages["Function"]
Block: Any = _messages["Block"]
Operation: Any = _messages["Operation"]
Value: Any = _messages["Value"]
ValueType: Any = _messages["ValueType"]
NamedValueType: Any = _messages["NamedValueType"]
ModelDescription: Any = _messages["ModelDescription"]
ListType: Any = _messages["ListType"]
StateType: Any = _messages["StateType"]
ListValue: Any = _messages["ListValue"]
Metadata: Any = _messages["Metadata"]
FeatureDescription: Any = _messages["FeatureDescription"]
DictionaryFeatureType: Any = _messages["DictionaryFeatureType"]
SequenceFeatureType: Any = _messages["SequenceFeatureType"]
Labeled: Any = _messages["Labeled"]
TextLabeled: Any = _messages["TextLabeled"]
TreeEnsemble: Any = _messages["TreeEnsemble"]
CustomModel: Any = _messages["CustomModel"]
LinkedModel: Any = _messages["LinkedModel"]
