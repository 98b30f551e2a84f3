"""Rules about how one weight is stored. `RULES` is the table; a new rule is an entry in it, and a function.

A function gets the form of a weight, whose numbers it must not look at, for they may be left out (`outline.py`), and
where the weight stands. It says what it found in a few words, or nothing where the rule does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.formats.mlprogram import Consumer
from corepress.linting.rule import Rule
from corepress.targets import Target, requirements
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, worded_bits

if TYPE_CHECKING:
    from corepress.formats.neural_network import LayerWeight

_PERFORMANCE = "https://apple.github.io/coremltools/docs-guides/source/opt-palettization-perf.html"
_OPT = "https://apple.github.io/coremltools/docs-guides/source/opt-opt1_3.html"
_SMALLEST_GROUP = 8
_PLAIN = ("float32", "float16", "none", "unknown")


class Place(NamedTuple):
    """Where a weight stands: what reads it, the system whose operations hold it, the oldest on which it will run."""

    consumers: tuple[Consumer, ...]
    opset: Target
    oldest: Target


Find = Callable[[CompressedWeight, Place], str]


def _scale_over_lut(form: CompressedWeight, place: Place) -> str:
    if "per_channel_scale palettization" in requirements(form):
        return "a scale over a look-up table"
    # coremltools writes the same as a scale over the numbers of a table, which it repeats for each channel.
    inner = form.values if isinstance(form, Sparse) else form
    scaled = inner.lut if isinstance(inner, Palettized) else inner
    floats = isinstance(scaled, Quantized) and isinstance(scaled.data, np.ndarray) and scaled.data.dtype.kind == "f"
    return "a scale over floating-point numbers" if floats else ""


def _one_table_of_4_bits(form: CompressedWeight, place: Place) -> str:
    if not isinstance(form, Palettized) or not isinstance(form.lut, np.ndarray) or form.cluster_dim > 1:
        return ""
    return "one table of 16 entries" if form.bits == 4 and not _groups(form) else ""


def in_blocks(form: CompressedWeight, place: Place) -> str:
    """The sizes of the blocks of integers that have a scale each; nothing for another form."""
    inner = form.values if isinstance(form, Sparse) else form
    if "per_block quantization" not in requirements(form) or not isinstance(inner, Quantized):
        return ""
    if inner.data.dtype.kind not in "iu":  # of floating point in blocks nobody has reported anything
        return ""
    sizes = [size // count for size, count in zip(inner.shape, inner.scale.shape, strict=True)]
    return f"{inner.bits}-bit integers in blocks of {'x'.join(map(str, sizes))}"


def _signed_before_ios18(form: CompressedWeight, place: Place) -> str:
    signed = isinstance(form, Quantized) and isinstance(form.data, np.ndarray) and form.data.dtype == np.int8
    return "signed int8, in the form of iOS16" if signed and place.opset.constexpr == "attributes" else ""


def _table_per_channel(form: CompressedWeight, place: Place) -> str:
    count = max((count for count, size in _groups(form) if size == 1), default=0)
    return f"a table for each of {count} channels" if count else ""


def _small_groups(form: CompressedWeight, place: Place) -> str:
    sizes = [size for _, size in _groups(form)]
    return f"groups of {min(sizes)} channels" if sizes and 1 < min(sizes) < _SMALLEST_GROUP else ""


def _ahead_of_time(form: CompressedWeight, place: Place) -> str:
    return f"runs on {place.oldest}" if place.oldest.decompression.startswith("ahead of time") else ""


def _groups(form: CompressedWeight) -> list[tuple[int, int]]:
    """Of each axis that is cut into groups with a look-up table for each: their number, and the channels of one."""
    inner = form.values if isinstance(form, Sparse) else form
    inner = inner.data if isinstance(inner, Quantized) else inner
    if not isinstance(inner, Palettized):
        return []
    counts = zip(inner.shape, inner.lut.shape[:-2], strict=True)  # an entry may be of several channels
    return [(count, size // count) for size, count in counts if count > 1]


def stored_small(weight: LayerWeight) -> str:
    """How a weight of a network is stored, where that is quantized; nothing where it is not."""
    return "" if weight.form in _PLAIN else f"{worded_bits(weight.bits)}, {weight.form}"


RULES: dict[Rule, Find] = {
    Rule(
        id="scale-over-lut",
        severity="wrong",
        title="A scale over a look-up table",
        known=(
            "Loading the model for the Neural Engine stops the app on macOS 26, in the verification of its graph "
            "(mps.dequantize), where scales may stand over integers only; CPU and GPU answer rightly. coremltools 9.0 "
            "writes such scales where it palettizes with a scale for each channel."
        ),
        instead="Multiply the scale into a table for each channel, as corepress does, or use groups of channels.",
        devices=("ane",),
        since="macOS 26",
        threads=("https://github.com/apple/coremltools/pull/2688",),
    ): _scale_over_lut,
    Rule(
        id="lut4-per-tensor",
        severity="wrong",
        title="One 4-bit look-up table for a whole weight",
        known=(
            "One user found one model wrong with it: Qwen3-Embedding-0.6B of coremltools 9.0, on an M4, had a cosine "
            "of 0.03 with the float16 model on the CPU, and of 0.63 on the Neural Engine, where int8 had 0.9992; for "
            "iOS 18 it did not load. The cause is not known; the error of such coarse tables may be a part of it."
        ),
        instead=(
            "Compare the model on the device, with each compute unit. Groups of 16 channels have less error, too."
        ),
        devices=("ane", "cpu"),
        since="macOS 26",
        threads=(
            "https://github.com/apple/coremltools/issues/2716",
            "https://github.com/apple/coremltools/pull/2688",
        ),
    ): _one_table_of_4_bits,
    Rule(
        id="blocks-of-integers",
        severity="wrong",
        title="Integers with a scale for each block",
        known=(
            "The compiler for the Neural Engine says that it takes scales by channel or for a whole weight only, and "
            "leaves the operation to the CPU. Of Core AI, which shares that engine, a model with int8 blocks gave "
            "wrong answers there on iOS 27 (cosine 0.367, on the GPU 0.999)."
        ),
        instead="Use look-up tables, or scales by channel; keep blocks for the GPU.",
        devices=("ane",),
        since="iOS 18",
        threads=(
            "https://github.com/apple/coremltools/issues/2510",
            "https://github.com/apple/coreai-models/issues/279",
        ),
    ): in_blocks,
    Rule(
        id="signed-int8-before-ios18",
        severity="wrong",
        title="Signed int8 in the form of iOS 16 and 17",
        known=(
            "GPU and Neural Engine were found to give wrong answers for weights of signed int8 in "
            "constexpr_affine_dequantize, where the CPU gives right ones."
        ),
        instead="Quantize to uint8, or raise the model to iOS 18, which has another operation for it.",
        devices=("ane", "gpu"),
        since="iOS 16",
        threads=(
            "https://github.com/apple/coremltools/issues/2114",
            "https://github.com/apple/coremltools/pull/2675",
        ),
    ): _signed_before_ios18,
    Rule(
        id="lut-per-channel",
        severity="slow",
        title="A look-up table for each channel",
        known=(
            "The time grows with the number of tables: of OPT-1.3B on an iPhone 15 Pro a token took 59 ms with a "
            "table for each channel, 15.5 with one for 8 channels, 14.8 with one for a weight, and 92 in float16."
        ),
        instead="Use groups of 8 or 16 channels.",
        devices=("ane",),
        since="iOS 18",
        threads=(_OPT, _PERFORMANCE),
    ): _table_per_channel,
    Rule(
        id="small-groups",
        severity="slow",
        title="A look-up table for fewer than 8 channels",
        known=(
            "The time grows with the number of tables: of OPT-1.3B on an iPhone 15 Pro a token took 31 ms with a "
            "table for 2 channels, 17 with one for 4, 15.5 with one for 8. Apple names 8 and 16 channels as those "
            "that keep the gain."
        ),
        instead="Use groups of 8 or 16 channels.",
        devices=("ane",),
        since="iOS 18",
        threads=(_OPT, _PERFORMANCE),
    ): _small_groups,
    Rule(
        id="ahead-of-time",
        severity="no gain",
        title="Weights that iOS 16 decompresses before the model runs",
        known=(
            "iOS 16 makes float16 of all weights ahead of time: the download is smaller, but memory and time stay "
            "those of the plain model. Newer systems decompress some weights on the fly."
        ),
        instead="Nothing, where the size of the download is what counts; otherwise ask for a newer system.",
        devices=("ane", "gpu", "cpu"),
        since="iOS 16",
        threads=("https://apple.github.io/coremltools/docs-guides/source/opt-whats-new.html",),
    ): _ahead_of_time,
}
"""The rules about how a weight is stored, each with the function that tells whether it applies."""

DEQUANTIZED = Rule(
    id="network-weights",
    severity="no gain",
    title="Quantized weights of a neural network",
    known=(
        "They become floating-point numbers again when the model is loaded: the download is smaller, but memory and "
        "time stay those of the plain model."
    ),
    instead="Nothing, where the size of the download is what counts; otherwise convert it to an ML program.",
    devices=("ane", "gpu", "cpu"),
    since="iOS 12",
    threads=("https://github.com/apple/coremltools/issues/200",),
)
"""The rule about a weight of a network: `stored_small` tells whether it applies."""


def applying(
    value: NDArray[Any] | CompressedWeight | None, place: Place, rules: Mapping[Rule, Find] = RULES
) -> Iterator[tuple[Rule, str]]:
    """The rules that apply to a weight in its place, each with what it found."""
    if value is None or isinstance(value, np.ndarray):
        return
    for rule, find in rules.items():
        if found := find(value, place):
            yield rule, found
