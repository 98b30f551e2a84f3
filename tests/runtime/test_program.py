"""What a caller of the runtime relies on beyond plain networks: states, control flow, functions, flexible shapes,
classifiers, images, and clear errors."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.formats.mlprogram import load as load_model
from corepress.formats.mlprogram.values import immediate_value
from corepress.formats.schema import ModelDescription
from corepress.runtime import load
from tests import structures
from tests.runtime.hand_made import add, model, predict
from tests.runtime.zoo import CachedGpt, Residual


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
            minimum_deployment_target=options.pop("target", ct.target.iOS17),
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
    with pytest.raises(ConfigError, match="'gpu' is not known; use cpu, cuda or mps"):
        load(source, "gpu")
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


def test_what_goes_into_a_loop_is_observed(tmp_path) -> None:
    path = structures.nested(tmp_path)
    held = weights_of(path)
    program = load(path)
    (loop,) = [step for step in program.module.plan.steps if step.kind == "while_loop"]
    seen: list[tuple[str, np.ndarray]] = []
    x = -0.01 * np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    program.predict({"x": x, "flag": [1.0]}, observe=lambda name, value: seen.append((name, value)))
    condition, body = ([value for name, value in seen if name == block.inputs[0]] for block in loop.blocks)
    if loop.blocks[0].inputs == loop.blocks[1].inputs:
        condition, body = condition[::2], condition[1::2]
    # The condition sees what each round of the body does, and at last what came out.
    assert len(condition) == len(body) + 1 > 1
    for given, again, result in zip(condition, body, condition[1:], strict=False):
        np.testing.assert_array_equal(given, again)
        np.testing.assert_allclose(given @ held["loop_weight_0"].T + held["loop_bias_0"], result, rtol=1e-3, atol=1e-3)


def cache(folder) -> Path:
    """A state of 4 rows. The row `place` becomes x; the answer is all rows before, and all rows after."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    specs = [
        mb.TensorSpec((1, 8), types.fp16),
        mb.TensorSpec((1,), types.int32),
        mb.StateTensorSpec((4, 8), types.fp16),
    ]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, place, rows):
        zero, size = np.array([0], np.int32), np.array([8], np.int32)
        begin = mb.concat(values=[place, zero], axis=0)
        end = mb.concat(values=[mb.add(x=place, y=np.array([1], np.int32)), size], axis=0)
        before = mb.read_state(input=rows)
        changed = mb.slice_update(x=mb.read_state(input=rows), update=x, begin=begin, end=end)
        after = mb.coreml_update_state(state=rows, value=changed)
        return mb.identity(x=before), mb.identity(x=after)

    path = folder / "cache.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True).save(str(path))
    return path


def test_a_state_changes_but_not_what_was_read_from_it(tmp_path) -> None:
    program = load(cache(tmp_path))
    state, rows = program.make_state(), np.zeros((4, 8), np.float16)
    names = program.module.plan.output_names
    answers = []
    for place in (0, 2, 3, 2):
        x = np.full((1, 8), place + 1 + len(answers), np.float16)
        result = program.predict({"x": x, "place": [place]}, state)
        before, rows = rows, rows.copy()
        rows[place] = x
        answers += [(result[names[0]], before), (result[names[1]], rows)]
        x[:] = -1  # the caller's own memory
    # Later calls have not touched what earlier ones gave.
    for found, expected in answers:
        np.testing.assert_array_equal(found, expected)


def test_a_part_of_a_state_is_changed_in_place(tmp_path) -> None:
    torch.manual_seed(0)
    model = CachedGpt().eval()
    import coremltools as ct

    states = [ct.StateType(ct.TensorType(shape=b.shape, dtype=np.float16), name) for name, b in model.named_buffers()]
    sizes = (1, 1, 1, ct.RangeDim(1, 16, 5))
    inputs = [ct.TensorType("ids", (1, 1), dtype=np.int32), ct.TensorType("mask", sizes)]
    example = (torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 5))
    path = tmp_path / "gpt.mlpackage"
    convert(model, inputs, example=example, states=states, target=ct.target.iOS18).save(str(path))
    program = load(path, precision="float32")
    state = program.make_state()
    given = dict(state)
    program.predict({"ids": [[3]], "mask": torch.zeros(1, 1, 1, 5)}, state)
    for name, tensor in given.items():
        assert state[name] is tensor and tensor[:, :, 4].any() and not tensor[:, :, :4].any()
    # With an observer, who may keep what it sees, nothing is.
    seen, copies = [], []
    program.predict(
        {"ids": [[7]], "mask": torch.zeros(1, 1, 1, 5)},
        state,
        lambda name, value: (seen.append(value), copies.append(value.clone())),
    )
    assert all(torch.equal(value, copy) for value, copy in zip(seen, copies, strict=True))


def test_the_module_can_be_moved_and_compiled(tmp_path) -> None:
    import coremltools as ct

    torch.manual_seed(0)
    model, x = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), Residual(8, 8, 1)),
        torch.randn(1, 3, 8, 8),
    )
    convert(model, [ct.TensorType("x", x.shape)], example=x).save(str(tmp_path / "m.mlpackage"))
    module = load(tmp_path / "m.mlpackage").module
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x)[0], expected)
        (found,) = module.to("meta")(x.to("meta"))
        assert found.device.type == "meta" and found.shape == expected.shape


def test_constants_of_the_same_name_are_kept_apart(tmp_path) -> None:
    """Within operations that have one name, and in the two branches of a condition."""
    spec, block = model()
    for number, name in ((1.0, "a"), (10.0, "b")):
        add(block, "add", name, x="x", y=np.full((1, 4), number))
    choice = add(block, "cond", "z", pred=False)
    for number in (100.0, 1000.0):
        branch = choice.blocks.add()
        constant = add(branch, "const", "number")
        constant.attributes.add(key="val").value.CopyFrom(immediate_value(np.full((1, 4), number, np.float32)))
        add(branch, "add", f"plus{number}", x="b", y="number")
        branch.outputs.append(f"plus{number}")
    add(block, "add", "y", x="a", y="z")
    np.testing.assert_array_equal(predict(spec, tmp_path)["y"], np.full((1, 4), 1011))
