"""`describe`: everything about a model file that can be told without running it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corepress import targets
from corepress.description.parts import Part, Signature, part_of
from corepress.formats.coreai.asset import metadata as asset_metadata
from corepress.formats.coreai.kept import KEY, from_metadata
from corepress.formats.features import default_function, metadata_of
from corepress.formats.kinds import NETWORKS, leaves, with_article
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.before import quantized_before
from corepress.formats.neural_network import LayerWeight
from corepress.formats.package import bytes_on_disk
from corepress.formats.read import Other, read
from corepress.weights import worded_bits

_COREMLTOOLS = "com.github.apple.coremltools."
_CREATE_ML = "com.apple.createml."
_LAYER_WEIGHT = ("name", "layer_type", "shape", "form", "bits", "stored_bytes")
_WEIGHT = ("name", "function", "shape", "dtype", "compression", "bits", "bits_per_weight", "stored_bytes")
_ADVICE = "only ML programs and neural networks can be"


@dataclass(frozen=True)
class Ability:
    """Whether corepress can do something with a model, and how, or why not."""

    possible: bool
    text: str


@dataclass(frozen=True)
class Description:
    """What a model file holds. `describe` makes it.

    Args:
        path: The file or package.
        model: Its kind, inputs, outputs and stages.
        target: The oldest system that reads it, such as "iOS18".
        size: Bytes of all its files.
        spec_size: Bytes of the protobuf alone.
        converter: What made it, as far as it says.
        metadata: Author, license, description, version and what else is written there.
        weights: Those that corepress can compress, as `Weight` of `formats/mlprogram` or `LayerWeight` of
            `formats/neural_network`.
        forms: How many of them are stored how, such as {"float16": 10}.
        abilities: Of "compress", "run", "verify" and "calibrate": whether it is possible, and how or why not.
        quantized_before: Of each dense weight that had 4 bits or fewer before it came into the model, such as one of a
            GGUF file, how many columns shared a scale.

    Examples:
        >>> found = cto.describe("model.mlpackage")
        >>> found.target, dict(found.forms), found.abilities["compress"].possible
        ('iOS18', {'float16': 10}, True)
    """

    path: str
    model: Part
    target: str
    size: int
    spec_size: int
    converter: str
    metadata: Mapping[str, str]
    weights: tuple[Weight | LayerWeight, ...]
    forms: Mapping[str, int]
    abilities: Mapping[str, Ability]
    quantized_before: Mapping[str, int] = field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.stored_bytes for weight in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "path": self.path,
            **self.model.to_dict(),
            "target": self.target,
            "size": self.size,
            "spec_size": self.spec_size,
            "converter": self.converter,
            "metadata": dict(self.metadata),
            "forms": dict(self.forms),
            "abilities": {name: {"possible": a.possible, "text": a.text} for name, a in self.abilities.items()},
            "weights": [_plain(weight) for weight in self.weights],
            "quantized_before": dict(self.quantized_before),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def describe(path: str | Path) -> Description:
    """Say what a model of Core ML, of any kind, or of Core AI is, and what corepress can do with it. Nothing is run.

    Args:
        path: An `.mlpackage`, an `.mlmodel` or an `.aimodel`.

    Returns:
        Its kind, inputs, outputs, stages, weights and more.

    Raises:
        FormatError: For what is no Core ML model, or a damaged one.

    Examples:
        >>> cto.describe("net.mlmodel").model.kind
        'neural network'
    """
    found = read(path)
    if isinstance(found, Model) and found.core_ai:
        return _core_ai(found)
    package, spec = found.package, found.spec
    assert package is not None  # it was read from a path
    model = part_of(spec, found if isinstance(found, Model) else None)
    kinds = list(leaves(spec))
    weights: tuple[Weight | LayerWeight, ...] = () if isinstance(found, Other) else tuple(found.weights())
    metadata = metadata_of(spec)
    return Description(
        str(package.root),
        model,
        _target(model),
        bytes_on_disk(package.root if package.is_folder else package.spec),
        package.spec.stat().st_size,
        _converter(metadata),
        metadata,
        weights,
        Counter(map(_form, weights)),
        dict(_abilities(model, kinds)),
        quantized_before(found.weights()) if isinstance(found, Model) else {},
    )


def _core_ai(model: Model) -> Description:
    """The same of a Core AI model: what its library says of it, and what its weights are stored as."""
    said = asset_metadata(model.path)
    own = said.get("creatorDefinedMetadata") or {}
    texts = {name: said[name] for name in ("author", "description", "license", "version") if said.get(name)}
    weights = tuple(model.weights())
    with_library = Ability(True, "with Apple's own runtime (coreai-core)")
    return Description(
        str(model.path),
        _core_ai_part(model, own),
        targets.CORE_AI.name,
        bytes_on_disk(model.path),
        model.package.spec.stat().st_size,
        str(said.get("producer", "")),
        {name: str(text) for name, text in (texts | own).items() if name != KEY},
        weights,
        Counter(map(_form, weights)),
        {
            "compress": Ability(True, "palettize, quantize, prune, decompress"),
            "run": with_library,
            "verify": with_library,
            "calibrate": Ability(True, "with the runtime of corepress"),
        },
        quantized_before(weights),
    )


def _core_ai_part(model: Model, own: Mapping[str, Any]) -> Part:
    """Its functions, as a package that it was made of described them, where that was noted."""
    part = part_of(model.spec)
    names = [one.name for one in part.functions] or [default_function(model.spec.description)]
    kept = {name: noted for name in names if (noted := from_metadata(own, name)) is not None}

    def signature(one: Signature, name: str) -> Signature:
        noted = kept.get(name)
        return one if noted is None else replace(one, inputs=noted.interface.inputs, outputs=noted.interface.outputs)

    return replace(
        part,
        type="coreAI",
        kind="Core AI model",
        facts={"operations": (part.facts or {})["operations"]},
        signature=signature(part.signature, names[0]),
        functions=tuple(signature(one, one.name) for one in part.functions),
        labels=tuple(map(str, next((noted.classes for noted in kept.values() if noted.classes), ()))),
    )


def _target(model: Part) -> str:
    """The oldest system that reads a model: what the most demanding of its stages needs."""
    return targets.system_of(max(part.spec_version for part in model.all()))


def _converter(metadata: Mapping[str, str]) -> str:
    """What made a model, from what it says of itself."""
    if version := metadata.get(f"{_COREMLTOOLS}version"):
        source = next((metadata[key] for key in (f"{_COREMLTOOLS}source", "source") if key in metadata), "")
        return f"coremltools {version}" + (f", from {source}" if source else "")
    create = {key.removeprefix(_CREATE_ML): text for key, text in metadata.items() if key.startswith(_CREATE_ML)}
    if create:
        return " ".join(["Create ML", *(f"{key} {text}" for key, text in sorted(create.items()))])
    return metadata.get("source", "")


def _form(weight: Weight | LayerWeight) -> str:
    """How a weight is stored, for counting: "float16", "palettized, 4 bits"."""
    if isinstance(weight, LayerWeight):
        return weight.form if weight.form in ("float16", "float32") else f"{weight.form}, {worded_bits(weight.bits)}"
    return f"{weight.compression}, {worded_bits(weight.bits)}" if weight.compression else weight.dtype


def _abilities(model: Part, kinds: list[str]) -> Iterator[tuple[str, Ability]]:
    program, network = "mlProgram" in kinds, bool(set(NETWORKS) & set(kinds))
    own = ("mlProgram", *NETWORKS, *(("nonMaximumSuppression",) if program or network else ()))
    others = list(dict.fromkeys(with_article(kind) for kind in kinds if kind not in own))
    yield "compress", _compressing(model, program, network)
    running = _running(model, others, program or network)
    yield "run", running
    yield "verify", running
    if program and running.possible:
        ways = "weights fitted to sample inputs, W8A8"
        yield "calibrate", Ability(True, ways + ("; not the neural networks in it" if network else ""))
    elif program:
        yield "calibrate", running
    else:
        yield "calibrate", Ability(False, "only ML programs, and pipelines that hold some, can be calibrated")


def _compressing(model: Part, program: bool, network: bool) -> Ability:
    if program:
        ways = "palettize, quantize, prune, decompress"
        return Ability(True, ways + ("; not the neural networks in it" if network else ""))
    if network:
        return Ability(True, "palettize, quantize, decompress, as a neural network")
    return Ability(False, f"{_ADVICE} compressed, and this is {with_article(model.type)}")


def _running(model: Part, others: list[str], holds_any: bool) -> Ability:
    custom, layers, operations = (
        ", ".join(dict.fromkeys(name for part in model.all() for name in (part.facts or {}).get(fact, ())))
        for fact in ("custom layers", "unknown layers", "unknown operations")
    )
    if operations:
        return Ability(False, f"it holds operations that corepress does not know: {operations}")
    if others:
        return Ability(False, f"it holds {', '.join(others)}" if holds_any else f"{_ADVICE} run")
    if custom:
        return Ability(True, f"from Python, with a function for each custom layer ({custom})")
    if layers:
        return Ability(True, f"with PyTorch, if no output needs the layers that corepress does not know: {layers}")
    return Ability(True, "with PyTorch")


def _plain(weight: Weight | LayerWeight) -> dict[str, Any]:
    if isinstance(weight, LayerWeight):
        return {name: getattr(weight, name) for name in _LAYER_WEIGHT}
    consumers = [f"{consumer.op_type} {consumer.name}" for consumer in weight.consumers]
    return {name: getattr(weight, name) for name in _WEIGHT} | {"consumers": consumers}
