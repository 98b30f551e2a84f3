"""Neural networks, made with coremltools' builder, that have every type of layer that holds weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.lazy import lazy

datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")
Model_pb2 = lazy("coremltools.proto.Model_pb2")

Spec = Any
# Weights that coremltools leaves alone, too: of `ln`, `conv3d`, `prelu`, `softplus` and `custom`.
UNTOUCHED = 8


def builder(mode: str | None = None) -> NeuralNetworkBuilder:
    output = datatypes.Dictionary(str) if mode == "classifier" else None
    exact = mode is None
    return NeuralNetworkBuilder(
        [("data", datatypes.Array(6))], [("out", output)], mode=mode, disable_rank5_shape_mapping=exact
    )


def inner_product(weight: Any, bias: Any = None, mode: str | None = None, name: str = "ip") -> Spec:
    """A network of one layer: `weight` is (outputs, inputs)."""
    weight = np.asarray(weight, np.float32)
    b = builder(mode)
    outputs, inputs = weight.shape
    b.add_inner_product(name, weight, bias, inputs, outputs, bias is not None, "data", "out")
    if mode == "classifier":
        b.set_class_labels([f"c{i}" for i in range(outputs)], "label", "out")
    return b.spec


def pipeline(kind: str, *models: Spec) -> Spec:
    """`kind`: the name of the field: pipeline, pipelineClassifier or pipelineRegressor."""
    spec = Model_pb2.Model(specificationVersion=1)
    spec.description.CopyFrom(models[-1].description)
    inner = spec.pipeline if kind == "pipeline" else getattr(spec, kind).pipeline
    for number, model in enumerate(models):
        inner.models.add().CopyFrom(model)
        inner.names.append(f"part{number}")
    return spec


def every_layer(seed: int = 0, *, grouped_deconvolution: bool = True) -> Spec:
    """One network with every type of layer that holds weights, loops and branches included."""
    rng = np.random.default_rng(seed)

    def r(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    b = builder()
    _convolutions(b, r, grouped_deconvolution)
    b.add_inner_product("ip", r(10, 12), r(10), 12, 10, True, "a", "b")
    b.add_embedding("emb", r(6, 20), r(6), 20, 6, True, "a", "b")
    b.add_embedding_nd("embnd", "a", "b", 20, 6, r(6, 20), r(6))
    b.add_batched_mat_mul(
        "bmm", ["a"], "b", weight_matrix_rows=9, weight_matrix_columns=11, W=r(9, 11), bias=r(11)
    )  # fmt: skip
    b.add_batchnorm("bn", 8, r(8), r(8), r(8), abs(r(8)))
    b.add_scale("scale", r(4, 5), r(4, 5), True, "a", "b", [4, 5], [4, 5])
    b.add_bias("bias", r(7), "a", "b", [7])
    b.add_load_constant("lc", "b", r(2, 3, 4), [2, 3, 4])
    b.add_load_constant_nd("lcnd", "b", r(2, 3, 4), [2, 3, 4])
    _recurrent(b, r)
    _others(b, r)
    loop = b.add_loop("loop", max_iterations=3).loop
    branch = b.add_branch("branch", "a").branch
    for name, network in (
        ("condition", loop.conditionNetwork), ("body", loop.bodyNetwork), ("then", branch.ifBranch),
        ("else", branch.elseBranch),
    ):  # fmt: skip
        NeuralNetworkBuilder(nn_spec=network).add_inner_product(name, r(4, 5), r(4), 5, 4, True, "a", "b")
    return b.spec


def _convolutions(b: NeuralNetworkBuilder, r: Any, grouped: bool) -> None:
    b.add_convolution("conv", 8, 16, 3, 3, 1, 1, "valid", 1, r(3, 3, 8, 16), r(16), True)
    b.add_convolution("depthwise", 1, 16, 3, 3, 1, 1, "valid", 16, r(3, 3, 1, 16), r(16), True)
    b.add_convolution("deconv", 8, 16, 3, 3, 1, 1, "valid", 1, r(3, 3, 8, 16), r(16), True, is_deconv=True)
    if grouped:
        b.add_convolution("grouped", 8, 16, 3, 3, 1, 1, "valid", 2, r(3, 3, 8, 8), r(16), True, is_deconv=True)


def _recurrent(b: NeuralNetworkBuilder, r: Any) -> None:
    def gates(count: int) -> tuple[Any, Any, Any]:
        return [r(6, 6) for _ in range(count)], [r(6, 5) for _ in range(count)], [r(6) for _ in range(count)]

    b.add_simple_rnn("rnn", r(6, 6), r(6, 5), r(6), 6, 5, "TANH", ["a", "h"], ["b", "c"])
    b.add_gru("gru", *gates(3), 6, 5, ["a", "h"], ["b", "c"])
    peep = [r(6) for _ in range(3)]
    b.add_unilstm("lstm", *gates(4), 6, 5, ["a", "h", "c"], ["b", "h2", "c2"], peep=peep)
    b.add_bidirlstm(
        "bilstm", *gates(4), *gates(4), 6, 5, ["a", "h", "c", "h3", "c3"], ["b", "h2", "c2", "h4", "c4"],
        peep=peep, peep_back=peep,
    )  # fmt: skip


def _others(b: NeuralNetworkBuilder, r: Any) -> None:
    b.add_layer_normalization("ln", "a", "b", [4], r(4), r(4))
    b.add_convolution3d("conv3d", 4, 8, 3, 3, 3, r(8, 4, 3, 3, 3), r(8), True)
    b.add_activation("prelu", "PRELU", "a", "b", r(5))
    b.add_activation("softplus", "PARAMETRICSOFTPLUS", "a", "b", [r(5), r(5)])
    layer = b.spec.neuralNetwork.layers.add(name="custom", input=["a"], output=["z"])
    layer.custom.className = "Mine"
    layer.custom.weights.add().floatValue.extend(r(9))
    layer.custom.parameters["axis"].intValue = 3
