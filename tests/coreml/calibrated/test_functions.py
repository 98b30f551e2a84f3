"""Weights that several functions read are fitted to the samples of each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.coreml import OpMagnitudePrunerConfig, OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.errors import ConfigError
from tests.cli.test_cli import corepress as corepress_cli

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=3, weight_threshold=0))
HALF = np.r_[np.ones(32), np.zeros(32)] + 0.02


def package(folder: Path) -> Path:
    """Two functions of two layers; the first weight is shared, the other one is the function's own."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(3)
    shared = rng.normal(size=(64, 64)).astype(np.float32)
    description = ct.utils.MultiFunctionDescriptor()

    def function(name: str, own: np.ndarray) -> Any:
        @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp32)], opset_version=ct.target.iOS18)
        def program(x):
            hidden = mb.relu(x=mb.linear(x=x, weight=shared, name=f"shared_{name}"))
            return mb.linear(x=hidden, weight=own, name=f"own_{name}")

        return program

    for name in ("prefill", "decode"):
        own = rng.normal(size=(32, 64)).astype(np.float32)
        model = ct.convert(
            function(name, own), convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32, skip_model_load=True,
        )  # fmt: skip
        path = folder / f"{name}.mlpackage"
        model.save(str(path))
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "prefill"
    path = folder / "functions.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    return path


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("functions"))


def samples(count: int, scale: np.ndarray, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.normal(size=(1, 64)) * scale).astype(np.float32)} for _ in range(count)]


# One function sees the first half of the inputs, the other one the second half.
PREFILL, DECODE = samples(120, HALF), samples(120, HALF[::-1], 1)


def snr(original: Path, model: Any, function: str, given: list[dict[str, np.ndarray]]) -> float:
    return corepress.verify(original, model, given, function=function).worst.snr


@pytest.mark.parametrize("method", ["lut-gptq", "skm"])
def test_what_is_shared_counts_the_samples_of_each_function(functions, method) -> None:
    both = {"prefill": PREFILL, "decode": DECODE}
    fit = {"method": method, "held_back": 0}
    judged = {"prefill": samples(60, HALF, 2), "decode": samples(60, HALF[::-1], 3)}
    one = calibrated.palettize_weights(functions, CONFIG, PREFILL, function="prefill", **fit)
    two = calibrated.palettize_weights(functions, CONFIG, both, **fit)
    if method == "lut-gptq":
        kept = [min(snr(functions, model, name, own) for name, own in judged.items()) for model in (one, two)]
        assert kept[1] > kept[0] + 1
    assert {function for function, _ in one.unfitted} == {"decode"}
    assert not two.unfitted and {function for function, _ in two.changed} == set(both)
    # The weights are shared still.
    matrices = [weight.key for weight in two.weights() if len(weight.shape) == 2]
    assert len(matrices) == 4 and len(set(matrices)) == 3


def test_a_fit_to_the_samples_of_all_is_that_to_their_sum(functions) -> None:
    """Beside what GPTQ makes of the first layer with the Hessian of all inputs."""
    from corepress.algorithms.fitted.statistics import Statistics

    seen = []
    original = Statistics.add

    def add(self, vectors, *arguments):
        seen.append((self, vectors.clone()))  # kept, or another one could get its id
        return original(self, vectors, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Statistics, "add", add)
        calibrated.palettize_weights(functions, CONFIG, {"prefill": PREFILL, "decode": DECODE}, held_back=0)
    gathered: dict[int, list[np.ndarray]] = {}
    for statistics, vectors in seen:
        gathered.setdefault(id(statistics), []).append(vectors.numpy().reshape(-1, 64))
    expected = np.concatenate([sample["x"] for sample in [*PREFILL, *DECODE]])
    sums = [np.concatenate(own) for own in gathered.values()]
    assert any(np.array_equal(own, expected) for own in sums)
    assert sorted(map(len, sums)) == [120, 120, 240]


def test_samples_of_each_function_are_held_back(functions, caplog) -> None:
    both = {"prefill": PREFILL, "decode": DECODE}
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=0))
    model = calibrated.palettize_weights(functions, config, both)
    plain = corepress.coreml.palettize_weights(functions, config)
    for name, own in (("prefill", samples(60, HALF, 2)), ("decode", samples(60, HALF[::-1], 3))):
        assert snr(functions, model, name, own) > snr(functions, plain, name, own)
    others = {"prefill": samples(20, HALF, 4), "decode": samples(20, HALF[::-1], 5)}
    assert calibrated.palettize_weights(functions, config, both, held_back=others).changed


