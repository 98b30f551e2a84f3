"""For each rule a model that triggers it, and one that is nearly the same and does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress import coreml
from corepress.formats.features import parsed
from corepress.formats.mlprogram import Model, load

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"
Build = Callable[[Path], Any]


def program(folder: Path, build: Callable[..., Any], *specs: Any, target: str = "iOS18") -> Model:
    """The package of one function of coremltools' builder, converted without any pass that could change it."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    made = mb.program(input_specs=list(specs), opset_version=getattr(ct.target, target))(build)
    converted = ct.convert(
        made,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = folder / "made.mlpackage"
    converted.save(str(path))
    return load(path)


def tensor(*shape: int, dtype: str = "fp16") -> Any:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    return mb.TensorSpec(shape, getattr(types, dtype))


def _numbers(*shape: int, dtype: str = "float16") -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(dtype)


# Weights.


def digits(config: Any) -> Build:
    """The example, compressed."""
    function = coreml.palettize_weights
    if isinstance(config, coreml.OpLinearQuantizerConfig):
        function = coreml.linear_quantize_weights
    return lambda folder: function(load(DIGITS), coreml.OptimizationConfig(config))


def groups(size: int) -> Build:
    return digits(coreml.OpPalettizerConfig(nbits=6, granularity="per_grouped_channel", group_size=size))


def older(config: Any, target: str = "iOS16") -> Build:
    """A package of an older system, compressed."""

    def build(folder: Path) -> Model:
        model = linear(folder, target=target)
        if isinstance(config, coreml.OpPalettizerConfig):
            return coreml.palettize_weights(model, coreml.OptimizationConfig(config))
        return coreml.linear_quantize_weights(model, coreml.OptimizationConfig(config))

    return build


def linear(folder: Path, channels: int = 64, target: str = "iOS18", dtype: str = "fp16") -> Model:
    from coremltools.converters.mil.mil import Builder as mb

    numpy = {"fp16": "float16", "fp32": "float32"}[dtype]

    def build(x: Any) -> Any:
        weight, bias = _numbers(channels, 64, dtype=numpy), _numbers(channels, dtype=numpy)
        return mb.linear(x=x, weight=weight, bias=bias, name="dense")

    return program(folder, build, tensor(1, 64, dtype=dtype), target=target)


def scaled_by_the_peer(folder: Path) -> Model:
    """coremltools' own scale over a look-up table."""
    import coremltools as ct
    import coremltools.optimize.coreml as peer

    linear(folder)
    config = peer.OpPalettizerConfig(mode="uniform", nbits=4, enable_per_channel_scale=True, weight_threshold=0)
    given = ct.models.MLModel(str(folder / "made.mlpackage"), skip_model_load=True)
    peer.palettize_weights(given, peer.OptimizationConfig(config)).save(str(folder / "scaled.mlpackage"))
    return load(folder / "scaled.mlpackage")


def network(quantized: bool) -> Build:
    def build(folder: Path) -> Any:
        import coremltools as ct

        from corepress.neural_network import load as load_network
        from corepress.neural_network.quantization_utils import quantize_weights

        floats = ct.models.datatypes.Array
        builder = ct.models.neural_network.NeuralNetworkBuilder([("x", floats(64))], [("y", floats(64))])
        builder.add_inner_product("dense", _numbers(64, 64, dtype="f4"), None, 64, 64, False, "x", "y")
        ct.models.utils.save_spec(builder.spec, str(folder / "net.mlmodel"))
        model = load_network(folder / "net.mlmodel")
        return quantize_weights(model, 8, "linear") if quantized else model

    return build


# Inputs and states.


def with_state(width: int, nbits: int | None = None) -> Build:
    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb
        from coremltools.converters.mil.mil import types

        def inner(x: Any, cache: Any) -> Any:
            held = mb.read_state(input=cache)
            y = mb.linear(x=x, weight=_numbers(width, 64), bias=_numbers(width), name="dense")
            return mb.coreml_update_state(state=cache, value=mb.add(x=held, y=y))

        model = program(folder, inner, tensor(1, 64), mb.StateTensorSpec((1, width), dtype=types.fp16))
        if nbits is None:
            return model
        config = coreml.OpPalettizerConfig(nbits=nbits, weight_threshold=0)
        return coreml.palettize_weights(model, coreml.OptimizationConfig(config))

    return build


def described(*inputs: dict[str, Any], of: Build = lambda folder: load(DIGITS)) -> Build:
    """A model whose description says that its inputs take other shapes, too: a range or a list for each input."""

    def build(folder: Path) -> Any:
        model = of(folder).copy()
        description = parsed(model.spec.description)
        for number, shapes in enumerate(inputs):
            if number == len(description.input):
                description.input.add().CopyFrom(description.input[0])
                description.input[number].name = f"other{number}"
            array = description.input[number].type.multiArrayType
            for low, high in shapes.get("range", ()):
                array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
            for shape in shapes.get("list", ()):
                array.enumeratedShapes.shapes.add(shape=shape)
        model.spec.description = description.SerializeToString()
        return model

    return build


RANGE = {"range": [(1, 1), (1, 1), (8, 16), (8, 8)]}
FIXED = {"range": [(1, 1), (1, 1), (8, 8), (8, 8)]}
LIST = {"list": [(1, 1, 8, 8), (1, 1, 16, 8)]}


# Operations.


def operation(
    name: str, dtype: str = "fp16", target: str = "iOS18", shape: tuple[int, ...] = (1, 64), **arguments: Any
):
    """A program of one operation of an input."""

    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb

        return program(
            folder, lambda x: getattr(mb, name)(x=x, name="it", **arguments), tensor(*shape, dtype=dtype), target=target
        )

    return build


def heavy(stored: int) -> Build:
    """A model whose weight says that it has so many bytes; nobody reads them."""

    def build(folder: Path) -> Model:
        model = linear(folder).copy()
        weight = next(weight for weight in model.weights() if len(weight.shape) == 2)
        for kind in (weight.value.type, weight.node.op.outputs[0].type):
            kind.tensorType.dimensions[0].constant.size = (stored - 128) // 2 // weight.shape[1]  # and a bias of 128
        return model

    return build


def recurrence(folder: Path) -> Model:
    from coremltools.converters.mil.mil import Builder as mb

    def inner(x: Any, h: Any) -> Any:
        return mb.rnn(x=x, initial_h=h, weight_ih=_numbers(16, 8), weight_hh=_numbers(16, 16), name="loop")[0]

    return program(folder, inner, tensor(3, 1, 8), tensor(1, 16))


def sampled(folder: Path) -> Model:
    from coremltools.converters.mil.mil import Builder as mb

    def inner(x: Any, places: Any) -> Any:
        return mb.resample(
            x=x, coordinates=places, sampling_mode="bilinear", padding_mode="constant", padding_value=np.float16(0),
            coordinates_mode="normalized_minus_one_to_one", align_corners=True,
        )  # fmt: skip

    return program(folder, inner, tensor(1, 2, 8, 8), tensor(1, 4, 4, 2))


def axes(count: int) -> Build:
    """coremltools refuses more than 5 axes, so that one is put into the file."""

    def build(folder: Path) -> Model:
        model = operation("relu", shape=(1, 2, 3, 4))(folder).copy()
        (function,) = model.spec.mlProgram.functions
        output = function.value.block_specializations[0].value.operations[-1].outputs[0]
        for _ in range(count - 4):
            output.type.tensorType.dimensions.add().constant.size = 1
        return model

    return build


def log_of(first: str, dtype: str = "fp16") -> Build:
    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb

        return program(folder, lambda x: mb.log(x=getattr(mb, first)(x=x), name="it"), tensor(1, 64, dtype=dtype))

    return build


def masked(value: float) -> Build:
    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb

        mask = np.triu(np.full((16, 16), value, np.float16), 1)
        return program(folder, lambda x: mb.add(x=x, y=np.nan_to_num(mask, neginf=value), name="it"), tensor(16, 16))

    return build


def cast_mask(value: float, to: str = "fp16") -> Build:
    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb

        def inner(x: Any) -> Any:
            mask = mb.mul(x=x, y=np.full((16, 16), value, np.float32))
            shaped = mb.reshape(x=mask, shape=(1, 16, 16))
            return mb.cast(x=shaped, dtype=to) if to != "fp32" else mb.relu(x=shaped)

        return program(folder, inner, tensor(16, 16, dtype="fp32"))

    return build


def quantized_activation(of_input: bool) -> Build:
    def build(folder: Path) -> Model:
        from coremltools.converters.mil.mil import Builder as mb

        def inner(x: Any) -> Any:
            scale = np.float16(0.1)
            small = mb.quantize(
                input=x if of_input else mb.const(val=_numbers(1, 64)), scale=scale, output_dtype="int8"
            )
            return mb.add(x=x, y=mb.dequantize(input=small, scale=scale))

        return program(folder, inner, tensor(1, 64), target="iOS17")

    return build


# Core AI models.


def asset(config: Any = None, dtype: str = "float16") -> Build:
    """One layer, compressed if there is a configuration."""

    def build(folder: Path) -> Any:
        pytest.importorskip("coreai")
        from tests.formats.coreai.made import layer, weight

        path = layer(folder / "made.aimodel", weight(dtype=dtype))
        return path if config is None else coreml.linear_quantize_weights(path, coreml.OptimizationConfig(config))

    return build


def largest_of(dtype: str) -> Build:
    """The place of the largest of numbers of a type, of a model with more than one operation."""

    def build(folder: Path) -> Any:
        pytest.importorskip("coreai")
        from tests.formats.coreai.made import largest

        return largest(folder / "made.aimodel", dtype)

    return build


_SIX, _FOUR = coreml.OpPalettizerConfig(nbits=6), coreml.OpPalettizerConfig(nbits=4)
_BLOCKS = coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16)
_INT8 = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
_UINT8 = coreml.OpLinearQuantizerConfig(mode="linear", dtype="uint8", weight_threshold=0)
_SMALL = coreml.OpPalettizerConfig(nbits=6, weight_threshold=0)
_ASSET_BLOCKS = coreml.OpLinearQuantizerConfig(granularity="per_block", block_size=16, weight_threshold=0)
_ASSET_CHANNELS = coreml.OpLinearQuantizerConfig(weight_threshold=0)

