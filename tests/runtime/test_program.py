"""What a caller of the runtime relies on beyond plain networks: states, control flow, functions, flexible shapes,
classifiers, images, and clear errors."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.mlprogram import load as load_model
from corepress.mlprogram.schema import ModelDescription
from corepress.runtime import load
from tests import structures


def weights_of(path) -> dict[str, np.ndarray]:
    return {w.name: np.array(w.dense(), np.float32) for w in load_model(path).weights()}


def test_control_flow(tmp_path) -> None:
    path = structures.nested(tmp_path)
    held = weights_of(path)
    program = load(path)
    x = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32) * 0.1
    for flag in (1.0, -1.0):
        if flag > 0:
            y = (x @ held["yes_weight_0"].T + held["yes_bias_0"]) @ held["outer"].T + held["yes2_bias_0"]
        else:
            y = x @ held["no_weight_0"].T + held["no_bias_0"]
        rounds = 0
        while y.sum() < 10 and rounds < 100:
            y, rounds = y @ held["loop_weight_0"].T + held["loop_bias_0"], rounds + 1
        inputs = {"x": x, "flag": np.array([flag], np.float32)}
        (found,) = program.predict(inputs).values()
        np.testing.assert_allclose(found, y, rtol=1e-3)


def test_states_are_kept_between_calls_and_apart_from_each_other(tmp_path) -> None:
    path = structures.stateful(tmp_path)
    program = load(path, precision="float32")
    held = weights_of(path)
    (weight,) = [value for value in held.values() if value.ndim == 2]
    x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float16)
    step = x.astype(np.float32) @ weight.T
    one, other = program.make_state(), program.make_state()
    for count in (1, 2, 3):
        (found,) = program.predict({"x": x}, one).values()
        np.testing.assert_allclose(found.astype(np.float32), count * step, rtol=2e-2, atol=2e-2)
    (found,) = program.predict({"x": x}, other).values()
    np.testing.assert_allclose(found.astype(np.float32), step, rtol=2e-2, atol=2e-2)
    with pytest.raises(ConfigError, match="make_state"):
        program.predict({"x": x})
    with pytest.raises(CorepressError, match="state"):
        program.predict({"x": x}, {})


def test_each_function_can_be_run(tmp_path) -> None:
    path = structures.multifunction(tmp_path)
    x = np.ones((1, 64), np.float16)
    results = [load(path, function=name).predict({"x": x}) for name in ("first", "second")]
    np.testing.assert_array_equal(*(next(iter(result.values())) for result in results))
    with pytest.raises(ConfigError, match="first, second"):
        load(path, function="third")


def convert(module, inputs, **options):
    import coremltools as ct

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), options.pop("example"))
        return ct.convert(
            traced,
            inputs=inputs,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            **options,
        )


def test_flexible_shapes(tmp_path) -> None:
    import coremltools as ct

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU())
    shape = ct.Shape((1, 1, ct.RangeDim(4, 16, 8), ct.RangeDim(4, 16, 8)))
    model = convert(module, [ct.TensorType("x", shape)], example=torch.zeros(1, 1, 8, 8))
    model.save(str(tmp_path / "flexible.mlpackage"))
    program = load(tmp_path / "flexible.mlpackage")
    for size in ((4, 9), (16, 16)):
        x = torch.randn(1, 1, *size)
        (found,) = program.predict({"x": x}).values()
        np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"1x1x4\.\.16x4\.\.16|4\.\.16"):
        program.predict({"x": np.zeros((1, 1, 3, 8), np.float32)})


def test_images_and_classes(tmp_path) -> None:
    import coremltools as ct

    class Colours(torch.nn.Module):
        def forward(self, x):
            return torch.softmax(x.mean((2, 3)), -1)

    model = convert(
        Colours(),
        [ct.ImageType("picture", (1, 3, 8, 8), scale=1 / 255, color_layout=ct.colorlayout.BGR)],
        example=torch.zeros(1, 3, 8, 8),
        classifier_config=ct.ClassifierConfig(["blue", "green", "red"]),
    )
    model.save(str(tmp_path / "colours.mlpackage"))
    program = load(tmp_path / "colours.mlpackage")
    Image = pytest.importorskip("PIL.Image")
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        result = program.predict({"picture": Image.new("RGB", (8, 8), colour)})
        assert result[program.interface.label] == name
        scores = result[program.interface.probabilities]
        assert max(scores, key=scores.get) == name and abs(sum(scores.values()) - 1) < 1e-5


@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"])
def test_image_outputs(layout, tmp_path, monkeypatch) -> None:
    import coremltools as ct

    class Brighter(torch.nn.Module):
        def forward(self, x):
            return x * 2.0 - 20.25

    channels = 1 if layout.startswith("GRAY") else 3
    kind = getattr(ct.colorlayout, layout)
    model = convert(
        Brighter(),
        [ct.ImageType("picture", (1, channels, 4, 6), color_layout=kind)],
        outputs=[ct.ImageType("brighter", color_layout=kind)],
        example=torch.zeros(1, channels, 4, 6),
    )
    model.save(str(tmp_path / "brighter.mlpackage"))
    program = load(tmp_path / "brighter.mlpackage")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)[: 3 if channels == 3 else 2]).astype(np.uint8)
    expected = pixels * 2.0 - 20.25
    if layout != "GRAYSCALE_FLOAT16":
        expected = np.rint(expected).clip(0, 255)
    Image = pytest.importorskip("PIL.Image")
    found = program.predict({"picture": Image.fromarray(pixels)})["brighter"]
    assert isinstance(found, Image.Image)
    assert found.mode == {"GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}.get(layout, "RGB")
    np.testing.assert_array_equal(np.asarray(found), expected)
    # Where PIL is missing, an array goes in and comes out.
    monkeypatch.setitem(sys.modules, "PIL", None)
    found = program.predict({"picture": pixels})["brighter"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)


def test_optional_inputs_without_a_default_must_be_given(tmp_path) -> None:
    structures.linear_model().save(str(tmp_path / "m.mlpackage"))
    model = load_model(tmp_path / "m.mlpackage").copy()
    description = ModelDescription.FromString(model.spec.description)
    description.input[0].type.isOptional = True
    model.spec.description = description.SerializeToString()
    with pytest.raises(ConfigError, match="'x' is optional but has no default"):
        load(model).predict({})
    description.input[0].type.multiArrayType.floatDefaultValue = 1.0
    model.spec.description = description.SerializeToString()
    given, omitted = load(model).predict({"x": np.ones((1, 64))}), load(model).predict({})
    np.testing.assert_array_equal(*(next(iter(result.values())) for result in (given, omitted)))


def test_outputs_have_their_declared_type(tmp_path) -> None:
    structures.linear_model().save(str(tmp_path / "m.mlpackage"))
    model = load_model(tmp_path / "m.mlpackage").copy()
    block = model.spec.mlProgram.functions[0].value.block_specializations[0].value
    (op,) = [op for op in block.operations if op.outputs[0].name == block.outputs[0]]
    x = torch.randn(1, 64, dtype=torch.float16)
    for number, dtype in ((10, torch.float16), (11, torch.float32), (23, torch.int32)):
        op.outputs[0].type.tensorType.dataType = number
        (found,) = load(model).module(x)
        assert found.dtype == dtype
        (found,) = load(model, precision="float32").module(x.float())
        assert found.dtype == torch.float32


def test_errors_name_what_is_wrong(tmp_path) -> None:
    source = tmp_path / "m.mlpackage"
    structures.linear_model().save(str(source))
    program = load(source)
    with pytest.raises(ConfigError, match="'y'"):
        program.predict({"y": np.zeros((1, 64))})
    with pytest.raises(ConfigError, match="missing"):
        program.predict({})
    with pytest.raises(ConfigError, match="1x64"):
        program.predict({"x": np.zeros((2, 64))})
    with pytest.raises(ConfigError, match="numbers"):
        program.predict({"x": np.array([["a"] * 64])})
    for device in ("nowhere", "cuda:99"):
        with pytest.raises(ConfigError, match=device):
            load(source, device)
    with pytest.raises(ConfigError, match="precision"):
        load(source, precision="int8")
    model = load_model(source).copy()
    block = model.spec.mlProgram.functions[0].value.block_specializations[0].value
    next(op for op in block.operations if op.type == "relu").type = "frobnicate"
    with pytest.raises(FormatError, match=r"frobnicate.*CoreML8"):
        load(model)


def test_the_module_is_a_module(tmp_path) -> None:
    source = tmp_path / "m.mlpackage"
    structures.linear_model().save(str(source))
    program = load(source, precision="float32")
    x = torch.randn(1, 64)
    (found,) = program.module(x)
    assert sum(buffer.numel() for buffer in program.module.buffers()) >= 64 * 64
    seen: list[str] = []
    program.predict({"x": x}, observe=lambda name, value: seen.append(name))
    assert seen[0] == "relu_x" and len(seen) >= 2 and found.shape == (1, 64)
