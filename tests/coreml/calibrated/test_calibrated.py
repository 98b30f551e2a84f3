"""Compression of a package by what samples say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import corepress
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    calibrated,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)
from corepress.coreml.calibrated import judging
from corepress.coreml.calibrated.layers import layout_of, vectors_of
from corepress.errors import ConfigError
from corepress.runtime import load
from corepress.runtime.registry import OPERATIONS
from corepress.runtime.walk import walk
from tests import structures
from tests.oracle import peer_weights
from tests.packages import saved


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions, one of them in groups, two linear layers that share a weight, a product, and an embedding."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_t(4, shape) * 0.1).astype(np.float32)

    specs = [mb.TensorSpec((1, 8, 10, 10), types.fp32), mb.TensorSpec((4,), types.int32)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(image, ids):
        x = mb.relu(x=mb.conv(x=image, weight=weight(16, 8, 3, 3), strides=[2, 2], pad_type="same", name="conv"))
        x = mb.relu(x=mb.conv(x=x, weight=weight(16, 4, 3, 3), groups=4, pad_type="same", name="grouped"))
        x = mb.reshape(x=x, shape=[1, 16, 25])
        x = mb.transpose(x=x, perm=[0, 2, 1])
        shared = mb.const(val=weight(16, 16), name="shared")
        x = mb.relu(x=mb.linear(x=x, weight=shared, name="first"))
        x = mb.relu(x=mb.linear(x=x, weight=shared, name="second"))
        x = mb.matmul(x=x, y=mb.const(val=weight(16, 40), name="product"), name="multiply")
        e = mb.gather(x=mb.const(val=weight(64, 32), name="table"), indices=ids, axis=0, name="embed")
        return x, e

    return saved(program, tmp_path_factory.mktemp("calibrated") / "net.mlpackage")


def samples(count: int = 24, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    # Images with a few strong directions, so that statistics have something to say.
    bases = np.random.default_rng(99).normal(size=(5, 8, 10, 10))
    return [
        {
            "image": (np.tensordot(rng.normal(size=5), bases, 1)[None] + 0.1 * rng.normal(size=(1, 8, 10, 10))).astype(
                np.float32
            ),
            "ids": rng.integers(0, 64, 4).astype(np.int32),
        }
        for _ in range(count)
    ]


def distance(package: Path, model: corepress.Model) -> float:
    """The relative squared error of the first output on samples that were not used."""
    exact, now = load(package, precision="float32"), load(model, precision="float32")
    name = next(feature.name for feature in exact.interface.outputs if len(feature.shape) == 3)
    noise = signal = 0.0
    for sample in samples(16, seed=7):
        a, b = exact.predict(sample)[name], now.predict(sample)[name]
        noise, signal = noise + float(((a - b) ** 2).sum()), signal + float((a**2).sum())
    return noise / signal


def config(kind: type, **fields: object) -> OptimizationConfig:
    return OptimizationConfig(kind(weight_threshold=100, **fields))


METHODS = {
    "palettize 2 bits": (palettize_weights, calibrated.palettize_weights, OpPalettizerConfig, {"nbits": 2}),
    "palettize groups": (
        palettize_weights, calibrated.palettize_weights, OpPalettizerConfig,
        {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8},
    ),
    "palettize vectors": (
        palettize_weights, calibrated.palettize_weights, OpPalettizerConfig, {"nbits": 4, "cluster_dim": 2},
    ),
    "palettize int8 LUT": (
        palettize_weights, calibrated.palettize_weights, OpPalettizerConfig, {"nbits": 3, "lut_dtype": "int8"},
    ),
    "int4": (linear_quantize_weights, calibrated.linear_quantize_weights, OpLinearQuantizerConfig, {"dtype": "int4"}),
    "uint4 affine": (
        linear_quantize_weights, calibrated.linear_quantize_weights, OpLinearQuantizerConfig,
        {"dtype": "uint4", "mode": "linear"},
    ),
    "int4 blocks": (
        linear_quantize_weights, calibrated.linear_quantize_weights, OpLinearQuantizerConfig,
        {"dtype": "int4", "granularity": "per_block", "block_size": 4},
    ),
    "int4 tensor, affine": (
        linear_quantize_weights, calibrated.linear_quantize_weights, OpLinearQuantizerConfig,
        {"dtype": "int4", "mode": "linear", "granularity": "per_tensor"},
    ),
    "prune": (prune_weights, calibrated.prune_weights, OpMagnitudePrunerConfig, {"target_sparsity": 0.6}),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_it_answers_better_at_the_same_size_and_coremltools_agrees(method: str, package: Path, tmp_path: Path) -> None:
    plain, fitted, kind, fields = METHODS[method]
    chosen = config(kind, **fields)
    one, other = plain(package, chosen), fitted(package, chosen, samples())
    forms = [{w.name: (w.compression, w.bits, w.shape) for w in model.weights()} for model in (one, other)]
    assert forms[0] == forms[1]
    # A mask of the same size holds a few more or fewer values.
    assert other.size() <= 1.02 * one.size()
    assert distance(package, other) < 0.95 * distance(package, one)
    other.save(tmp_path / "out.mlpackage")
    theirs = peer_weights(tmp_path / "out.mlpackage")
    for weight in corepress.load(tmp_path / "out.mlpackage").weights():
        if weight.compression:
            np.testing.assert_array_equal(theirs[weight.output], weight.dense())


def test_weights_that_share_their_data_go_on_sharing(package: Path) -> None:
    model = calibrated.palettize_weights(package, config(OpPalettizerConfig, nbits=2), samples(4))
    (shared,) = (weight for weight in model.weights() if weight.name == "shared")
    assert {consumer.name for consumer in shared.consumers} == {"first", "second"}


def test_input_and_configuration_stay_as_they_are(package: Path) -> None:
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    given = samples(3)
    copies = [{name: array.copy() for name, array in sample.items()} for sample in given]
    calibrated.linear_quantize_weights(package, config(OpLinearQuantizerConfig, dtype="int8"), given)
    assert before == {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    for sample, copy in zip(given, copies, strict=True):
        assert all(np.array_equal(sample[name], copy[name]) for name in copy)


def test_sensitive_elements_are_kept_near(package: Path) -> None:
    chosen = config(OpPalettizerConfig, nbits=2)
    plain = palettize_weights(package, chosen)
    sensitive = calibrated.palettize_weights(package, chosen, samples(), method="skm", held_back=0)
    assert [w.compression for w in plain.weights()] == [w.compression for w in sensitive.weights()]
    assert distance(package, sensitive) < distance(package, plain)


def test_sensitivities_of_a_classifier_are_those_of_its_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [{"x": rng.normal(size=(1, 64)).astype(np.float32) * np.arange(64)} for _ in range(8)]
    path, chosen = structures.classifier(tmp_path), config(OpPalettizerConfig, nbits=2)
    plain = palettize_weights(path, chosen)
    sensitive = calibrated.palettize_weights(path, chosen, given, method="skm", held_back=0)
    assert not sensitive.unfitted
    exact, one, two = (
        judging.answers_of(model, given, None, "cpu") for model in (corepress.load(path), sensitive, plain)
    )
    assert judging.error(exact, one) < judging.error(exact, two)


def test_sensitivity_of_a_linear_layer_is_the_square_of_its_input() -> None:
    from corepress.coreml.calibrated.sensitivity import _LEAST, squared_gradients

    program = load(linear_package())
    rng = np.random.default_rng(1)
    given = [{"x": rng.normal(size=(1, 8)).astype(np.float32)} for _ in range(5)]
    (buffer,) = (name for key, name in program.constants.items() if program.module.constants()[name].dim() == 2)
    found = squared_gradients(program, {buffer}, given)[buffer]
    outputs = [program.predict(sample)["y"] for sample in given]
    expected = sum(np.tile((s["x"] / y.std(ddof=1)) ** 2, (6, 1)) for s, y in zip(given, outputs, strict=True))
    np.testing.assert_allclose(found, expected / expected.mean() + _LEAST, rtol=1e-4)
    assert not program.module.constants()[buffer].requires_grad


def linear_package() -> corepress.Model:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    weight = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 8), types.fp32)], opset_version=ct.target.iOS16)
    def program(x):
        return mb.linear(x=x, weight=weight, name="y")

    from corepress.coreml.interop import as_model

    return as_model(
        ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    )


PRODUCTS = {
    "linear": ("linear", "weight", {"x": (2, 3, 6), "weight": (5, 6)}, {}),
    "matmul y": ("matmul", "y", {"x": (2, 3, 6), "y": (6, 5)}, {}),
    "matmul y, transposed": ("matmul", "y", {"x": (2, 3, 6), "y": (5, 6)}, {"transpose_y": True}),
    "matmul y, x transposed": ("matmul", "y", {"x": (2, 6, 3), "y": (6, 5)}, {"transpose_x": True}),
    "matmul x": ("matmul", "x", {"x": (5, 6), "y": (2, 6, 3)}, {}),
    "matmul x, transposed": ("matmul", "x", {"x": (6, 5), "y": (2, 6, 3)}, {"transpose_x": True}),
    "matmul x, y transposed": ("matmul", "x", {"x": (5, 6), "y": (2, 3, 6)}, {"transpose_y": True}),
    "conv": ("conv", "weight", {"x": (2, 6, 9, 8), "weight": (4, 6, 3, 2)}, {"pad_type": "valid"}),
    "conv, strides and padding": (
        "conv", "weight", {"x": (2, 6, 9, 8), "weight": (4, 6, 3, 2)},
        {"pad_type": "custom", "pad": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]},
    ),
    "conv in groups": (
        "conv", "weight", {"x": (2, 6, 9, 8), "weight": (4, 3, 3, 3)}, {"pad_type": "same", "groups": 2}
    ),
    "conv of signals": ("conv", "weight", {"x": (2, 6, 9), "weight": (4, 6, 3)}, {"pad_type": "same", "strides": [2]}),
}  # fmt: skip


@pytest.mark.parametrize("case", PRODUCTS)
def test_an_operation_is_its_matrices_times_its_vectors(case: str) -> None:
    kind, argument, shapes, others = PRODUCTS[case]
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    arguments = {**tensors, **others}
    layout = layout_of(kind, argument, arguments)
    assert layout is not None
    vectors = torch.cat(list(vectors_of(kind, argument, arguments, layout)), 1)
    mine = torch.einsum("grc,gnc->grn", layout.matrices(tensors[argument]), vectors)
    answer = OPERATIONS[kind].function(**arguments)
    # The same numbers, whatever their arrangement.
    torch.testing.assert_close(mine.flatten().sort().values, answer.flatten().sort().values, rtol=1e-4, atol=1e-5)


def test_a_walk_gives_what_a_run_gives(package: Path) -> None:
    program = load(package, precision="float32")
    seen: list[str] = []
    assert walk(program, samples(3), lambda step, arguments: seen.append(step.name) or {}) == {}
    assert {"conv", "grouped", "first", "second", "multiply", "embed"} <= set(seen)


def test_bad_samples_are_named(package: Path) -> None:
    chosen = config(OpPalettizerConfig, nbits=2)
    with pytest.raises(ConfigError, match="sample_data is empty"):
        calibrated.palettize_weights(package, chosen, [])
    with pytest.raises(ConfigError, match="sample 1 of sample_data"):
        calibrated.palettize_weights(package, chosen, [samples(1)[0], {"image": np.zeros((1, 8, 10, 10))}])
    with pytest.raises(ConfigError, match="must be a list or an iterable"):
        calibrated.palettize_weights(package, chosen, samples(1)[0])
    with pytest.raises(ConfigError, match='"lut-gptq" or "skm"'):
        calibrated.palettize_weights(package, chosen, samples(1), method="guess")


@pytest.mark.parametrize("method", ["lut-gptq", "skm"])
def test_samples_with_nan_are_refused(method: str, package: Path) -> None:
    given = samples(3)
    given[1]["image"][0, 0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match="sample 1 of sample_data: input 'image' holds NaN"):
        calibrated.palettize_weights(package, config(OpPalettizerConfig, nbits=2), given, method=method)


def test_progress_counts_every_weight(package: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    calibrated.palettize_weights(
        package, config(OpPalettizerConfig, nbits=2), samples(2), progress=lambda *call: calls.append(call)
    )
    assert [done for done, _, _ in calls] == list(range(1, len(calls) + 1)) and calls[-1][0] == calls[-1][1]
