"""Several functions, pipelines, nested blocks and states: all are compressed, and what is shared stays shared."""

from __future__ import annotations

import numpy as np
import pytest

import corepress.coreml as cto
from corepress.formats.mlprogram import load
from tests import structures
from tests.oracle import peer_weights

INT8 = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())


def test_functions_that_share_a_weight_still_share_it(tmp_path) -> None:
    source = structures.multifunction(tmp_path)
    model = cto.linear_quantize_weights(source, INT8)
    saved = model.save(tmp_path / "out.mlpackage")
    weights = [w for w in saved.weights() if w.compression]
    assert sorted(w.function for w in weights) == ["first", "second"]
    # One int8 matrix, and not two.
    assert saved.size() < load(source).size() * 0.75
    records = {w.node.operand("data").value.blobFileValue.offset for w in weights}
    assert len(records) == 1
    values = peer_weights(tmp_path / "out.mlpackage")
    for weight in weights:
        np.testing.assert_array_equal(weight.dense(), values[weight.name])


def test_every_program_of_a_pipeline_is_compressed(tmp_path) -> None:
    source = structures.pipeline(tmp_path)
    before = {w.name: w.dense() for w in load(source).weights()}
    saved = cto.linear_quantize_weights(source, INT8).save(tmp_path / "out.mlpackage")
    weights = [w for w in saved.weights() if w.compression]
    assert len({w.function for w in weights}) == 2
    for weight in weights:
        exact = before[weight.name].astype(np.float32)
        assert np.abs(weight.dense().astype(np.float32) - exact).max() <= np.abs(exact).max() / 200
    import coremltools as ct

    spec = ct.models.MLModel(str(tmp_path / "out.mlpackage"), skip_model_load=True).get_spec()
    assert len(spec.pipeline.models) == 2


@pytest.mark.parametrize("make", [structures.nested, structures.stateful])
def test_blocks_and_states(make, tmp_path) -> None:
    source = make(tmp_path)
    saved = cto.linear_quantize_weights(source, INT8).save(tmp_path / "out.mlpackage")
    plain = [w for w in load(source).weights() if len(w.shape) == 2]
    compressed = {w.name: w for w in saved.weights() if w.compression}
    assert len(plain) == len(compressed) > 0
    values = peer_weights(tmp_path / "out.mlpackage")
    for name, weight in compressed.items():
        np.testing.assert_array_equal(weight.dense(), values[name])


def test_compressed_weights_that_are_shared_stay_shared_when_they_change_again(tmp_path) -> None:
    source = structures.multifunction(tmp_path)
    small = cto.linear_quantize_weights(source, INT8).save(tmp_path / "small.mlpackage")
    dense = cto.decompress_weights(small).save(tmp_path / "dense.mlpackage")
    assert dense.size() < load(source).size() + 1000
    joint = cto.prune_weights(small, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5)), True)
    assert joint.save(tmp_path / "joint.mlpackage").size() < small.size()


def test_a_pipeline_whose_stages_are_of_different_age(tmp_path) -> None:
    """The stage decides which generation of operations it gets, not the pipeline."""
    source = load(structures.pipeline(tmp_path)).copy()
    stage = source.spec.pipeline.models[0]
    stage.specificationVersion = 7
    function = stage.mlProgram.functions[0].value
    function.opset = function.block_specializations[0].key = "CoreML6"
    compressed = [w for w in cto.linear_quantize_weights(source, INT8).weights() if w.compression]
    assert [w.node.type for w in compressed] == ["constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"]
    raised = cto.linear_quantize_weights(source, INT8, target="iOS18")
    assert {w.node.type for w in raised.weights() if w.compression} == {"constexpr_blockwise_shift_scale"}
    assert all(model.specificationVersion == 9 for model in raised.spec.pipeline.models)
