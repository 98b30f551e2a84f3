"""Custom layers run through functions that the caller gives."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corepress.errors import ConfigError, FormatError
from tests.formats.neural_network.networks import pipeline
from tests.runtime.networks.made import network, program

X = np.array([[-1.0, 0.5], [2.0, 3.0]], np.float32)


def custom(b: Any, name: str = "Swish", inputs: int = 1, outputs: int = 1) -> Any:
    layer = b.spec.neuralNetwork.layers.add(name="mine")
    layer.input.extend(f"x{i}" for i in range(inputs))
    layer.output.extend(f"y{i}" for i in range(outputs))
    layer.custom.className = name
    return layer.custom


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def test_a_function_stands_for_a_class() -> None:
    spec = network(custom, X.shape)
    expected = X / (1 + np.exp(-X))
    for function in (swish, torch.nn.SiLU(), lambda x: swish(x).numpy()):
        found = program(spec, custom={"Swish": function}).predict({"x0": X})["y0"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    half = program(spec, custom={"Swish": swish}, precision="float16")
    np.testing.assert_allclose(half.predict({"x0": X})["y0"], expected, rtol=2e-3)
    # Functions of C, which say nothing of their parameters.
    found = program(spec, custom={"Swish": torch.neg}).predict({"x0": X})["y0"]
    np.testing.assert_array_equal(found, -X)


def test_functions_get_parameters_and_weights() -> None:
    seen: dict[str, Any] = {}

    def build(b: Any) -> None:
        message = custom(b, "Mine", 2, 2)
        message.parameters["axis"].intValue = 3
        message.parameters["big"].longValue = 1 << 40
        message.parameters["factor"].doubleValue = 0.5
        message.parameters["mode"].stringValue = "fast"
        message.parameters["on"].boolValue = True
        message.parameters["nothing"].SetInParent()
        message.weights.add().floatValue.extend([1, 2, 3])
        message.weights.add().float16Value = np.array([0.5, -2], np.float16).tobytes()
        message.weights.add().rawValue = b"\x01\xff"

    def mine(x: Tensor, y: Tensor, *, parameters: dict[str, Any], weights: list[Tensor]) -> Any:
        seen.update(parameters=parameters, weights=weights)
        return [x + y, x * parameters["factor"]]

    results = program(network(build, (2,), (2,), outputs=2), custom={"Mine": mine}).predict(
        {"x0": [1, 2], "x1": [5, 6]}
    )
    assert results["y0"].tolist() == [6, 8] and results["y1"].tolist() == [0.5, 1]
    assert seen["parameters"] == {
        "axis": 3, "big": 1 << 40, "factor": 0.5, "mode": "fast", "on": True, "nothing": None
    }  # fmt: skip
    assert [weight.tolist() for weight in seen["weights"]] == [[1, 2, 3], [0.5, -2], [1, 255]]
    assert [weight.dtype for weight in seen["weights"]] == [torch.float32, torch.float32, torch.uint8]


def test_five_dimensions() -> None:
    shapes = []
    spec = network(custom, (3,), rank5=True)
    program(spec, custom={"Swish": lambda x: shapes.append(x.shape) or x}).predict({"x0": [1, 2, 3]})
    assert shapes == [(1, 1, 3, 1, 1)]


def test_a_class_without_a_function_is_named() -> None:
    for given in (None, {}, {"Swsh": swish}):
        with pytest.raises(FormatError) as error:
            program(network(custom, X.shape), custom=given)
        assert "layer 'mine' (custom): its class 'Swish'" in str(error.value)
        assert "corepress.runtime.load(path, custom={'Swish': function})" in str(error.value)


def test_mistakes_of_functions_are_told() -> None:
    def wrong(x: Tensor) -> Tensor:
        raise AttributeError("no such thing")

    for function, message in (
        (3, "custom: 'Swish' needs a function of the layer's inputs, not int"),
        (wrong, "the function for custom layers of the class 'Swish' failed: no such thing"),
        (lambda x, y: x, "failed: .*missing 1 required positional argument"),
        (lambda x: (x, x), "gave 2 results, but the layer has 1 outputs"),
        (lambda x: "text", "must give tensors, not str"),
    ):
        with pytest.raises(ConfigError, match=message):
            program(network(custom, X.shape), custom={"Swish": function}).predict({"x0": X})


def test_pipelines_and_verify_take_them_too(tmp_path) -> None:
    from corepress.verification import verify

    spec = network(custom, X.shape)
    whole = pipeline("pipeline", spec)
    whole.description.input.add().CopyFrom(spec.description.input[0])
    found = program(whole, custom={"Swish": swish}).predict({"x0": X})["y0"]
    np.testing.assert_allclose(found, X / (1 + np.exp(-X)), rtol=1e-6)
    path = tmp_path / "model.mlmodel"
    path.write_bytes(spec.SerializeToString())
    assert verify(path, path, [{"x0": X}], custom={"Swish": swish}).ok
    with pytest.raises(FormatError, match=re.escape("custom={'Swish': function}")):
        verify(path, path, [{"x0": X}])


def test_an_ml_program_has_no_custom_layers(tmp_path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    from corepress.runtime import load
    from corepress.verification import verify
    from tests.coreml.test_constants import built

    network_path = tmp_path / "model.mlmodel"
    network_path.write_bytes(network(custom, X.shape).SerializeToString())
    made = built(tmp_path / "program.mlpackage", {"x0": X.shape}, lambda x0: mb.silu(x=x0, name="y0"))
    with pytest.raises(ConfigError, match="custom= is for neural networks"):
        load(made, custom={"Swish": swish})
    with pytest.raises(ConfigError, match="custom= is for neural networks"):
        verify(made, made, [{"x0": X}], custom={"Swish": swish})
    # Beside a network they are for that one.
    assert verify(network_path, made, [{"x0": X}], custom={"Swish": swish}).ok
    assert verify(made, network_path, [{"x0": X}], custom={"Swish": swish}).ok
