"""Pipelines learn from samples, too: stage by stage, each from what the stages before it, compressed already, give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
from corepress.coreml.calibrated.judging import is_better
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations
from corepress.errors import ConfigError
from corepress.formats.kinds import stages
from corepress.formats.mlprogram.program import nodes, programs
from corepress.runtime import load
from corepress.runtime.walk import each_program
from tests import structures
from tests.runtime.stages.detectors import detector


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return structures.pipeline(tmp_path_factory.mktemp("pipelines"))


def samples(count: int, name: str = "t1", seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng, directions = np.random.default_rng(seed), np.random.default_rng(5).normal(size=(5, 64))
    return [
        {name: (rng.normal(size=(1, 5)) @ directions + 0.1 * rng.normal(size=(1, 64))).astype(np.float16)}
        for _ in range(count)
    ]


def snr(path: Path, model: corepress.Model) -> float:
    found = corepress.verify(path, model, samples(32, seed=9)).rows[0].snr
    assert found is not None
    return found


METHODS = {
    "lut-gptq": (palettize_weights, calibrated.palettize_weights, OpPalettizerConfig(nbits=2, weight_threshold=1), {}),
    "skm": (
        palettize_weights, calibrated.palettize_weights, OpPalettizerConfig(nbits=2, weight_threshold=1),
        {"method": "skm", "held_back": 0},
    ),
    "gptq": (
        linear_quantize_weights, calibrated.linear_quantize_weights,
        OpLinearQuantizerConfig(dtype="int4", weight_threshold=1), {"activation_aware_scale": True},
    ),
    "sparsegpt": (
        prune_weights, calibrated.prune_weights, OpMagnitudePrunerConfig(target_sparsity=0.7, weight_threshold=1), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_both_stages_are_fitted(method: str, pipeline: Path) -> None:
    plain, fitted, kind, options = METHODS[method]
    config = OptimizationConfig(kind)
    model = fitted(pipeline, config, samples(60), **options)  # type: ignore[operator]
    assert len(corepress.report(model).compressed) == 2 and not model.unfitted
    gained = snr(pipeline, model) - snr(pipeline, plain(pipeline, config))  # type: ignore[operator]
    assert gained > (-1 if method == "skm" else 2)


def test_a_stage_gets_what_the_compressed_one_before_it_gives(pipeline: Path) -> None:
    program = load(pipeline, precision="float32")
    found = each_program(program, samples(3))
    name, first, given = next(found)
    assert name == f"{next(iter(program.stages))}/main"  # type: ignore[attr-defined]
    assert [list(sample) for sample in given] == [["t1"]] * 3
    for value in first.module.constants().values():
        value.zero_()
    _, _, given = next(found)
    assert [list(sample) for sample in given] == [["t2"]] * 3 and not any(sample["t2"].any() for sample in given)
    assert next(found, None) is None


def test_stages_without_names_or_with_the_same_have_names_of_their_own(pipeline: Path) -> None:
    model = corepress.load(pipeline).copy()
    for given, expected in ((["a", "a"], ["a", "stage1"]), ([], ["stage0", "stage1"]), (["stage1", ""], None)):
        del model.spec.pipeline.names[:]
        model.spec.pipeline.names.extend(given)
        names = [name for name, _ in stages(model.spec)]
        assert len(set(names)) == 2 and expected in (names, None)
        assert list(load(model).stages) == names == [name for name, _ in programs(model.spec)]  # type: ignore[attr-defined]
        fitted = calibrated.palettize_weights(model, OptimizationConfig(METHODS["skm"][2]), samples(4))
        assert {function for function, _ in fitted.changed} == {f"{name}/main" for name in names}


def test_bad_samples_are_named(pipeline: Path) -> None:
    config = OptimizationConfig(METHODS["lut-gptq"][2])
    with pytest.raises(ConfigError, match="sample 1 of sample_data: there is no input 't2'"):
        calibrated.palettize_weights(pipeline, config, [*samples(1), *samples(1, "t2")])
    broken = samples(3)
    broken[2]["t1"][0, 0] = np.nan
    with pytest.raises(ConfigError, match="sample 2 of sample_data: input 't1' holds NaN"):
        calibrated.palettize_weights(pipeline, config, broken)
    with pytest.raises(ConfigError, match="has no functions to choose from"):
        calibrated.palettize_weights(pipeline, config, samples(3), function="main")


def test_of_several_functions_one_is_fitted(tmp_path: Path) -> None:
    path = structures.multifunction(tmp_path)
    config = OptimizationConfig(METHODS["lut-gptq"][2])
    given = samples(40, corepress.runtime.load(path, function="second").interface.inputs[0].name)
    model = calibrated.palettize_weights(path, config, given, function="second")
    # They share the weight.
    assert {function for function, _ in model.changed} == {"first", "second"} and not model.unfitted


def test_activations_of_all_stages(pipeline: Path) -> None:
    config = OptimizationConfig(OpActivationLinearQuantizerConfig())
    model = linear_quantize_activations(pipeline, config, samples(30))
    for _, program in programs(model.spec):
        (block,) = (entry.value for entry in program.functions[0].value.block_specializations)
        types = [operation.type for operation in block.operations]
        assert types.index("quantize") < types.index("dequantize") < types.index("linear")
    # 8 bits over ranges of normal numbers.
    assert snr(pipeline, model) > 30
    assert not model.skipped
    with pytest.raises(ConfigError, match="sample 0 of sample_data: there is no input 't2'"):
        linear_quantize_activations(pipeline, config, samples(1, "t2"))


def test_stages_alone_give_the_same_ranges(pipeline: Path, tmp_path: Path) -> None:
    """The pairs of the first stage are those of a model that is this stage alone."""
    alone = structures.linear_model(seed=1, name="stage1")
    alone.save(str(tmp_path / "alone.mlpackage"))
    config = OptimizationConfig(OpActivationLinearQuantizerConfig())
    single = corepress.load(tmp_path / "alone.mlpackage")
    name = load(single).interface.inputs[0].name
    models = (
        linear_quantize_activations(pipeline, config, samples(8)),
        linear_quantize_activations(single, config, samples(8, name)),
    )
    scales = []
    for model in models:
        _, program = next(programs(model.spec))
        (block,) = (entry.value for entry in program.functions[0].value.block_specializations)
        pair = next(operation for operation in block.operations if operation.type == "quantize")
        scales.append(next(entry for entry in pair.inputs if entry.key == "scale").value.SerializeToString())
    assert scales[0] == scales[1]


def test_detectors_that_suppress_boxes_at_their_end(tmp_path: Path) -> None:
    path, rng = detector(tmp_path), np.random.default_rng(0)
    # Pictures of few colours, and the thresholds from the model.
    given = [
        {"image": rng.integers(0, 256, (1, 3, 4, 4)).repeat(8, 2).repeat(8, 3).astype(np.float32)} for _ in range(16)
    ]
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=1))
    plain = palettize_weights(path, config, spare_constants=True)
    model = calibrated.palettize_weights(path, config, given[:12], spare_constants=True)
    assert len(model.changed) == 1 and not model.unfitted
    errors = []
    for one in (plain, model):
        rows = {row.name: row for row in corepress.verify(path, one, given[12:]).rows}
        errors.append(rows["suppression/raw_confidence"].snr)
    assert errors[1] > errors[0] + 3
    rounded = linear_quantize_activations(path, OptimizationConfig(OpActivationLinearQuantizerConfig()), given[:5])
    assert {node.type for node in nodes(rounded.spec)} >= {"quantize", "dequantize"}


def test_the_whole_detector_is_judged_before_its_end(tmp_path: Path) -> None:
    path, rng = detector(tmp_path), np.random.default_rng(1)
    given = [{"image": rng.integers(0, 256, (1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    model = corepress.load(path)
    fine, coarse = (
        palettize_weights(path, OptimizationConfig(OpPalettizerConfig(nbits=bits, weight_threshold=1)))
        for bits in (8, 2)
    )
    assert is_better(model, fine, coarse, given, None, "cpu")
    assert not is_better(model, coarse, fine, given, None, "cpu")


def test_info_says_so(pipeline: Path) -> None:
    assert corepress.describe(pipeline).abilities["calibrate"].possible
