"""What it takes for an operation to compute with 8-bit activations: the form of its weight, and the bytes of the pairs.

Products of integers need both sides to be integers: int8 with a scale for each channel, or, as Apple's guide has it for
iOS 18, a look-up table whose entries are int8 (https://apple.github.io/coremltools/docs-guides/source/
opt-joint-compression.html, "Joint palettization and quantization").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from corepress.coreml.activations.observers import Fixed
from corepress.coreml.activations.parts import Ranges, parts_of
from corepress.coreml.activations.patterns import CORE
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.op_configs import OpActivationLinearQuantizerConfig
from corepress.formats.mlprogram import Model, Weight
from corepress.searching.subject import Candidate
from corepress.targets import Target, requirements

# How a search quantizes activations: with a zero point, as the command does where a goal is given.
ARGUMENTS = {"mode": "linear"}
CONFIG = OptimizationConfig(OpActivationLinearQuantizerConfig(mode="linear"))


def multiplied(weight: Weight) -> bool:
    """Whether an operation that can compute with integers multiplies by this weight."""
    return any(consumer.op_type in CORE and consumer.argument == "weight" for consumer in weight.consumers)


def in_integers(candidate: Candidate, target: Target) -> Candidate | None:
    """The form, made of 8-bit integers where it is not; None for one that can't be."""
    if not candidate.steps:
        return candidate
    verb, arguments = candidate.steps[-1]
    if "outlier_fraction" in arguments:
        return None
    if verb == "quantize" and dict(arguments) == {"dtype": "int8"}:
        return candidate
    # With 8 bits a table of integers is hardly better than integers.
    if verb == "palettize" and len(candidate.steps) == 1 and arguments["nbits"] < 8 and "int8" in target.lut_dtypes:
        steps = ((verb, {**arguments, "lut_dtype": "int8"}),)
        return replace(candidate, label=f"{candidate.label}, int8 entries", steps=steps)
    return None


def whatever_its_size(candidate: Candidate) -> Candidate:
    """The form for weights of any number of elements, also for such as are not worth their bytes elsewhere."""
    return replace(candidate, steps=tuple((verb, {**given, "weight_threshold": 0}) for verb, given in candidate.steps))


def in_floating_point(model: Model) -> list[str]:
    """The operations that can compute with integers, but whose weights are none."""
    return [
        consumer.name
        for weight in model.weights()
        if multiplied(weight) and not _integers(weight)
        for consumer in weight.consumers
        if consumer.op_type in CORE
    ]


def _integers(weight: Weight) -> bool:
    needed = set(requirements(weight.read())) if weight.compression else set()
    weight.release()
    by_channel = "8-bit quantization" in needed and "per_block quantization" not in needed
    return by_channel or bool(needed & {"int8-LUT palettization", "uint8-LUT palettization"})


def bytes_of_pairs(model: Model, functions: Sequence[str]) -> int:
    """The bytes that a model grows by if all activations of these functions are quantized."""
    wanted = {name for part in parts_of(model, CONFIG) if part.function in functions for name in part.wanted}
    ranges = Ranges(model, CONFIG, tuple(functions), {name: Fixed(-1.0, 2.0) for name in wanted}, {})
    return ranges.written(quiet=True).size() - model.size()
