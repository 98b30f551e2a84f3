"""Raising a model to a newer target: the same values, operations that coremltools accepts, or a clear refusal."""

from __future__ import annotations

import numpy as np
import pytest

import corepress.coreml as cto
from corepress.coreml.opset import raise_target
from corepress.errors import ConfigError
from corepress.formats.mlprogram import load
from tests.oracle import peer_program, peer_weights
from tests.structures import _convert

INT4 = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16))
INT8 = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())


@pytest.mark.parametrize("source", ["iOS15", "iOS16", "iOS17"])
@pytest.mark.parametrize("goal", ["iOS16", "iOS17", "iOS18"])
def test_raised_models_load_and_keep_their_weights(package, source, goal, tmp_path) -> None:
    model = load(package(source)).copy()
    before = {w.name: np.array(w.dense()) for w in model.weights()}
    done = raise_target(model, goal)
    saved = model.save(tmp_path / "raised.mlpackage")
    assert bool(done) == (source < goal)
    assert saved.spec_version == max(load(package(source)).spec_version, int(goal[3:]) - 9)
    values = peer_weights(tmp_path / "raised.mlpackage")
    for name, value in before.items():
        np.testing.assert_array_equal(values[name], value)


def test_a_target_unlocks_its_modes(package, tmp_path) -> None:
    with pytest.raises(ConfigError, match="iOS18"):
        cto.linear_quantize_weights(package("iOS16"), INT4)
    saved = cto.linear_quantize_weights(package("iOS16"), INT4, target="iOS18").save(tmp_path / "out.mlpackage")
    assert saved.spec_version == 9
    values = peer_weights(tmp_path / "out.mlpackage")
    assert sum(w.bits == 4 for w in saved.weights()) >= 6
    for weight in saved.weights():
        np.testing.assert_array_equal(weight.dense(), values[weight.name])


@pytest.mark.parametrize(
    "compress",
    [
        lambda path: cto.linear_quantize_weights(path, INT8),
        lambda path: cto.palettize_weights(
            path, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, mode="uniform"))
        ),
        lambda path: cto.prune_weights(path, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5))),
    ],
)
def test_compressed_weights_move_to_the_new_operations(package, compress, tmp_path) -> None:
    old = compress(package("iOS16"))
    values = {w.name: (w.dense(), w.compression) for w in old.weights()}
    raised = old.copy()
    raise_target(raised, "iOS18")
    saved = raised.save(tmp_path / "out.mlpackage")
    theirs = peer_weights(tmp_path / "out.mlpackage")
    for weight in saved.weights():
        assert weight.compression == values[weight.name][1]
        np.testing.assert_array_equal(weight.dense(), values[weight.name][0])
        np.testing.assert_array_equal(weight.dense(), theirs[weight.name])
    assert all(entry.key != "indices" for w in saved.weights() for entry in w.node.op.attributes)


def _program(build, specs, target="iOS15"):
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    return _convert(mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(build), target)


def test_operations_get_the_parameters_that_keep_their_meaning(tmp_path) -> None:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    specs = [mb.TensorSpec((4, 32), types.fp32), mb.TensorSpec((3,), types.int32)]

    def build(x, ids):
        a = mb.gather(x=x, indices=ids, axis=1, name="dynamic")
        b = mb.gather(x=x, indices=np.array([0, 2, 3], np.int32), axis=0, name="fixed")
        c, d = mb.topk(x=x, k=2, axis=1, ascending=False, name="best")
        e = mb.reduce_argmax(x=x, axis=1, keep_dims=False, name="arg")
        f = mb.linear(x=x, weight=np.ones((64, 32), np.float32) * np.arange(32, dtype=np.float32), name="dense")
        return a, b, c, d, e, f

    path = tmp_path / "old.mlpackage"
    _program(build, specs).save(str(path))
    model = load(path).copy()
    done = raise_target(model, "iOS18")
    notes = [sentence for sentence in done if "negative" in sentence]
    assert len(notes) == 1 and "dynamic" in notes[0]
    model.save(tmp_path / "new.mlpackage")
    ops = {op.name: op for op in peer_program(tmp_path / "new.mlpackage").functions["main"].operations}
    assert ops["dynamic"].validate_indices.val == False  # noqa: E712 - a NumPy bool
    assert ops["best_0" if "best_0" in ops else "best"].output_indices_dtype.val == "int32"
    assert ops["arg"].output_dtype.val == "int32"


def test_an_operation_whose_meaning_changed_is_refused(tmp_path) -> None:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    specs = [mb.TensorSpec((1, 3, 32, 32), types.fp32), mb.TensorSpec((1, 1, 4, 1, 1), types.fp32)]

    def build(x, roi):
        return mb.crop_resize(x=x, roi=roi, target_height=4, target_width=4, name="crop")

    path = tmp_path / "old.mlpackage"
    _program(build, specs).save(str(path))
    with pytest.raises(ConfigError, match="crop"):
        cto.linear_quantize_weights(path, INT8, target="iOS18")


def test_an_unknown_operation_is_refused(package) -> None:
    model = load(package("iOS15")).copy()
    block = model.spec.mlProgram.functions[0].value.block_specializations[0].value
    block.operations.add(type="frobnicate").outputs.add(name="strange")
    with pytest.raises(ConfigError, match="frobnicate"):
        raise_target(model, "iOS18")
