"""The ranges of a model's activations, found in samples."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from corepress.coreml.activations.calibrate import calibrate, runnable
from corepress.coreml.activations.observers import observer_of
from corepress.coreml.activations.parts import Part, Ranges, parts_of
from corepress.coreml.activations.patterns import CORE, before
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.coreml.opset import reach
from corepress.coreml.rules import Item, without_effect
from corepress.engine import Progress
from corepress.errors import ConfigError, Missed
from corepress.fields import warn_or_raise
from corepress.formats.mlprogram import Model
from corepress.sequences import Sample

log = logging.getLogger(__name__)


class RangeOptions(NamedTuple):
    """What `linear_quantize_activations` says about how ranges are found. `words`: what the levels of the configuration
    are called where it was written."""

    observer: str
    target: Any
    device: str
    workers: int | None
    progress: Progress | None
    strict: bool
    words: Mapping[str, str]


def find_ranges(
    model: Model,
    config: OptimizationConfig,
    samples: Iterable[Sample],
    function: str | None,
    options: RangeOptions,
    *,
    rules: Collection[str] | None = None,
    warns: bool,
) -> Ranges:
    """The ranges of the activations, in a copy of the model that has been raised to what they need.

    `rules`: the functions that rules of the configuration may be for: those that do nothing in any of them are told; by
    default the functions that run, and where there are none nothing is told. `warns`: of single steps where there
    should be sequences, which nobody has told yet.
    """
    observer, target, device, workers, progress, strict, words = options
    new_observer = observer_of(observer)
    result = model.copy()
    result.skipped = dict(model.skipped)  # the weights, which this step does not touch
    reach(result, "iOS17", "quantized activations", target)
    program, functions = runnable(model, function, device)
    everything = list(parts_of(result, config))
    parts = [part for part in everything if part.function in functions]
    asked = parts if rules is None else [part for part in everything if part.function in rules]
    warn_or_raise(_idle_rules(config, asked, words) if asked else (), log, strict)
    if asked and not any(part.values for part in asked):
        sentence = (
            "linear_quantize_activations quantized no activation: the configuration covers none of the operations that "
            f"can compute with activations of 8 bits ({', '.join(CORE)})"
        )
        if strict:
            raise Missed(sentence)
        log.warning("%s", sentence)
    observers = {name: new_observer() for part in parts for name in sorted(part.wanted)}
    trouble = calibrate(program, samples, observers, workers=workers, progress=progress, warns=warns)
    return Ranges(result, config, tuple(functions), observers, trouble)


def _idle_rules(config: OptimizationConfig, parts: Iterable[Part], words: Mapping[str, str]) -> Iterator[str]:
    """The sentences about rules that change nothing."""
    anything = OpLinearQuantizerConfig()
    taken = [node for part in parts for node in before(part.view, part.inputs, lambda node: anything)]
    items = [Item(node.name, ((node.type, node.name),), str) for node in taken]
    operations = [node for part in parts for node in part.view if not (node.is_const or node.is_constexpr)]
    names, types = ({getattr(node, fact): None for node in operations} for fact in ("name", "type"))
    return without_effect(config, items, names, types, words, "activation")


def names_of_functions(model: Model, samples: Mapping[str, Any]) -> list[str]:
    """The functions that samples are given for. Raises ConfigError where the model has no such function."""
    known = [entry.key for entry in model.spec.mlProgram.functions]
    if not samples or not set(samples) <= set(known):
        named = f", or {{function: samples}}; the functions are: {', '.join(known)}" if known else ""
        raise ConfigError(f"sample_data must be a list of samples{named}")
    return list(samples)
