"""`lint`: all that the rules find in a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corepress.formats.features import interface_of
from corepress.formats.kinds import NETWORKS, kind_of, leaves, models, with_article
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import Function, Node, nodes
from corepress.formats.mlprogram.weight import find_weights
from corepress.formats.neural_network import Model as Networks
from corepress.formats.read import Other, read
from corepress.linting.constants import RULES as CONSTANT_RULES
from corepress.linting.core_ai import PROGRAMS as CORE_AI_RULES
from corepress.linting.core_ai import notes
from corepress.linting.findings import Findings
from corepress.linting.function import Find
from corepress.linting.function import Function as Subject
from corepress.linting.networks import RULES as NETWORK_RULES
from corepress.linting.networks import Network
from corepress.linting.outline import outlines
from corepress.linting.programs import RULES as PROGRAM_RULES
from corepress.linting.rule import Device, Finding, Rule, checked_device, ordered
from corepress.linting.stored import of_core_ai, of_layers, of_weights, oldest
from corepress.targets import CORE_AI, Target, system_of
from corepress.targets import target as named
from corepress.weights import CompressedWeight


def lint(model: Any, device: str | None = None, target: Any = None) -> Findings:
    """Find what a model holds that is valid, but of which somebody reported that a device gets it wrong or is slow.

    Nothing is run, and nothing was measured on a device by corepress: each rule names the threads that it rests on.

    Args:
        model: A path, a `corepress.Model`, a `corepress.neural_network.Model`, or an `MLModel` of coremltools.
        device: Only what concerns the Neural Engine ("ane"), the "gpu" or the "cpu"; by default all of them.
        target: The oldest system on which the model will run, such as "iOS18"; by default the oldest that reads it.

    Returns:
        The findings, those of wrong answers first.

    Raises:
        ConfigError: For an unknown device or target, and a target that can't read the model.
        FormatError: For what is no Core ML model, or a damaged one.

    Examples:
        >>> [finding.name for finding in cto.lint("small.mlpackage").items][:2]
        ['conv2_weight_to_fp16', 'conv3_weight_to_fp16']
        >>> cto.lint("model.mlpackage").items
        ()
    """
    asked = checked_device(device)
    given = None if target is None else named(target)
    held = _held(model)
    if isinstance(held, Model) and held.core_ai:
        return _of_core_ai(held, asked)
    version = held.spec_version if isinstance(held, Model) else int(held.spec.specificationVersion)
    found = _in(held, oldest(version, given))
    path = "" if held.package is None else str(held.package.root)
    items = ordered(item for item in found if item.rule.speaks_of(asked))
    system = system_of(version) if given is None else given.name
    return Findings(path, system, asked, items, tuple(_unspoken(held.spec)))


def _of_core_ai(model: Model, device: Device | None) -> Findings:
    everything = nodes(model.spec)
    weights = find_weights(model, everything)
    stored = outlines(weights)
    found = [*of_core_ai(stored), *_in_functions(model, everything, weights, stored, CORE_AI_RULES)]
    items = ordered(item for item in found if item.rule.speaks_of(device))
    return Findings(str(model.path), CORE_AI.name, device, items, tuple(notes(weights, stored)))


def _held(model: Any) -> Model | Networks | Other:
    if isinstance(model, Model | Networks | Other):
        return model
    if isinstance(model, str | Path):
        return read(model)
    from corepress.coreml.interop import as_model  # an MLModel, of which few know

    return as_model(model)


def _in(held: Model | Networks | Other, system: Target) -> Iterator[Finding]:
    if isinstance(held, Model):
        yield from _in_program(held, system)
    elif isinstance(held, Networks):
        yield from of_layers(held.weights())
    for name, spec in models(held.spec):
        if kind_of(spec) in NETWORKS:
            yield from _in_network(name, spec)


def _in_program(model: Model, system: Target) -> Iterator[Finding]:
    everything = nodes(model.spec)
    weights = find_weights(model, everything)
    stored = outlines(weights)
    yield from of_weights(stored, system)
    yield from _in_functions(model, everything, weights, stored, PROGRAM_RULES | CONSTANT_RULES)


def _in_functions(
    model: Model,
    everything: list[Node],
    weights: list[Weight],
    stored: list[tuple[Weight, CompressedWeight]],
    rules: Mapping[Rule, Find],
) -> Iterator[Finding]:
    forms: dict[str, list[CompressedWeight]] = {}
    for weight, form in stored:
        forms.setdefault(weight.function, []).append(form)
    sizes: Counter[str] = Counter()
    for weight in weights:
        sizes[weight.function] += weight.stored_bytes
    descriptions = {name: spec.description for name, spec in models(model.spec)}
    by_function: dict[Function, list[Node]] = {}
    for node in everything:
        by_function.setdefault(node.function, []).append(node)
    for function, inside in by_function.items():
        name, interface = str(function), interface_of(descriptions[function.program], function.name)
        seen = Subject(name, inside, interface, forms.get(name, []), sizes[name], model)
        for rule, find in rules.items():
            yield from (Finding(rule, name, *spot) for spot in find(seen))


def _in_network(name: str, spec: Any) -> Iterator[Finding]:
    network = Network(getattr(spec, kind_of(spec)), interface_of(spec.description, ""))
    for rule, find in NETWORK_RULES.items():
        yield from (Finding(rule, name, *spot) for spot in find(network))


def _unspoken(spec: Any) -> Iterator[str]:
    """What is in a model of which no rule speaks."""
    for kind in dict.fromkeys(leaves(spec)):
        if kind != "mlProgram" and kind not in NETWORKS:
            yield f"no rule speaks of {with_article(kind)}"
