"""What the rules find in what is stored small. Commands that compress ask this at their end, so that little is imported
here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.weight import find_weights
from corepress.linting.outline import outlines, quantizes_activation
from corepress.linting.rule import Finding, Group, grouped
from corepress.linting.weights import DEQUANTIZED, Place, applying, stored_small
from corepress.targets import CORE_AI, TARGETS, Target, system_of
from corepress.weights import CompressedWeight

if TYPE_CHECKING:
    from corepress.formats.neural_network import LayerWeight
    from corepress.formats.neural_network import Model as Networks


def of_changed(model: Model | Networks) -> list[Group]:
    """What the rules find in weights that were written anew since the model was loaded, and in activations that were
    quantized, by rule."""
    if model.origin is None:
        return []
    if isinstance(model, Model):
        return grouped(_of_changed(model, model.origin))
    # The same weights in the same order; their names need not differ.
    pairs = zip(model.origin.weights(), model.weights(), strict=True)
    return grouped(of_layers([now for before, now in pairs if before.params != now.params]))


def _of_changed(model: Model, origin: Model) -> Iterator[Finding]:
    everything = nodes(model.spec)
    changed = [w for w in find_weights(model, everything) if (w.function, w.output) in model.changed]
    if model.core_ai:
        yield from of_core_ai(outlines(changed))
        return
    yield from of_weights(outlines(changed), oldest(model.spec_version, None))
    if any(map(quantizes_activation, everything)) and not any(map(quantizes_activation, nodes(origin.spec))):
        from corepress.linting.programs import of_activations

        yield from of_activations(everything)


def of_weights(weights: list[tuple[Weight, CompressedWeight]], system: Target) -> Iterator[Finding]:
    """What the rules find in compressed weights, each with its form, of a model that will run on a system."""
    opsets = {target.opset: target for target in TARGETS}
    for weight, form in weights:
        place = Place(weight.consumers, opsets.get(weight.node.function.opset, TARGETS[-1]), system)
        for rule, found in applying(form, place):
            yield Finding(rule, weight.function, "weight", weight.name, found)


def of_core_ai(weights: list[tuple[Weight, CompressedWeight]]) -> Iterator[Finding]:
    """The same for weights of a Core AI model."""
    from corepress.linting.core_ai import WEIGHTS

    for weight, form in weights:
        for rule, found in applying(form, Place(weight.consumers, CORE_AI, CORE_AI), WEIGHTS):
            yield Finding(rule, weight.function, "weight", weight.name, found)


def of_layers(weights: list[LayerWeight]) -> Iterator[Finding]:
    """The same for weights of neural networks."""
    for weight in weights:
        if found := stored_small(weight):
            yield Finding(DEQUANTIZED, "", "weight", weight.name, found)


def oldest(version: int, given: Target | None) -> Target:
    """The oldest system on which a model of a specification version will run."""
    if given is None:
        older = [known for known in TARGETS if known.spec_version <= version]
        return older[-1] if older else TARGETS[0]
    if given.spec_version < version:
        raise ConfigError(
            f'target="{given}": the model needs {system_of(version)} and does not run there; give that, or a newer one'
        )
    return given
