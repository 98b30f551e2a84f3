"""Networks of the older model type: whole ones, as PyTorch computes them, and what is around their layers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from corepress.cli.app import app
from corepress.errors import ConfigError, FormatError
from corepress.formats import schema
from corepress.neural_network import quantization_utils
from corepress.runtime import load
from corepress.verification import verify
from tests.formats.neural_network.networks import pipeline
from tests.lazy import lazy
from tests.runtime.networks.made import network, program, run
from tests.runtime.zoo import NETWORKS

datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")

RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def convert(name: str, path: Path) -> tuple[dict[str, Any], Any]:
    """Save a network of the zoo; its inputs and what PyTorch answers to them."""
    import coremltools as ct

    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.eval()(*inputs.values()).numpy()
        ct.convert(
            torch.jit.trace(model, tuple(inputs.values()), check_trace=False),
            inputs=[
                ct.TensorType(key, value.shape, dtype=np.int32 if value.dtype == torch.int32 else np.float32)
                for key, value in inputs.items()
            ],
            outputs=[ct.TensorType("result")],
            convert_to="neuralnetwork",
        ).save(str(path))
    return {key: value.numpy() for key, value in inputs.items()}, expected


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v3", "unet", "bert", "lstm_tagger", "autoencoder", "diffusion"])
def test_answers_are_pytorchs(name, tmp_path) -> None:
    inputs, expected = convert(name, tmp_path / "old.mlmodel")
    found = load(tmp_path / "old.mlmodel").predict(inputs)["result"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    half = load(tmp_path / "old.mlmodel", precision="float16").predict(inputs)["result"]
    assert np.abs(half - expected).max() <= 0.03 * np.abs(expected).max()


def test_compressed_networks_run_and_are_verified(tmp_path) -> None:
    inputs, _ = convert("resnet", tmp_path / "old.mlmodel")
    answers = {}
    for bits, mode in ((8, "linear"), (8, "linear_symmetric"), (4, "kmeans"), (16, "linear")):
        small = quantization_utils.quantize_weights(tmp_path / "old.mlmodel", bits, mode)
        dense = quantization_utils.quantize_weights(small, 8, "dequantization") if bits < 16 else small
        found, twin = (load(model).predict(inputs)["result"] for model in (small, dense))
        np.testing.assert_array_equal(found, twin)
        answers[bits, mode] = found
        small.save(tmp_path / f"{bits}_{mode}.mlmodel")
    assert len({answer.tobytes() for answer in answers.values()}) == len(answers)

    result = verify(tmp_path / "old.mlmodel", tmp_path / "8_linear.mlmodel", per_op=True)
    assert result.ok and 30 < result.worst.snr < 100
    assert {"convolution", "pooling", "innerProduct"} <= {row.kind for row in result.operations}
    # The network, which has random weights, keeps less of its answers with 16 values for each weight.
    run = CliRunner().invoke
    files = [str(tmp_path / "old.mlmodel"), str(tmp_path / "4_kmeans.mlmodel")]
    assert run(app, ["verify", *files, "--min-snr", "3"]).exit_code == 0
    assert run(app, ["verify", *files, "--min-snr", "60"]).exit_code == 1
    shown = run(app, ["run", files[0], "--random", "-o", str(tmp_path / "out.npz")])
    assert shown.exit_code == 0 and "result" in shown.stdout
    assert np.load(tmp_path / "out.npz")["result"].shape == (1, 10)


def gates(array: Any, order: list[int]) -> list[Any]:
    parts = np.split(array.detach().numpy(), len(order))
    return [parts[i] for i in order]


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_lstms_are_pytorchs(both, sequence) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(3, 4, bidirectional=both)
    x = random(5, 2, 3)
    parts = []
    for end in ("_reverse", "")[::-1] if both else [""]:
        of = {name: getattr(model, f"{name}_l0{end}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        order = [0, 1, 3, 2]  # PyTorch: input, forget, cell, output; the builder: input, forget, output, cell
        bias = gates(of["bias_ih"] + of["bias_hh"], order)
        parts.append((gates(of["weight_hh"], order), gates(of["weight_ih"], order), bias))

    def build(b: Any) -> None:
        outputs = [f"y{i}" for i in range(5 if both else 3)]
        if both:
            b.add_bidirlstm("l", *parts[0], *parts[1], 4, 3, ["x0"], outputs, output_all=sequence)
        else:
            b.add_unilstm("l", *parts[0], 4, 3, ["x0"], outputs, output_all=sequence)

    y, *states = run(build, x[..., None, None], outputs=5 if both else 3, rank5=True)
    expected, (h, c) = (part if isinstance(part, tuple) else part.detach() for part in model(torch.from_numpy(x)))
    whole = expected if sequence else torch.cat(list(h), -1)[None]
    np.testing.assert_allclose(y[..., 0, 0], whole.detach(), rtol=1e-4, atol=1e-6)
    for found, state in zip(states, [s for pair in zip(h, c, strict=True) for s in pair], strict=True):
        np.testing.assert_allclose(found[0, ..., 0, 0], state.detach(), rtol=1e-4, atol=1e-6)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_lstms_with_peepholes_and_states() -> None:
    w_h, w_x = [random(2, 2) for _ in range(4)], [random(2, 3) for _ in range(4)]
    bias, peep, h, c, x = [random(2) for _ in range(4)], [random(2) for _ in range(3)], random(2), random(2), random(3)

    def build(b: Any) -> None:
        b.add_unilstm("l", w_h, w_x, bias, 2, 3, ["x0", "x1", "x2"], ["y0", "y1", "y2"], peep=peep, forget_bias=True)

    _, found_h, found_c = run(build, x, h, c, outputs=3, rank5=True)
    i, f, o, z = (w_h[n] @ h + w_x[n] @ x + bias[n] for n in range(4))
    new = sigmoid(f + 1 + peep[1] * c) * c + sigmoid(i + peep[0] * c) * np.tanh(z)
    np.testing.assert_allclose(found_c, new, rtol=1e-5)
    np.testing.assert_allclose(found_h, sigmoid(o + peep[2] * new) * np.tanh(new), rtol=1e-5)


def test_grus_and_simple_layers() -> None:
    w_h, w_x, bias = ([random(*shape) for _ in range(3)] for shape in ((2, 2), (2, 3), (2,)))
    x = random(4, 3)
    given = x[:, None, :, None, None]

    def gru(b: Any) -> None:
        b.add_gru("l", w_h, w_x, bias, 2, 3, ["x0"], ["y0"], inner_activation="SIGMOID_HARD", output_all=True)

    def simple(b: Any) -> None:
        b.add_simple_rnn("l", w_h[0], w_x[0], bias[0], 2, 3, "RELU", ["x0"], ["y0", "y1"], reverse_input=True)

    expected, h, last = [], np.zeros(2), np.zeros(2)
    for step in x:  # the gates of the builder: update, reset, output
        z, r = (np.clip(0.2 * (w_x[n] @ step + w_h[n] @ h + bias[n]) + 0.5, 0, 1) for n in (0, 1))
        h = (1 - z) * np.tanh(w_x[2] @ step + w_h[2] @ (r * h) + bias[2]) + z * h
        expected.append(h)
    for step in x[::-1]:
        last = np.maximum(w_x[0] @ step + w_h[0] @ last + bias[0], 0)
    np.testing.assert_allclose(run(gru, given, rank5=True)[:, 0, :, 0, 0], expected, rtol=1e-4, atol=1e-6)
    for found in run(simple, given, outputs=2, rank5=True):
        np.testing.assert_allclose(found.reshape(2), last, rtol=1e-4, atol=1e-6)


def test_states_are_optional_and_inputs_may_be_sequences() -> None:
    def build(b: Any) -> None:
        b.add_simple_rnn("l", np.eye(2), np.eye(2), None, 2, 2, "LINEAR", ["x0", "x1"], ["y0", "y1"], output_all=True)

    spec = network(build, (2,), (2,), outputs=2, rank5=True)
    spec.description.input[1].type.isOptional = True
    model = program(spec)
    assert model.predict({"x0": [1, 2]})["y0"].tolist() == [1, 2]
    assert model.predict({"x0": [1, 2], "x1": [10, 20]})["y1"].tolist() == [11, 22]
    x = random(3, 1, 2, 1, 1)
    np.testing.assert_allclose(model.predict({"x0": x})["y0"], x.cumsum(0), rtol=1e-6)
    with pytest.raises(ConfigError, match="'x0' has the shape 3, but must be 2"):
        model.predict({"x0": [1, 2, 3]})


def image_network(color: str, mean: bool = False, rank5: bool = True) -> Any:
    b = NeuralNetworkBuilder(
        [("image", datatypes.Array(3, 4, 5))], [("y", None)], disable_rank5_shape_mapping=not rank5
    )
    b.add_activation("l", "LINEAR", "image", "y", [1, 0])
    b.set_pre_processing_parameters(["image"], color == "bgr", 1.0, 2.0, 3.0, 0.0, 0.5)
    if mean:
        del b.nn_spec.preprocessing[:]
        b.nn_spec.preprocessing.add().meanImage.meanImage.extend(np.arange(60.0))
    return b.spec


@pytest.mark.parametrize("rank5", [True, False])
def test_images_are_scaled_and_shifted(rank5) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    planes = pixels.transpose(2, 0, 1) * 0.5 + np.array([1, 2, 3])[:, None, None]
    shape = (3, 4, 5) if rank5 else (1, 3, 4, 5)
    for color, expected in (("rgb", planes), ("bgr", planes[::-1])):
        spec = image_network(color, rank5=rank5)
        spec.neuralNetwork.imageInputShapeMapping = 0 if rank5 else 1
        found = program(spec).predict({"image": Image.fromarray(pixels)})["y"]
        np.testing.assert_allclose(found, expected.reshape(shape), rtol=1e-6)
    found = program(image_network("rgb", mean=True)).predict({"image": Image.fromarray(pixels)})["y"]
    np.testing.assert_allclose(found, pixels.transpose(2, 0, 1) - np.arange(60).reshape(3, 4, 5))


@pytest.mark.parametrize("labels", [["cat", "dog", "fox"], [7, 8, 9]])
def test_classifiers(labels) -> None:
    b = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("scores", datatypes.Dictionary(str))], mode="classifier")
    b.add_softmax("soft", "x", "scores")
    b.set_class_labels(labels, "label", "scores")
    found = program(b.spec).predict({"x": [0.0, 2.0, 1.0]})
    assert found["label"] == labels[1] and list(found["scores"]) == labels
    np.testing.assert_allclose(list(found["scores"].values()), torch.tensor([0.0, 2, 1]).softmax(0), rtol=1e-6)


def test_networks_in_pipelines() -> None:
    def stage(name: str, output: str, alpha: float) -> Any:
        b = NeuralNetworkBuilder([(name, datatypes.Array(3))], [(output, datatypes.Array(3))])
        b.add_elementwise("l", [name], output, "MULTIPLY", alpha)
        return b.spec

    spec = pipeline("pipeline", stage("x", "between", 2), stage("between", "y", 5))
    spec.description.input.add().CopyFrom(spec.pipeline.models[0].description.input[0])
    del spec.description.input[0]
    model = program(spec)
    assert list(model.stages) == ["part0", "part1"] and model.predict({"x": [1, 2, 3]})["y"].tolist() == [10, 20, 30]


def test_field_numbers_are_those_of_coremltools() -> None:
    from coremltools.proto import NeuralNetwork_pb2

    seen = set()

    def check(mine: Any, theirs: Any) -> None:
        for field in mine.fields:
            other = theirs.fields_by_number[field.number]
            # Packed floats, and what corepress does not look into.
            opaque = field.type == field.TYPE_BYTES and other.type in (other.TYPE_FLOAT, other.TYPE_MESSAGE)
            assert field.name in (other.name, "hasBias") and (field.type == other.type or opaque)
            if field.message_type is not None and (field.full_name, other.full_name) not in seen:
                seen.add((field.full_name, other.full_name))
                check(field.message_type, other.message_type)

    check(schema.NeuralNetwork.DESCRIPTOR, NeuralNetwork_pb2.NeuralNetworkClassifier.DESCRIPTOR)
    layers, theirs = (
        {(field.name, field.number) for field in message.DESCRIPTOR.oneofs_by_name["layer"].fields}
        for message in (schema.NeuralNetwork().layers.add(), NeuralNetwork_pb2.NeuralNetworkLayer)
    )
    assert layers == theirs and len(seen) > 200


def test_a_damaged_weight_is_named() -> None:
    spec = network(lambda b: b.add_inner_product("fc", random(4, 3), None, 3, 4, False, "x0", "y0"), (3,))
    del spec.neuralNetwork.layers[0].innerProduct.weights.floatValue[5:]
    with pytest.raises(FormatError, match=r"layer 'fc' \(innerProduct\): its 5 values don't fit the shape \(4, 3\)"):
        program(spec)
    with pytest.raises(ConfigError, match="a neuralNetwork has no functions"):
        program(network(lambda b: b.add_copy("l", "x0", "y0"), (3,)), function="main")
