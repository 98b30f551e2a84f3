"""Rules about the inputs, states and operations of an ML program. `RULES` is the table; a new rule is an entry in it,
and a function, which gets one function of a program and yields the places that it found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from corepress.formats.mlprogram.program import Node
from corepress.linting.features import enumerated, ranges
from corepress.linting.function import Find, Function, Spot, dtypes, float32_products, products
from corepress.linting.outline import quantizes_activation, type_of
from corepress.linting.rule import Finding, Rule
from corepress.sizes import size
from corepress.weights import Palettized

_WIDTH = 32
_LARGEST = 16384
_RANK = 5
_MOST_BYTES = 1 << 31
_QUANTIZATION = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-perf.html"


def _state_width(function: Function) -> Iterator[Spot]:
    for state in function.interface.states:
        if state.shape and state.shape[-1] % _WIDTH:
            yield Spot("state", state.name, f"a width of {state.shape[-1]}")


def _palettized_state(function: Function) -> Iterator[Spot]:
    count = sum(isinstance(form, Palettized) and form.bits == 4 for form in function.forms)
    if count and function.interface.states:
        yield Spot("function", function.name, f"{count} 4-bit weights beside {len(function.interface.states)} states")


def _ranges(function: Function) -> Iterator[Spot]:
    return (Spot("input", *found) for found in ranges(function.interface))


def _enumerated(function: Function) -> Iterator[Spot]:
    return (Spot("input", *found) for found in enumerated(function.interface))


def _of_type(*types: str, half: bool = False) -> Find:
    """A finder of operations by type; `half`: only of those that compute in float16."""

    def find(function: Function) -> Iterator[Spot]:
        for node in function.nodes:
            if node.type in types and (not half or "float16" in dtypes(node)):
                yield Spot("operation", node.name, node.type)

    return find


def _rank(function: Function) -> Iterator[Spot]:
    for node in function.nodes:
        rank = max((len(output.type.tensorType.dimensions) for output in node.op.outputs), default=0)
        if rank > _RANK:
            yield Spot("operation", node.name, f"rank {rank}")


def _large(function: Function) -> Iterator[Spot]:
    for node in products(function):
        sizes = [size for output in node.op.outputs for size in (type_of(output) or (None, ()))[1]]
        if max(sizes, default=0) > _LARGEST:
            yield Spot("operation", node.name, f"{max(sizes)} on one axis")


def _heavy(function: Function) -> Iterator[Spot]:
    if function.stored_bytes > _MOST_BYTES:
        yield Spot("function", function.name, f"{size(function.stored_bytes)} of weights")


def _log_of_softmax(function: Function) -> Iterator[Spot]:
    for node in function.nodes:
        source = node.operand("x") if node.type == "log" and "float16" in dtypes(node) else None
        if source is not None and source.node is not None and source.node.type == "softmax":
            yield Spot("operation", node.name, f"log of softmax {source.node.name}")


def _activations(function: Function) -> Iterator[Spot]:
    if count := sum(map(quantizes_activation, function.nodes)):
        yield Spot("function", function.name, f"{count} quantized activations")


RULES: dict[Rule, Find] = {
    Rule(
        id="state-width",
        severity="wrong",
        title="A state whose width is no multiple of 32",
        known=(
            "A model with a state 270 wide failed on the Neural Engine of an M4 with macOS 15.2, the same 256 wide "
            "ran; CPU and GPU took both."
        ),
        instead="Make the last axis of the state a multiple of 32, and slice what is read of it.",
        devices=("ane",),
        since="macOS 15",
        threads=("https://github.com/apple/coremltools/issues/2631",),
    ): _state_width,
    Rule(
        id="lut4-with-state",
        severity="wrong",
        title="4-bit look-up tables in a function with states",
        known=(
            "A Whisper decoder of coremltools 9.0 with 4-bit tables and a stateful cache crashed on the Neural "
            "Engine after 100 to 200 predictions in a row; made with coremltools 8.3 it did not."
        ),
        instead=(
            "Let the model run some hundred steps on the device before you ship it; 8 bits, or the GPU, are the ways "
            "out."
        ),
        devices=("ane",),
        since="iOS 18",
        threads=("https://github.com/apple/coremltools/issues/2716",),
    ): _palettized_state,
    Rule(
        id="range-of-shapes",
        severity="slow",
        title="An input whose size may be any within a range",
        known=(
            "Of such a model only the default shape runs on the Neural Engine, as an engineer of Apple says; for "
            "others users saw none of it used, and a fraction of the speed."
        ),
        instead="Fix the shape and pad the input, or list the shapes that occur (EnumeratedShapes).",
        devices=("ane",),
        since="iOS 15",
        threads=(
            "https://developer.apple.com/forums/thread/724930",
            "https://github.com/apple/coremltools/issues/1764",
            "https://github.com/apple/coremltools/issues/2370",
        ),
    ): _ranges,
    Rule(
        id="several-enumerated",
        severity="wrong",
        title="Several inputs with lists of shapes",
        known=(
            "Such models fail for combinations of shapes that were not listed at the same place, and some for every "
            "input but the default one."
        ),
        instead="List the shapes of one input only, and pad the others, or make a function for each combination.",
        devices=("ane", "gpu", "cpu"),
        since="iOS 15",
        threads=(
            "https://github.com/apple/coremltools/issues/2271",
            "https://github.com/apple/coremltools/issues/1115",
        ),
    ): _enumerated,
    Rule(
        id="recurrence",
        severity="slow",
        title="An LSTM, a GRU or a plain recurrence",
        known="The Neural Engine has no such operations, as a maintainer of coremltools says; they run on the CPU.",
        instead="Keep them small, or use convolutions or attention instead.",
        devices=("ane",),
        since="iOS 15",
        threads=(
            "https://github.com/apple/coremltools/issues/1780",
            "https://github.com/apple/coremltools/issues/337",
        ),
    ): _of_type("lstm", "gru", "rnn"),
    Rule(
        id="resample",
        severity="slow",
        title="Sampling at given places (grid_sample)",
        known=(
            "The operation was seen to run on the CPU only, with the rest of the model waiting; written out with "
            "other operations it ran on the GPU, 2.5 times as fast."
        ),
        instead="Resize or crop with other operations, or write the sampling out in the source model.",
        devices=("ane", "gpu"),
        since="iOS 15",
        threads=("https://github.com/apple/coremltools/issues/1875",),
    ): _of_type("resample"),
    Rule(
        id="rank-above-5",
        severity="wrong",
        title="A tensor with more than 5 axes",
        known="Core ML does not support tensors of more than 5 axes: such models fail when they are loaded or run.",
        instead="Merge axes with a reshape around the operation in the source model.",
        devices=("ane", "gpu", "cpu"),
        since="iOS 15",
        threads=(
            "https://github.com/apple/coremltools/issues/1723",
            "https://github.com/apple/coremltools/issues/2291",
        ),
    ): _rank,
    Rule(
        id="large-axis",
        severity="slow",
        title="A product with an axis of more than 16384",
        known=(
            "The Neural Engine of chips before A16, M1 and M2 among them, takes no axis longer than 16384, that of "
            "newer ones none longer than 65536; the operation runs elsewhere. The last layer of language models is "
            "the usual case."
        ),
        instead="Split the weight along that axis into several layers, and join their outputs.",
        devices=("ane",),
        since="iOS 15",
        threads=(
            "https://github.com/sbryngelson/ANEForge/pull/240",
            "https://github.com/microsoft/onnxruntime/issues/19543",
        ),
    ): _large,
    Rule(
        id="large-weights",
        severity="slow",
        title="More than 2 GB of weights in one function",
        known=(
            "The compiler for the Neural Engine refuses weight files of more than 2147483648 bytes, users say of "
            "half as many on iOS, so that the model runs elsewhere, or does not load."
        ),
        instead="Store fewer bits for a weight, or cut the model into a pipeline of smaller ones.",
        devices=("ane",),
        since="iOS 15",
        threads=(
            "https://github.com/apple/coremltools/pull/2593",
            "https://github.com/apple/coremltools/issues/1807",
            "https://github.com/Anemll/Anemll/issues/28",
        ),
    ): _heavy,
    Rule(
        id="float32-products",
        severity="slow",
        title="Products that are computed in float32",
        known="The Neural Engine computes in float16 only; what is typed as float32 runs on the GPU or the CPU.",
        instead="Convert with compute_precision=ct.precision.FLOAT16, for all operations but those that need more.",
        devices=("ane",),
        since="iOS 15",
        threads=("https://apple.github.io/coremltools/docs-guides/source/typed-execution-example.html",),
    ): float32_products,
    Rule(
        id="softplus",
        severity="wrong",
        title="softplus in float16",
        known=(
            "On the Neural Engine the output falls to 0 for inputs above about 10.4, where exp overflows in float16; "
            "so does Mish, which is made of it. CPU and GPU are right."
        ),
        instead="Write it as max(x, 0) + log(1 + exp(-|x|)) in the source model.",
        devices=("ane",),
        since="macOS 26",
        threads=(
            "https://github.com/apple/coremltools/issues/2687",
            "https://github.com/apple/coremltools/pull/2725",
        ),
    ): _of_type("softplus", half=True),
    Rule(
        id="log-sum-exp",
        severity="wrong",
        title="reduce_log_sum_exp in float16",
        known=(
            "On the Neural Engine the output falls to 0 where the sum of the exponentials passes 65504, for 32 "
            "channels at inputs of 7.6: the maximum is not taken out first."
        ),
        instead="Subtract the maximum before it and add it afterwards, in the source model.",
        devices=("ane",),
        since="macOS 26",
        threads=("https://github.com/apple/coremltools/issues/2690",),
    ): _of_type("reduce_log_sum_exp", half=True),
    Rule(
        id="log-of-softmax",
        severity="wrong",
        title="The logarithm of a softmax in float16",
        known=(
            "On the Neural Engine small probabilities become 0, and their logarithm minus infinity, as soon as one "
            "class dominates. CPU and GPU are right."
        ),
        instead=(
            "Write it as x - max(x) - log(sum(exp(x - max(x)))) in the source model, or do without the logarithm."
        ),
        devices=("ane",),
        since="iOS 15",
        threads=(
            "https://github.com/apple/coremltools/issues/2728",
            "https://github.com/apple/coremltools/pull/2727",
        ),
    ): _log_of_softmax,
    Rule(
        id="w8a8-elsewhere",
        severity="slow",
        title="Activations of 8 bits on the CPU or the GPU",
        known=(
            "Apple says that a model with quantized activations may be considerably slower there, for they are "
            "decompressed each time."
        ),
        instead="Quantize activations only of what runs on the Neural Engine.",
        devices=("gpu", "cpu"),
        since="iOS 17",
        threads=(_QUANTIZATION,),
    ): _activations,
    Rule(
        id="w8a8-older-chips",
        severity="no gain",
        title="Activations of 8 bits on chips before A17 Pro and M4",
        known="Only from A17 Pro and M4 on does the Neural Engine multiply int8 with int8 faster than float16.",
        instead="Ship W8A8 to the newer devices, and look-up tables to the older.",
        devices=("ane",),
        since="iOS 17",
        threads=(_QUANTIZATION, "https://github.com/apple/coremltools/issues/2410"),
    ): _activations,
}
"""The rules about a function of an ML program, each with the function that finds the places."""


def of_activations(given: list[Node]) -> Iterator[Finding]:
    """What the rules about quantized activations find in the operations of a model."""
    counts = Counter(str(node.function) for node in given if quantizes_activation(node))
    for rule in (rule for rule, find in RULES.items() if find is _activations):
        yield from (Finding(rule, name, "function", name, f"{n} quantized activations") for name, n in counts.items())
