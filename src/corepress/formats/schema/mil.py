"""The messages of `mil.proto`: models, their descriptions and ML programs."""

from __future__ import annotations

from typing import Any

from corepress.formats.schema.messages import load_messages

_messages = load_messages("mil")

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