# By rule: what triggers it, and what does not.
CASES: dict[str, tuple[Build, Build]] = {
    "scale-over-lut": (scaled_by_the_peer, digits(coreml.OpPalettizerConfig(nbits=4, enable_per_channel_scale=True))),
    "lut4-per-tensor": (digits(_FOUR), digits(_SIX)),
    "blocks-of-integers": (digits(_BLOCKS), digits(coreml.OpLinearQuantizerConfig())),
    "signed-int8-before-ios18": (older(_INT8), older(_UINT8)),
    "lut-per-channel": (groups(1), groups(2)),
    "small-groups": (groups(4), groups(8)),
    "ahead-of-time": (older(_SMALL), older(_SMALL, "iOS17")),
    "network-weights": (network(True), network(False)),
    "state-width": (with_state(48), with_state(64)),
    "lut4-with-state": (with_state(64, nbits=4), with_state(64, nbits=6)),
    "range-of-shapes": (described(RANGE), described(FIXED)),
    "several-enumerated": (described(LIST, LIST), described(LIST, FIXED)),
    "recurrence": (recurrence, linear),
    "resample": (sampled, operation("upsample_bilinear", shape=(1, 2, 8, 8), scale_factor_height=2.0)),
    "rank-above-5": (axes(6), axes(5)),
    "large-axis": (lambda folder: linear(folder, 16385), lambda folder: linear(folder, 16384)),
    "large-weights": (heavy(2**31 + 128), heavy(2**31)),
    "float32-products": (lambda folder: linear(folder, dtype="fp32"), linear),
    "softplus": (operation("softplus"), operation("softplus", dtype="fp32")),
    "log-sum-exp": (operation("reduce_log_sum_exp", axes=[1]), operation("reduce_max", axes=[1])),
    "log-of-softmax": (log_of("softmax"), log_of("sigmoid")),
    "infinite-constant": (masked(-np.inf), masked(-1e4)),
    "beyond-float16": (cast_mask(np.finfo(np.float32).min), cast_mask(-1e4)),
    "w8a8-elsewhere": (quantized_activation(True), quantized_activation(False)),
    "w8a8-older-chips": (quantized_activation(True), linear),
    "core-ai-blocks": (asset(_ASSET_BLOCKS), asset(_ASSET_CHANNELS)),
    "core-ai-argmax": (largest_of("float16"), largest_of("float32")),
    "core-ai-float32": (asset(dtype="float32"), asset()),
}
