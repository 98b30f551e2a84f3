"""`linear_quantize_activations`: the peer's pairs in the peer's places, and what the peer gets wrong done right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress import ConfigError, load
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig as Config
from corepress.coreml.experimental.observers import OBSERVERS
from corepress.mlprogram.program import nodes
from corepress.mlprogram.values import read_tensor
from corepress.runtime import load as run
from tests.oracle import peer_program
from tests.structures import _convert

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"


def everywhere(**arguments) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=Config(**arguments))


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.2, shape)


def residual(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 3, 3), pad_type="same", name="conv_a"), name="relu_a")
    b = mb.conv(x=a, weight=w(4, 4, 3, 3), pad_type="same", name="conv_b")
    c = mb.relu(x=mb.add(x=b, y=a, name="sum"), name="relu_c")
    return mb.mul(x=c, y=c, name="out")


def linear(mb, x, w):
    a = mb.linear(x=mb.reshape(x=x, shape=(1, 256)), weight=w(16, 256), name="first")
    b = mb.add(x=mb.sigmoid(x=a, name="sigmoid"), y=w(1, 16), name="shift")
    c = mb.linear(x=b, weight=w(8, 16), name="second")
    return mb.linear(x=mb.softmax(x=c, name="softmax"), weight=w(4, 8), name="third")


def pools(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(8, 4, 3, 3), name="conv"), name="relu")
    b = mb.max_pool(x=a, kernel_sizes=(2, 2), strides=(2, 2), pad_type="valid", name="max")
    c = mb.avg_pool(x=b, kernel_sizes=(3, 3), strides=(1, 1), pad_type="valid", name="avg")
    return mb.linear(x=mb.reshape(x=c, shape=(1, 8), name="flat"), weight=w(3, 8), name="head")


def concat(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="left"), name="left_relu")
    b = mb.conv(x=x, weight=w(6, 4, 1, 1) * 4, name="right")
    c = mb.concat(values=[a, b], axis=1, name="joined")
    d = mb.conv(x=c, weight=w(4, 10, 1, 1), name="mix")
    return mb.concat(values=[d, x], axis=1, name="out")


def unquantized_ends(mb, x, w):
    """Activation functions that end the program, a value added to itself, and readers of several kinds."""
    a = mb.conv(x=x, weight=w(4, 4, 1, 1), name="fork")
    b = mb.add(x=a, y=a, name="twice")
    c = mb.tanh(x=a, name="tanh")
    d = mb.conv(x=mb.mul(x=b, y=c, name="product"), weight=w(4, 4, 1, 1), name="last")
    return mb.relu(x=d, name="out")


NETS = (residual, linear, pools, concat, unquantized_ends)


def package_of(tmp_path: Path, build, target: str = "iOS17", dtype: str = "float16") -> Path:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    kind = types.fp16 if dtype == "float16" else types.fp32

    @mb.program(input_specs=[mb.TensorSpec((1, 4, 8, 8), kind)], opset_version=getattr(ct.target, target))
    def program(x):
        return build(mb, x, lambda *shape: weight(*shape).astype(dtype))

    path = tmp_path / "source.mlpackage"
    _convert(program, target).save(str(path))
    return path


def samples(count: int = 1, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.3, 1, (1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def observed(path: Path, sample) -> dict[str, dict[str, float]]:
    """The range of every value, as the peer keeps it."""
    found = {}

    def observe(name, value) -> None:
        found[name] = {"rmin": float(value.min()), "rmax": float(value.max())}

    observe("x", sample["x"])
    run(path).predict(sample, observe=observe)
    return found


def peer_quantized(path: Path, sample, op_config, **type_configs):
    """The peer's program after its passes, with the ranges of one sample."""
    import coremltools as ct
    import coremltools.optimize.coreml as peer
    from coremltools.converters.mil.frontend.milproto.load import load as load_program
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.optimize import _utils
    from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

    model = ct.models.MLModel(str(path), skip_model_load=True)
    stats = observed(path, sample)
    _utils._adjust_concat_surrounding_activation_stats(ModelDebugger(model)._get_concat_op_info(), stats)
    program = load_program(model.get_spec(), max(8, model.get_spec().specificationVersion), model.weights_dir)
    config = peer.OptimizationConfig(
        global_config=peer.experimental.OpActivationLinearQuantizerConfig(**op_config), op_type_configs=type_configs
    )
    for name in ("prefix", "suffix"):
        graph_pass = PASS_REGISTRY[f"compression::insert_{name}_quantize_dequantize_pair"]
        graph_pass.set_options([PassOption("config", config), PassOption("activation_stats", stats)])
        graph_pass.apply(program)
    follow = ["dequantize_quantize_pair_elimination", "dead_code_elimination", "remove_redundant_ops"]
    if op_config == SYMMETRIC:  # a zero point of 0 and none are the same; the peer merges such pairs after this
        follow.insert(0, "nullify_redundant_quantization_zero_point")
    for name in follow:
        PASS_REGISTRY[f"common::{name}"].apply(program)
    return program


