"""A model, or a stage of a pipeline: its kind, inputs and outputs, class labels, and what else its kind tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from corepress.errors import FormatError
from corepress.formats import schema
from corepress.formats.dtypes import BY_MIL
from corepress.formats.features import Feature, feature_of, parsed
from corepress.formats.kinds import NETWORKS, in_words, kind_of, stages
from corepress.formats.mlprogram.program import Function, Node, block_nodes, flat
from corepress.formats.mlprogram.values import BlobSource, read_tensor, tensor_type
from corepress.formats.neural_network.layers import layers_of
from corepress.opsets import KNOWN

_LABELED = frozenset({
    "glmClassifier", "supportVectorClassifier", "treeEnsembleClassifier", "kNearestNeighborsClassifier",
    "nonMaximumSuppression", "neuralNetworkClassifier",
})  # fmt: skip
_TEXTS = frozenset({"textClassifier", "gazetteer", "wordTagger", "wordEmbedding"})
_COLORS = {"grayscale": "grayscale", "rgb": "RGB", "bgr": "BGR", "grayscale_float16": "grayscale float16"}


@dataclass(frozen=True)
class Signature:
    """The inputs, outputs and states of a function; `name` is empty for a model that is one."""

    name: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]


@dataclass(frozen=True)
class Part:
    """A model. `name`: of a stage of a pipeline. `type`: the field of Apple's Model.proto; `kind`: the same in words.

    `functions`: those of an ML program with several. `labels`: of the classes that it tells apart. `facts`: what else
    its kind tells, by a name in words, such as {"trees": 100}. `training_inputs`, `updatable_layers`: of a model that
    the app can train further.
    """

    name: str
    type: str
    kind: str
    spec_version: int
    signature: Signature
    functions: tuple[Signature, ...] = ()
    labels: tuple[str, ...] = ()
    facts: dict[str, Any] | None = None
    updatable: bool = False
    training_inputs: tuple[str, ...] = ()
    updatable_layers: tuple[str, ...] = ()
    stages: tuple[Part, ...] = ()

    def all(self) -> Iterator[Part]:
        """Itself and the stages within."""
        yield self
        for stage in self.stages:
            yield from stage.all()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "kind": self.kind,
            "spec_version": self.spec_version,
            **_signature_dict(self.signature),
            "functions": [{"name": one.name, **_signature_dict(one)} for one in self.functions],
            "labels": list(self.labels),
            "facts": self.facts or {},
            "updatable": self.updatable,
            "training_inputs": list(self.training_inputs),
            "updatable_layers": list(self.updatable_layers),
            "stages": [stage.to_dict() for stage in self.stages],
        }


def part_of(spec: Any, blobs: BlobSource | None = None, name: str = "") -> Part:
    """What a message `Model` holds. `blobs`: where constants of its programs lie."""
    kind = kind_of(spec)
    described = parsed(spec.description)
    content: Any = getattr(spec, kind) if spec.WhichOneof("Type") else b""
    network = content if kind in NETWORKS else None
    functions = tuple(
        Signature(one.name, _features(one.input), _features(one.output), _features(one.state))
        for one in described.functions
    )
    return Part(
        name,
        kind,
        in_words(kind),
        int(spec.specificationVersion),
        Signature("", _features(described.input), _features(described.output), _features(described.state)),
        functions,
        tuple(map(str, _labels(spec, kind, content, blobs))),
        _facts(kind, content, network, described),
        bool(spec.isUpdatable),
        tuple(_parse(schema.FeatureDescription, raw).name for raw in described.trainingInput),
        tuple(layer.name for layer in network.layers if layer.isUpdatable) if network is not None else (),
        tuple(part_of(stage, blobs, stage_name) for stage_name, stage in stages(spec)),
    )


def described_feature(feature: Feature) -> str:
    """A feature in words: "float32 array 1x3x224x224", "RGB image, 224 wide, 224 high"."""
    if feature.kind == "image":
        text = f"{_COLORS.get(feature.color, feature.color)} image {_image_sizes(feature)}"
    elif feature.kind == "array":
        text = f"{np.dtype(feature.dtype).name} array {feature.describe() or 'of any shape'}"
    elif feature.kind == "number":
        text = f"{np.dtype(feature.dtype).name} number"
    else:
        text = {"dictionary": f"dictionary with {feature.items} keys", "sequence": f"sequence of {feature.items}"}.get(
            feature.kind, feature.kind
        )
    if feature.default is not None:
        return f"{text}, optional ({feature.default:g} without it)"
    return f"{text}, optional" if feature.optional else text


def _image_sizes(feature: Feature) -> str:
    """Width by height, as people and Xcode write them; the file holds them the other way round in ranges."""
    if feature.ranges:
        height, width = (
            f"{low}" if low == high else f"{low}..{high if high >= 0 else ''}" for low, high in feature.ranges[2:]
        )
        return f"{width}x{height} (width x height)"
    shapes = feature.shapes or (feature.shape,)
    return " or ".join(f"{shape[3]}x{shape[2]}" for shape in shapes) + " (width x height)"


def _signature_dict(signature: Signature) -> dict[str, Any]:
    return {
        name: [_feature_dict(feature) for feature in getattr(signature, name)]
        for name in ("inputs", "outputs", "states")
    }


def _feature_dict(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "kind": feature.kind,
        "description": described_feature(feature),
        "shape": list(feature.shape),
        "dtype": np.dtype(feature.dtype).name if feature.kind in ("array", "number") else None,
        "shapes": [list(shape) for shape in feature.shapes],
        "ranges": [list(pair) for pair in feature.ranges],
        "color": feature.color or None,
        "items": feature.items or None,
        "optional": feature.optional,
        "default": feature.default,
    }


def _features(described: Any) -> tuple[Feature, ...]:
    return tuple(map(_feature, described))


def _feature(described: Any) -> Feature:
    """Lenient: what is odd about one feature hides nothing else."""
    try:
        return feature_of(described)
    except FormatError:
        return Feature(described.name, "unknown", optional=bool(described.type.isOptional))


def _parse(message: Any, content: bytes) -> Any:
    try:
        return message.FromString(content)
    except (DecodeError, ValueError) as error:
        raise FormatError("a part of the model is damaged") from error


def _labels(spec: Any, kind: str, content: Any, blobs: BlobSource | None) -> Iterator[Any]:
    if kind in _LABELED:
        labeled = _parse(schema.Labeled, content) if isinstance(content, bytes) else content
        found = labeled.WhichOneof("ClassLabels")
        yield from getattr(labeled, found).vector if found else ()
    elif kind in _TEXTS - {"wordEmbedding"}:
        yield from _parse(schema.TextLabeled, content).stringClassLabels.vector
    elif kind == "mlProgram":
        for node in _nodes(spec.mlProgram):
            if node.type == "classify":
                yield from _classes(node, blobs)
                return


def _nodes(program: Any) -> Iterator[Node]:
    for entry in program.functions:
        function = Function("", entry.key, entry.value.opset)
        for specialization in entry.value.block_specializations:
            yield from block_nodes(function, specialization.value)


def _classes(node: Node, blobs: BlobSource | None) -> Iterator[Any]:
    """The constant list of strings or numbers that a classifier ends with."""
    operand = node.operand("classes")
    if operand is not None and operand.node is not None:
        operand = operand.node.operand("val")
    if operand is None or operand.value is None:
        return
    immediate = operand.value.immediateValue
    listed = immediate.WhichOneof("value") == "list"
    for item in _parse(schema.ListValue, immediate.list).values if listed else [operand.value]:
        texts = list(item.immediateValue.tensor.strings.values)
        if texts:
            yield from texts
        elif blobs is not None and tensor_type(item) is not None:
            yield from read_tensor(item, blobs, str(node)).reshape(-1).tolist()


def _facts(kind: str, content: Any, network: Any, described: Any) -> dict[str, Any]:
    facts = dict(_FACTS[kind](content)) if kind in _FACTS else {}
    if network is not None:
        facts |= _network_facts(network)
    for key, name in (("predictedFeatureName", "predicts"), ("predictedProbabilitiesName", "probabilities")):
        if getattr(described, key):
            facts[name] = getattr(described, key)
    return facts


def _network_facts(network: Any) -> dict[str, Any]:
    layers = [(layer, layer.WhichOneof("layer")) for layer in layers_of(network)]
    found = {
        "custom layers": [layer.custom.className for layer, kind in layers if kind == "custom"],
        "unknown layers": [layer.name for layer, kind in layers if kind is None],
    }
    return {"layers": len(network.layers)} | {
        fact: list(dict.fromkeys(names)) for fact, names in found.items() if names
    }


def _program_facts(program: Any) -> dict[str, Any]:
    outermost = list(_nodes(program))
    facts: dict[str, Any] = {
        "operations": sum(node.type != "const" and not node.is_constexpr for node in outermost),
        "operation sets": sorted({entry.value.opset for entry in program.functions}),
    }
    everywhere = list(flat(outermost))
    types = [node.op.outputs[0].type.tensorType.dataType for node in everywhere if _quantizes_an_activation(node)]
    if types:
        facts["quantized activations"] = len(types)
        facts["types of activations"] = sorted({BY_MIL[number].name if number in BY_MIL else "?" for number in types})
    if unknown := {node.type for node in everywhere} - KNOWN.keys():
        facts["unknown operations"] = sorted(unknown)
    return facts


def _quantizes_an_activation(node: Node) -> bool:
    source = node.operand("input")
    constant = source is not None and (source.value is not None or (source.node is not None and source.node.is_const))
    return node.type == "quantize" and bool(node.op.outputs) and not constant


def _tree_facts(content: bytes) -> dict[str, Any]:
    nodes = _parse(schema.TreeEnsemble, content).treeEnsemble.nodes
    return {"trees": len({node.treeId for node in nodes}), "nodes": len(nodes)}


def _text_facts(content: bytes) -> dict[str, Any]:
    found = _parse(schema.TextLabeled, content)
    return {"revision": found.revision} | ({"language": found.language} if found.language else {})


def _custom_facts(content: bytes) -> dict[str, Any]:
    found = _parse(schema.CustomModel, content)
    return {"class": found.className} | ({"description": found.description} if found.description else {})


def _link_facts(content: bytes) -> dict[str, Any]:
    file = _parse(schema.LinkedModel, content).linkedModelFile
    return {"file": file.linkedModelFileName.defaultValue, "search path": file.linkedModelSearchPath.defaultValue}


_FACTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mlProgram": _program_facts,
    "treeEnsembleClassifier": _tree_facts,
    "treeEnsembleRegressor": _tree_facts,
    **dict.fromkeys(_TEXTS, _text_facts),
    "customModel": _custom_facts,
    "linkedModel": _link_facts,
}
