"""A pipeline answers as its stages do, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

import corepress.coreml as cto
from corepress.errors import ConfigError, FormatError
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram import load as load_model
from corepress.formats.schema import ModelDescription
from corepress.runtime import load
from corepress.runtime.packed import Packed
from tests import structures

X = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float16)


def stages_alone() -> np.ndarray:
    value = X.astype(np.float32)
    for seed in (1, 2):
        weight = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float16).astype(np.float32)
        # Between two stages, the values have the type that is described.
        value = (np.maximum(value, 0) @ weight.T).astype(np.float16).astype(np.float32)
    return value


def as_kind(model: Model, kind: str) -> Model:
    """The pipeline as a pipelineClassifier or pipelineRegressor, which hold it one level deeper."""
    changed = model.copy()
    pipeline = type(model.spec.pipeline).FromString(model.spec.pipeline.SerializeToString())
    getattr(changed.spec, kind).pipeline.CopyFrom(pipeline)
    return changed


@pytest.mark.parametrize("kind", ["pipeline", "pipelineClassifier", "pipelineRegressor"])
@pytest.mark.parametrize("precision", ["as_is", "float32"])
def test_stages_run_one_after_the_other(kind, precision, tmp_path) -> None:
    model = load_model(structures.pipeline(tmp_path))
    program = load(model if kind == "pipeline" else as_kind(model, kind), precision=precision)
    assert [f.name for f in program.interface.inputs] == ["t1"]
    seen: list[str] = []
    result = program.predict({"t1": X}, observe=lambda name, value: seen.append(name))
    assert list(result) == [f.name for f in program.interface.outputs] == ["t3"]
    assert result["t3"].dtype == program.interface.outputs[0].dtype
    expected = stages_alone()
    assert np.abs(result["t3"] - expected).max() <= 2e-3 * np.abs(expected).max()
    assert {name.split("/")[0] for name in seen} == set(program.stages)  # type: ignore[attr-defined]
    assert set(seen) <= set(program.kinds()) and "relu" in program.kinds().values()


def test_it_is_exactly_the_two_programs(tmp_path) -> None:
    program = load(structures.pipeline(tmp_path))
    first, second = program.stages.values()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(
        program.predict({"t1": X})["t3"], second.predict(first.predict({"t1": X}))["t3"].astype(np.float32)
    )


def test_weights_of_stages_stay_packed(tmp_path) -> None:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=10))
    small = cto.palettize_weights(structures.pipeline(tmp_path), config)
    dense, program = load(small), load(small, weights="on_the_fly")
    for stage in program.stages.values():  # type: ignore[attr-defined]
        assert any(isinstance(module, Packed) for module in stage.module.modules())
    expected = dense.predict({"t1": X})["t3"]
    assert np.abs(program.predict({"t1": X})["t3"] - expected).max() <= 2e-3 * np.abs(expected).max()


def test_states_of_stages_are_kept_apart(tmp_path) -> None:
    model = load_model(structures.stateful(tmp_path))
    single = load(model)
    parts = ModelDescription.FromString(model.spec.description)
    (given,), (result,) = single.interface.inputs, single.interface.outputs
    chained = model.copy()
    stage = type(model.spec).FromString(model.spec.SerializeToString())
    chained.spec.pipeline.models.append(stage)
    chained.spec.pipeline.models.append(stage)
    chained.spec.pipeline.names.extend(["one", "two"])
    del parts.state[:]
    chained.spec.description = parts.SerializeToString()
    program = load(chained)
    name = single.interface.states[0].name
    state, alone = program.make_state(), single.make_state()
    assert set(state) == {f"one/{name}", f"two/{name}"}
    for _ in range(2):
        # The second stage takes the caller's input, too: nobody gives that name a new value.
        found = program.predict({given.name: X}, state)[result.name]
        np.testing.assert_array_equal(found, single.predict({given.name: X}, alone)[result.name])
    assert all(tensor.abs().sum() > 0 for tensor in state.values())
    with pytest.raises(ConfigError, match="make_state"):
        program.predict({given.name: X})


def test_errors_name_what_is_wrong(tmp_path) -> None:
    model = load_model(structures.pipeline(tmp_path))
    program = load(model)
    with pytest.raises(ConfigError, match="'t1' is missing"):
        program.predict({})
    with pytest.raises(ConfigError, match="no input 't2'"):
        program.predict({"t1": X, "t2": X})
    with pytest.raises(ConfigError, match="no functions"):
        load(model, function="main")
    foreign = model.copy()
    foreign.spec.pipeline.models[1].glmClassifier = b""
    with pytest.raises(FormatError, match="is a glmClassifier"):
        load(foreign)
    headless = model.copy()
    del headless.spec.pipeline.models[0]
    with pytest.raises(FormatError, match="its input 't2'"):
        load(headless)
    short = model.copy()
    del short.spec.pipeline.models[1]
    with pytest.raises(FormatError, match="the output 't3'"):
        load(short)
    alone = model.copy()
    alone.spec.glmClassifier = b""
    with pytest.raises(FormatError, match="a glmClassifier can't be run"):
        load(alone)