def structure(program) -> dict[str, list]:
    """For every operation, by name, what it reads, through which pairs."""
    (function,) = program.functions.values()

    def source(var):
        if var.op is None or var.op.op_type not in ("quantize", "dequantize"):
            return var.name if var.op is None else var.op.name
        zero_point = 0 if var.op.zero_point is None else int(var.op.zero_point.val)
        assert var.op.scale.shape == () and (var.op.zero_point is None or var.op.zero_point.shape == ())
        dtype = var.op.output_dtype.val if var.op.op_type == "quantize" else var.op.scale.val.dtype.name
        return (var.op.op_type, float(var.op.scale.val), zero_point, dtype, source(var.op.input))

    def inputs(op):
        listed = (v for value in op.inputs.values() for v in (value if isinstance(value, (tuple, list)) else [value]))
        return [source(v) for v in listed if v is not None and (v.op is None or v.op.op_type != "const")]

    kept = [op for op in function.operations if op.op_type not in ("const", "quantize", "dequantize")]
    return {op.name: inputs(op) for op in kept} | {
        "outputs": [source(v) for v in function.outputs],
        "pairs": [op.op_type for op in function.operations if "quantize" in op.op_type],
    }


def alike(ours, theirs) -> bool:
    """The same, but for roundings of the peer, which computes in float16."""
    if isinstance(ours, (tuple, list)):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float):
        return abs(ours - theirs) <= 2e-3 * abs(theirs)
    return abs(ours - theirs) <= 1 if isinstance(ours, int) else ours == theirs


SYMMETRIC = {"mode": "linear_symmetric"}
MODES = (
    SYMMETRIC,
    {"mode": "linear_symmetric", "dtype": "uint8"},
    {"mode": "linear"},
    {"mode": "linear", "dtype": "uint8"},
)


@pytest.mark.parametrize("op_config", MODES, ids=str)
@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_the_pairs_are_those_of_the_peer(tmp_path, build, op_config) -> None:
    path = package_of(tmp_path, build)
    sample = samples()[0]
    cto.linear_quantize_activations(path, everywhere(**op_config), [sample]).save(tmp_path / "ours.mlpackage")
    ours, theirs = structure(peer_program(tmp_path / "ours.mlpackage")), structure(
        peer_quantized(path, sample, op_config)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert alike(ours[name], theirs[name]), (name, ours[name], theirs[name])
    assert ours["pairs"]


@pytest.mark.parametrize("kind", ["add", "conv"])
def test_types_of_operations_can_be_left_out_as_in_the_peer(tmp_path, kind) -> None:
    path = package_of(tmp_path, residual)
    sample = samples()[0]
    config = everywhere()
    config.set_op_type(kind, None)
    cto.linear_quantize_activations(path, config, [sample]).save(tmp_path / "ours.mlpackage")
    theirs = structure(peer_quantized(path, sample, SYMMETRIC, **{kind: None}))
    ours = structure(peer_program(tmp_path / "ours.mlpackage"))
    assert ours.keys() == theirs.keys() and all(alike(ours[name], theirs[name]) for name in ours)
