"""`corepress info`: what a model is, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from corepress.tables import NamesTable, facts

if TYPE_CHECKING:
    from corepress.description import Description, Part
    from corepress.formats.features import Feature

SHOWN_WEIGHTS = 40
_SHOWN_LABELS = 5


def info(described: Description, everything: bool, as_json: bool) -> None:
    """What is in a model: its kind, its inputs and outputs, its size, what can be done with it, its weights."""
    from corepress.cli import streams

    if as_json:
        streams.document(described.to_dict())
        return
    from corepress.cli.terminal import console

    out = console()
    out.print(facts(list(_lines(described))))
    if not described.weights:
        return
    weights = described.weights
    shown = weights if everything else sorted(weights, key=lambda weight: -weight.stored_bytes)[:SHOWN_WEIGHTS]
    out.print(_weights(shown))
    if len(shown) < len(weights):
        out.print(f"The {len(shown)} largest of {len(weights)} weights; --all shows all.")


def _lines(described: Description) -> Iterator[tuple[str, str]]:
    from corepress.sizes import size

    model = described.model
    yield "file", described.path
    newest = max(part.spec_version for part in model.all())
    specification = f" (specification {model.spec_version}" + (
        f", {newest} inside)" if newest > model.spec_version else ")"
    )
    core_ai = model.type == "coreAI"
    yield "kind", f"{model.kind}{'' if core_ai else specification}, for {described.target} and newer"
    if described.converter:
        yield "made by", described.converter
    for name in ("author", "description", "version", "license"):
        if name in described.metadata:
            yield name, described.metadata[name]
    yield (
        "size",
        f"{size(described.size)}, {size(described.spec_size)} of it the {'program' if core_ai else 'protobuf'}",
    )
    yield from _signature(model)
    yield from _facts(model)
    yield from _trainable(model)
    for number, stage in enumerate(model.stages, 1):
        yield f"stage {number}", "\n".join(_stage(stage))
    if described.weights:
        forms = "; ".join(f"{count} {form}" for form, count in sorted(described.forms.items()))
        yield "weights", f"{len(described.weights)} in {size(described.stored_bytes)}: {forms}"
    if described.quantized_before:
        from corepress.cli.before import told

        yield "quantized before", told(described.quantized_before.values())
    for name, ability in described.abilities.items():
        yield name, f"{'yes' if ability.possible else 'no'}: {ability.text}"


def _signature(part: Part) -> Iterator[tuple[str, str]]:
    if part.functions:
        for function in part.functions:
            yield f"function {function.name}", "\n".join(_features(function))
        return
    for name, features in (
        ("inputs", part.signature.inputs),
        ("outputs", part.signature.outputs),
        ("states", part.signature.states),
    ):
        if features:
            yield name, "\n".join(map(_feature, features))


def _features(signature: Any) -> Iterator[str]:
    for what in ("inputs", "outputs", "states"):
        yield from (f"{what[:-1]} {_feature(feature)}" for feature in getattr(signature, what))


def _feature(feature: Feature) -> str:
    from corepress.description.parts import described_feature

    return f"{feature.name}: {described_feature(feature)}"


def _facts(part: Part) -> Iterator[tuple[str, str]]:
    for name, fact in (part.facts or {}).items():
        yield name, ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)
    if part.labels:
        first = ", ".join(part.labels[:_SHOWN_LABELS])
        yield "classes", f"{len(part.labels)}: {first}{', …' if len(part.labels) > _SHOWN_LABELS else ''}"


def _trainable(part: Part) -> Iterator[tuple[str, str]]:
    if part.updatable:
        what = f"layers {', '.join(part.updatable_layers)}" if part.updatable_layers else "yes"
        given = f"; from {', '.join(part.training_inputs)}" if part.training_inputs else ""
        yield "updatable", what + given


def _stage(part: Part, indent: str = "") -> Iterator[str]:
    named = f"{part.name}: " if part.name else ""
    yield f"{indent}{named}{part.kind}"
    for label, text in (*_facts(part), *_trainable(part)):
        yield f"{indent}  {label} {text}"
    for line in _features(part.signature):
        yield f"{indent}  {line}"
    for stage in part.stages:
        yield from _stage(stage, indent + "  ")


def _weights(weights: Sequence[Any]) -> NamesTable:
    networks = hasattr(weights[0], "layer_type")
    if networks:
        table = NamesTable("weight", "layer", "shape", "form", "bits", "bytes", lesser=("layer", "bytes", "form"))
    else:
        table = NamesTable(
            *("weight", "shape", "type", "form", "bits/weight", "bytes", "read by"),
            lesser=("type", "bits/weight", "read by", "bytes", "form"),
        )
    for weight in weights:
        shape, stored = "x".join(map(str, weight.shape)), f"{weight.stored_bytes:,}"
        if networks:
            table.add_row(weight.name, weight.layer_type, shape, weight.form, str(weight.bits), stored)
            continue
        readers = ", ".join(sorted({consumer.op_type for consumer in weight.consumers}))
        bits = f"{weight.bits_per_weight:.2f}"
        table.add_row(weight.name, shape, weight.dtype, weight.compression, bits, stored, readers)
    return table
