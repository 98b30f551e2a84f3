"""Small programs whose activations are quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import corepress.coreml as cto
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig as Config
from tests.structures import _convert


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


SYMMETRIC = {"mode": "linear_symmetric"}
MODES = (
    SYMMETRIC,
    {"mode": "linear_symmetric", "dtype": "uint8"},
    {"mode": "linear"},
    {"mode": "linear", "dtype": "uint8"},
)


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
