"""Raise a model to a newer deployment target, with a check that every operation means the same there.

`opsets.py` has what changed from one operation set to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.constexpr import read_weight, set_name, write_weight
from corepress.formats.mlprogram.program import Node, edit, nodes, program_models, programs
from corepress.formats.mlprogram.values import immediate_value, read_tensor, string_value, tensor_type
from corepress.opsets import KNOWN
from corepress.targets import Target, by_opset, by_spec_version
from corepress.targets import target as find_target

log = logging.getLogger(__name__)


def raise_target(model: Model, target: Any) -> list[str]:
    """Raise `model`, in place, to a deployment target such as "iOS18"; returns what was done, in sentences.

    Opsets and specification version go up, existing compressed weights move to the new generation of operations, and
    operations get the parameters that keep their meaning. Raises ConfigError for an operation that can't mean the
    same there. A model that is new enough already is left as it is.
    """
    goal = find_target(target)
    reached = oldest_target(model)
    if goal.core_ai and not reached.core_ai:
        raise ConfigError(f"target {goal}: that is a Core AI model, which corepress migrate makes of a package")
    if min(reached.spec_version, model.spec_version) >= goal.spec_version:
        return []
    done = [f"raised from {reached.name} to {goal.name}"]
    replacements: list[tuple[Node, Sequence[Any]]] = []
    for node in nodes(model.spec):
        old = by_opset(node.function.opset)
        if old.spec_version < goal.spec_version:
            done += _raise_operation(node, old, goal, model)
            if old.constexpr == "attributes" and goal.constexpr == "inputs" and node.is_constexpr:
                replacements.append((node, _next_generation(node, model)))
    if replacements:
        done.append(f"moved {len(replacements)} compressed weights to the operations of {goal.name}")
    edit(replacements)
    _raise_functions(model.spec, goal)
    for sentence in done:
        log.info("%s: %s", model.path, sentence)
    return done


def reach(model: Model, needed: str, purpose: str, target: Any) -> None:
    """Raise `model`, in place, to the target `needed`, which the `purpose` can't do without, and further to `target`.

    A rise that nobody asked for is warned of: the model no longer runs on the older system. Raises ConfigError for a
    `target` that is older than the model, which can't be lowered, or than `needed`.
    """
    before, least = oldest_target(model), find_target(needed)
    if target is None:
        raise_target(model, least)
        if before.spec_version < least.spec_version:
            log.warning(
                "%s was raised from %s to %s, which %s need: it no longer runs on older systems",
                *(model.path, before.name, least.name, purpose),
            )
        return
    goal = find_target(target)
    if goal.spec_version < least.spec_version:
        raise ConfigError(f"target {goal.name} is too old: {purpose} need {least.name} or newer")
    if goal.spec_version < before.spec_version:
        raise ConfigError(
            f"target {goal.name} has no effect: the model is for {before.name} already and can't be lowered; convert "
            f"it anew for {goal.name}, or leave the target out"
        )
    raise_target(model, goal)


def oldest_target(model: Model) -> Target:
    """The target of the oldest function of a model: what all its weights can be held in."""
    functions = (function.value for _, program in programs(model.spec) for function in program.functions)
    found = [by_opset(function.opset) for function in functions] or [by_spec_version(model.spec_version)]
    return min(found, key=lambda target: target.spec_version)


def _raise_operation(node: Node, old: Target, goal: Target, model: Model) -> list[str]:
    known = KNOWN.get(node.type)
    if known is None or goal.name not in known.systems:
        raise ConfigError(f"{node}: not an operation that {goal.name} is known to have; keep the model's own target")
    notes = []
    for change in known.changes:
        if not old.spec_version < find_target(change.since).spec_version <= goal.spec_version:
            continue
        if change.broken:
            raise ConfigError(f"{node}: its meaning changed after {old.name} ({change.broken}); convert the model anew")
        for name, value in change.add:
            _add_parameter(node, name, value)
        if change.negative_indices and _may_be_negative(node, model):
            notes.append(f"{node}: check that its indices are never negative, which {goal.name} does not allow")
    return notes


def _add_parameter(node: Node, name: str, value: int | bool | str) -> None:
    if node.operand(name) is not None:
        return
    if isinstance(value, str):
        content = string_value(value)
    else:
        content = immediate_value(np.array(value, np.bool_ if isinstance(value, bool) else np.int32))
    node.op.inputs.add(key=name).value.arguments.add().value.CopyFrom(content)


def _may_be_negative(node: Node, model: Model) -> bool:
    operand = node.operand("indices")
    if operand is not None and operand.node is not None and operand.node.is_const:
        operand = operand.node.operand("val")
    if operand is None or operand.value is None or tensor_type(operand.value) is None:
        return True
    indices = read_tensor(operand.value, model, f"{node}, indices")
    return bool(indices.size and indices.min() < 0)


def _next_generation(node: Node, model: Model) -> list[Any]:
    if node.type == "constexpr_cast":
        return [_attributes_as_inputs(node.op)]
    weight = read_weight(node, model)
    assert not isinstance(weight, np.ndarray)
    operations = write_weight(weight, node.op.outputs[0].name, generation=2, store=model.store)
    set_name(operations[-1], node.name)
    return operations


def _attributes_as_inputs(op: Any) -> Any:
    moved = type(op).FromString(op.SerializeToString())
    del moved.attributes[:]
    for entry in op.attributes:
        if entry.key == "name":
            moved.attributes.add(key=entry.key).value.CopyFrom(entry.value)
        else:
            moved.inputs.add(key=entry.key).value.arguments.add().value.CopyFrom(entry.value)
    return moved


def _raise_functions(spec: Any, goal: Target) -> None:
    for _, program in programs(spec):
        for function in program.functions:
            if by_opset(function.value.opset).spec_version < goal.spec_version:
                for block in function.value.block_specializations:
                    if block.key == function.value.opset:
                        block.key = goal.opset
                function.value.opset = goal.opset
    for model in program_models(spec):
        model.specificationVersion = max(model.specificationVersion, goal.spec_version)
