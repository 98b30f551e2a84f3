"""Which weights a compression touches, and the configuration that each of them gets."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from corepress.configuration import LEFT_ALONE
from corepress.coreml.config import OpCompressorConfig, OptimizationConfig
from corepress.engine import Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import nodes
from corepress.targets import by_opset

FLOATS = ("float16", "float32")
_VECTOR = "Core ML takes compressed weights of rank 2 and more"
_CORE_AI_VECTOR = "it is a vector, such as a bias: little would be gained"
_OUTPUT = "it is an output of the function, where Core ML takes no compressed weight"
_CORE_AI_OUTPUT = "it is an output of the function: nothing multiplies with it"
DENSE_FIRST = "decompress_weights makes it dense first"


def asks(config: OptimizationConfig, weights: Iterable[Weight]) -> bool:
    """Whether a configuration asks for any of these weights to be compressed, be it possible or not."""
    rules = (rule for weight in weights for rule in config.rules_for(weight.name, consumers_of(weight)))
    return any(config.held(rule) is not None for rule in rules)


def asks_of_operations(config: OptimizationConfig, model: Model) -> bool:
    """The same of operations, whose activations a configuration may be for."""
    operations = (node for node in nodes(model.spec) if not (node.is_const or node.is_constexpr))
    return any(config.config_for(node.name, [(node.type, node.name)]) is not None for node in operations)


def consumers_of(weight: Weight) -> tuple[tuple[str, str], ...]:
    """The operations that read a weight, each (type, name)."""
    return tuple((consumer.op_type, consumer.name) for consumer in weight.consumers)


def config_for(weight: Weight, config: OptimizationConfig, joint_forms: Collection[str], joint: bool) -> Any:
    """The configuration that `config` has for a weight.

    `joint_forms`: the forms of compression that may be compressed further, if `joint` asks for it.
    Raises Skip for everything that is to be left alone, ConfigError when consumers disagree.
    """
    if weight.dtype not in FLOATS:
        raise Skip(f"{weight.dtype} numbers are not compressed, only floating-point ones", quiet=True)
    consumers = consumers_of(weight)
    if not consumers:
        raise Skip("no operation reads it", quiet=True)
    chosen: OpCompressorConfig | None = config.config_for(weight.name, consumers)
    if chosen is None:
        raise Skip(LEFT_ALONE, quiet=True)
    if len(weight.shape) < 2:
        raise Skip(_CORE_AI_VECTOR if _is_of_core_ai(weight) else _VECTOR, quiet=True)
    threshold = getattr(chosen, "weight_threshold", None)
    if threshold is not None and weight.size <= threshold:
        raise Skip(f"it has no more than {threshold} elements (weight_threshold)", quiet=True)
    if weight.compression and weight.compression not in joint_forms:
        raise Skip(f"it is {weight.compression} already, which can't be compressed further: {DENSE_FIRST}")
    if weight.compression and not joint:
        raise Skip(f"it is {weight.compression} already; joint_compression=True compresses it further")
    if weight.is_output:
        raise Skip(_CORE_AI_OUTPUT if _is_of_core_ai(weight) else _OUTPUT)
    return chosen


def _is_of_core_ai(weight: Weight) -> bool:
    return by_opset(weight.node.function.opset).core_ai