def test_samples_that_are_none_for_these_functions(functions) -> None:
    both = {"prefill": PREFILL[:6], "decode": DECODE[:6]}
    broken = {**both, "decode": [{"x": np.full((1, 64), np.nan)}]}
    for given, options, message in (
        (both, {"function": "decode"}, "function='decode' has no effect beside samples for each function"),
        (broken, {}, r"sample 0 of sample_data\['decode'\]: input 'x' holds NaN"),
        ({**both, "other": []}, {}, "sample_data must be a list"),
        (both, {"held_back": PREFILL}, "what is held back must be a number, or samples for each function"),
    ):
        with pytest.raises(ConfigError, match=message):
            calibrated.palettize_weights(functions, CONFIG, given, **options)


def in_folders(folder: Path, given: dict[str, list[dict[str, np.ndarray]]]) -> None:
    """Samples of several functions as the command line takes them."""
    for name, own in given.items():
        (folder / name).mkdir(parents=True)
        np.savez(folder / name / "samples.npz", x=np.stack([sample["x"] for sample in own]))


def test_the_command_line_takes_a_folder_for_each_function(functions, tmp_path) -> None:
    in_folders(tmp_path / "data", {"prefill": PREFILL, "decode": DECODE})
    out = tmp_path / "out.mlpackage"
    given = ("--nbits", 3, "--weight-threshold", 0, "--method", "lut-gptq", "--json", "--data", tmp_path / "data")
    found = json.loads(corepress_cli("palettize", functions, "-o", out, *given).stdout)
    judged = found["verification"]
    assert judged["judged_on"] == {"source": "--data", "part": "held back", "of": 240} and judged["samples"] == 48
    assert any(note in judged["summary"] for note in ("function 'prefill', the worst of 2", "'decode', the worst of 2"))
    plain = corepress.coreml.palettize_weights(functions, CONFIG)
    small = corepress.load(out)
    for name, own in (("prefill", samples(60, HALF, 2)), ("decode", samples(60, HALF[::-1], 3))):
        assert snr(functions, small, name, own) > snr(functions, plain, name, own) + 1


@pytest.mark.parametrize("held_back", [0, 0.2])
def test_one_that_the_configuration_leaves_alone_stays_as_it_is_though_it_shares_its_values(
    functions, held_back
) -> None:
    """Each function names its own operation, and only one of them is compressed."""
    config = OptimizationConfig(op_name_configs={"shared_prefill": OpPalettizerConfig(nbits=3, weight_threshold=0)})
    both = {"prefill": PREFILL, "decode": DECODE}
    fitted = calibrated.palettize_weights(functions, config, both, held_back=held_back)
    plain = corepress.coreml.palettize_weights(functions, config)
    assert fitted.changed == plain.changed and {function for function, _ in fitted.changed} == {"prefill"}


def test_weights_that_share_their_values_are_fitted_in_the_form_of_each(functions) -> None:
    forms = {
        f"shared_{name}": OpPalettizerConfig(nbits=bits, weight_threshold=0)
        for name, bits in (("prefill", 3), ("decode", 2))
    }
    both = {"prefill": PREFILL, "decode": DECODE}
    model = calibrated.palettize_weights(functions, OptimizationConfig(op_name_configs=forms), both, held_back=0)
    assert sorted(weight.bits for weight in model.weights() if weight.compression) == [2, 3] and not model.unfitted


def test_zeros_cost_in_a_shared_weight_what_they_cost_all_functions(functions) -> None:
    config = OptimizationConfig(OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100))

    def zeros(given: Any, **options: Any) -> dict[tuple[Any, ...], int]:
        model = calibrated.prune_weights(functions, config, given, method="sparsegpt-global", held_back=0, **options)
        matrices = [weight for weight in model.weights() if len(weight.shape) == 2]
        return {(weight.shape, weight.key): int((weight.dense() == 0).sum()) for weight in matrices}

    found = [zeros(PREFILL, function="prefill"), zeros({"prefill": PREFILL, "decode": DECODE})]
    assert [sum(counts.values()) for counts in found] == pytest.approx([4096, 4096], abs=20)
    one, two = ([count for (shape, _), count in counts.items() if shape == (64, 64)] for counts in found)
    assert len(one) == len(two) == 1 and two[0] < one[0]
