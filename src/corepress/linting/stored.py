"""What the rules about weights find in those of a model. Commands that compress ask this at their end, so that little
is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model, Weight
from corepress.linting.outline import outline
from corepress.linting.rule import Finding, Group, grouped
from corepress.linting.weights import DEQUANTIZED, Place, applying, stored_small
from corepress.targets import TARGETS, Target, system_of

if TYPE_CHECKING:
    from corepress.formats.neural_network import LayerWeight
    from corepress.formats.neural_network import Model as Networks


def of_changed(model: Model | Networks) -> list[Group]:
    """What the rules about weights find in those that were written anew since the model was loaded, by rule."""
    if isinstance(model, Model):
        weights = [weight for weight in model.weights() if (weight.function, weight.output) in model.changed]
        return grouped(of_weights(weights, oldest(model.spec_version, None)))
    if model.origin is None:
        return []
    # The same weights in the same order; their names need not differ.
    pairs = zip(model.origin.weights(), model.weights(), strict=True)
    return grouped(of_layers([now for before, now in pairs if before.params != now.params]))


def of_weights(weights: list[Weight], system: Target) -> Iterator[Finding]:
    opsets = {target.opset: target for target in TARGETS}
    for weight in weights:
        place = Place(weight.consumers, opsets.get(weight.node.function.opset, TARGETS[-1]), system)
        for rule, found in applying(outline(weight), place):
            yield Finding(rule, weight.function, "weight", weight.name, found)


def of_layers(weights: list[LayerWeight]) -> Iterator[Finding]:
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
