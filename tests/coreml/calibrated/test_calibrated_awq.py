"""`activation_aware_scale` on a package: the same answers, less error, and only values of constants change."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress.coreml import OpLinearQuantizerConfig, OptimizationConfig, calibrated, linear_quantize_weights
from corepress.coreml.calibrated.activation_scaling import scale_activations
from corepress.coreml.quantize import METHOD
from corepress.runtime import load
from tests.oracle import peer_weights

INT4 = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", weight_threshold=100))
# By what makes their input: a norm; an attention's values; convolutions, through ReLU and pooling; a product's factor.
SCALED = {"q", "k", "v", "o", "second", "grouped", "dense", "down"}
# Behind a GELU; beside a residual; one constant for two layers that read different values; behind a sum.
UNTOUCHED = {"behind_gelu", "beside", "shared", "gate"}
# What makes the input of others, and reads one that nothing makes.
MAKING = {"conv", "first", "up"}


def build(folder: Path, precision: str) -> Path:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_t(4, shape) * 0.2).astype(np.float32)

    def linear(x, name, inputs, outputs):
        return mb.linear(x=x, weight=mb.const(val=weight(outputs, inputs), name=name), bias=weight(outputs))

    def norm(x, width):
        return mb.layer_norm(x=x, axes=[-1], gamma=np.exp(1.5 * weight(width) * 5), beta=weight(width))

    def heads(x, last):
        return mb.transpose(x=mb.reshape(x=x, shape=[1, 10, 2, 16]), perm=[0, 2, *last])

    specs = [mb.TensorSpec((1, 10, 32), types.fp32), mb.TensorSpec((1, 3, 12, 12), types.fp32)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(words, image):
        x = norm(words, 32)
        q, k, v = (linear(x, name, 32, 32) for name in "qkv")
        attention = mb.softmax(x=mb.mul(x=mb.matmul(x=heads(q, [1, 3]), y=heads(k, [3, 1])), y=0.01))
        mixed = mb.transpose(x=mb.matmul(x=attention, y=heads(v, [1, 3])), perm=[0, 2, 1, 3])
        x = mb.add(x=words, y=linear(mb.reshape(x=mixed, shape=[1, 10, 32]), "o", 32, 32))
        x = mb.relu(x=linear(x, "first", 32, 24))
        x = linear(mb.gelu(x=linear(x, "second", 24, 24)), "behind_gelu", 24, 32)
        x = norm(x, 32)
        x = mb.add(x=x, y=linear(x, "beside", 32, 32))
        x = mb.mul(x=linear(x, "up", 32, 40), y=mb.silu(x=linear(x, "gate", 32, 40)))
        x = linear(x, "down", 40, 16)
        shared = mb.const(val=weight(16, 16), name="shared")
        x = mb.linear(x=mb.relu(x=mb.linear(x=norm(x, 16), weight=shared)), weight=shared, name="words_out")

        def conv(x, name, shape, **options):
            return mb.conv(x=x, weight=mb.const(val=weight(*shape), name=name), pad_type="same", **options)

        y = mb.relu(x=conv(image, "conv", (16, 3, 3, 3)))
        y = mb.max_pool(x=y, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
        y = mb.relu(x=conv(y, "grouped", (16, 4, 3, 3), groups=4))
        y = linear(mb.reshape(x=y, shape=[1, 16 * 36]), "dense", 16 * 36, 12)
        return x, y

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=getattr(ct.precision, precision),
        skip_model_load=True,
    )
    path = folder / f"{precision}.mlpackage"
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("awq"), "FLOAT32")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("awq"), "FLOAT16")


def samples(count: int = 12, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng, magnitudes = np.random.default_rng(seed), np.exp(np.random.default_rng(5).normal(size=32))
    return [
        {
            "words": (rng.normal(size=(1, 10, 32)) * magnitudes).astype(np.float32),
            "image": rng.normal(size=(1, 3, 12, 12)).astype(np.float32),
        }
        for _ in range(count)
    ]


def answers(model: corepress.Model | Path, given: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Of each output, for all samples."""
    program = load(model, precision="float32")
    outputs = [program.predict(sample) for sample in given]
    return [np.concatenate([output[name].ravel() for output in outputs]) for name in sorted(outputs[0])]


def scaled(path: Path, config: OptimizationConfig = INT4, function: str | None = None) -> corepress.Model:
    model = corepress.load(path)
    plan = METHOD.plan(model, config, False, fitted="gptq", target="iOS18")
    return scale_activations(model, plan.choose, samples(), function, "cpu")


