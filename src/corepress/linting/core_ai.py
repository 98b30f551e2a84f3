"""Rules about Core AI models, which have tables of their own: what is reported of Core ML need not hold for Core AI.

`WEIGHTS` is about how a weight is stored, as in `weights.py`, `PROGRAMS` about operations, as in `programs.py`. `notes`
says what there is of which nobody has reported anything yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from corepress.formats.mlprogram import Weight
from corepress.linting.function import Find, Function, Spot, dtypes, float32_products
from corepress.linting.rule import Rule
from corepress.linting.weights import Find as FindOfWeight
from corepress.linting.weights import in_blocks
from corepress.sizes import size
from corepress.targets import CORE_AI, TARGETS, requirements
from corepress.weights import CompressedWeight

# Dense weights are told of where they are that part of all bytes.
_MUCH = 0.5


def _argmax_of_halves(function: Function) -> Iterator[Spot]:
    for node in function.nodes:
        if node.type == "argmax" and any(
            operand.node is not None and "float16" in dtypes(operand.node)
            for operands in node.operands.values()
            for operand in operands
        ):
            yield Spot("operation", node.name, "argmax of float16")


WEIGHTS: dict[Rule, FindOfWeight] = {
    Rule(
        id="core-ai-blocks",
        severity="wrong",
        title="Core AI: integers with a scale for each block",
        known=(
            "On an iPhone 16 Pro Max with iOS 27.0 a vision encoder with int8 blocks had a cosine of 0.367 with its "
            "original on the Neural Engine, and of 0.999 on the GPU; with 8-bit tables for groups of 32 channels it "
            "had 0.9975 on the Neural Engine. Of a language model with int4 blocks coreai-build left everything to "
            "the GPU, without a failure."
        ),
        instead="Use look-up tables, or scales by channel; keep blocks for the GPU.",
        devices=("ane",),
        since="iOS 27",
        threads=(
            "https://github.com/apple/coreai-models/issues/279",
            "https://github.com/apple/coreai-models/issues/205",
        ),
    ): in_blocks,
}
"""The rules about how a weight is stored, each with the function that tells whether it applies."""

PROGRAMS: dict[Rule, Find] = {
    Rule(
        id="core-ai-argmax",
        severity="wrong",
        title="Core AI: argmax of float16",
        known=(
            "On an iPhone 17 Pro with iOS 27.0, as systems choose the devices themselves, a class map by argmax of "
            "float16 was wrong at half of its places, and with a float16 result the app was ended; by argmax of "
            "float32, and on the CPU alone, it was right."
        ),
        instead="Cast to float32 before argmax, or give the scores and take their maximum in the app.",
        devices=("ane", "gpu"),
        since="iOS 27",
        threads=("https://github.com/apple/coreai-torch/issues/116",),
    ): _argmax_of_halves,
    Rule(
        id="core-ai-float32",
        severity="slow",
        title="Core AI: products that are computed in float32",
        known=(
            "The Neural Engine computes in float16: an embedding model ran there on an M4 with macOS 27.0 only once "
            "the last operations in float32 were gone."
        ),
        instead="Migrate with precision float16, or convert a model of float16.",
        devices=("ane",),
        since="macOS 27",
        threads=("https://github.com/john-rocky/coreai-model-zoo/pull/36",),
    ): float32_products,
}
"""The rules about operations, each with the function that finds them."""


def notes(weights: Iterable[Weight], stored: Iterable[tuple[Weight, CompressedWeight]]) -> Iterator[str]:
    """What nobody has reported anything of: forms that only Core AI has; and how much is dense."""
    newest = TARGETS[-1].features
    own = sorted({feature for _, form in stored for feature in requirements(form)} - newest & CORE_AI.features)
    if own:
        yield f"nobody has reported yet how devices take what Core AI alone has: {', '.join(own)}"
    listed = [weight for weight in weights if weight.consumers]
    total = sum(weight.stored_bytes for weight in listed)
    dense = sum(weight.stored_bytes for weight in listed if not weight.compression)
    if total and dense > _MUCH * total and dense < total:
        yield f"{size(dense)} of {size(total)} of weights are dense, beside compressed ones"