def changes(path: Path, model: corepress.Model) -> set[str]:
    """The names of the weights that are not what they were."""
    before = {(w.function, w.output): w.read() for w in corepress.load(path).weights()}
    return {
        w.output.removesuffix("_to_fp16")
        for w in model.weights()
        if not np.array_equal(w.read(), before[w.function, w.output])
    }


@pytest.mark.parametrize("precision", ["package", pytest.param("half", marks=pytest.mark.slow)])
def test_it_answers_the_same_and_only_what_can_be_scaled_changes(
    precision: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    path = request.getfixturevalue(precision)
    with caplog.at_level(logging.WARNING):
        model = scaled(path)
    tolerance = 1e-5 if precision == "package" else 3e-3  # each constant is rounded once more
    for one, other in zip(answers(path, samples(6, 1)), answers(model, samples(6, 1)), strict=True):
        assert np.linalg.norm(one - other) < tolerance * np.linalg.norm(one)
    names = changes(path, model)
    assert not names & UNTOUCHED
    assert len(names & SCALED) >= 6
    assert [(w.output, w.dtype, w.shape, w.compression) for w in model.weights()] == [
        (w.output, w.dtype, w.shape, "") for w in corepress.load(path).weights()
    ]
    assert "7 of 15 weights" in caplog.text


@pytest.mark.slow
def test_int4_answers_better_at_the_same_size_and_coremltools_agrees(half: Path, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    one, other = (
        calibrated.linear_quantize_weights(half, INT4, iter(samples(24)), activation_aware_scale=flag)
        for flag in (False, True)
    )
    without = linear_quantize_weights(half, INT4)
    exact = answers(half, samples(24, 1))
    errors = [
        sum(
            np.square(a - e).sum() / np.square(e).sum()
            for a, e in zip(answers(model, samples(24, 1)), exact, strict=True)
        )
        for model in (one, other, without)
    ]
    # GPTQ that searches its scales leaves little to gain by others before it.
    assert errors[1] < 0.3 * errors[2] and errors[0] < 0.3 * errors[2]
    assert [(w.name, w.compression, w.bits) for w in one.weights()] == [
        (w.name, w.compression, w.bits) for w in other.weights()
    ]
    assert other.size() == pytest.approx(one.size(), rel=0.01)
    other.save(tmp_path / "out.mlpackage")
    theirs = peer_weights(tmp_path / "out.mlpackage")
    for weight in corepress.load(tmp_path / "out.mlpackage").weights():
        np.testing.assert_array_equal(theirs[weight.output], weight.dense())
    assert files == {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}


def test_a_weight_with_one_scale_gives_none_to_the_next_layer(package: Path) -> None:
    whole = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", granularity="per_tensor", weight_threshold=100))
    names = changes(package, scaled(package, whole))
    assert names & {"q", "k", "v"} and not names & {"conv", "first", "up"}


def test_weights_of_several_functions_go_on_sharing(package: Path, tmp_path: Path) -> None:
    import coremltools as ct

    description = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "other"):
        description.add_function(str(package), "main", name)
    description.default_function_name = "one"
    path = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    model = scaled(path, function="one")
    assert not changes(path, model) and model.size() == corepress.load(path).size()


def test_the_report_compares_with_the_scaled_weights(half: Path) -> None:
    model = calibrated.linear_quantize_weights(half, INT4, samples(4), activation_aware_scale=True)
    report = corepress.report(model)
    assert {row.name.removesuffix("_to_fp16") for row in report.compressed} == SCALED | UNTOUCHED | MAKING
    assert not report.skipped or all("threshold" in row.skipped or "rank" in row.skipped for row in report.skipped)
    assert report.worst is not None and report.worst.snr is not None and report.worst.snr > 5


@pytest.mark.slow
def test_the_command_takes_it(half: Path, tmp_path: Path) -> None:
    from tests.cli.test_cli import corepress as command
    from tests.cli.test_cli import fails

    (tmp_path / "data").mkdir()
    for number, sample in enumerate(samples(4)):
        np.savez(tmp_path / "data" / f"{number}.npz", **sample)
    out = tmp_path / "out.mlpackage"
    options = ["quantize", half, "-o", out, "--dtype", "int4", "--weight-threshold", 100, "--activation-aware-scale"]
    assert "--method gptq" in fails(*options, "--data", tmp_path / "data")
    done = command(*options, "--method", "gptq", "--data", tmp_path / "data")
    assert "7 of 15 weights" in done.stderr
    wanted = calibrated.linear_quantize_weights(half, INT4, samples(4), activation_aware_scale=True)
    written = {weight.output: weight.dense() for weight in corepress.load(out).weights()}
    for weight in wanted.weights():
        np.testing.assert_array_equal(written[weight.output], weight.dense())
