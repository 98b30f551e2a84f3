"""Outputs appear whole or not at all, and inputs are never touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import corepress.coreml as cto
from corepress.errors import CorepressError
from corepress.formats.mlprogram import Model, load
from corepress.formats.mlprogram.program import values
from corepress.formats.package import find_package, read_spec
from tests.formats.mlprogram.test_model import tree

INT8 = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_saving_twice_gives_the_same_bytes(package, tmp_path) -> None:
    model = cto.linear_quantize_weights(package(), INT8)
    model.save(tmp_path / "one.mlpackage")
    model.save(tmp_path / "two.mlpackage")
    load(tmp_path / "one.mlpackage").save(tmp_path / "three.mlpackage")
    assert tree(tmp_path / "one.mlpackage") == tree(tmp_path / "two.mlpackage") == tree(tmp_path / "three.mlpackage")


def test_the_number_of_threads_does_not_matter(package, tmp_path) -> None:
    for workers in (1, 4):
        cto.linear_quantize_weights(package(), INT8, workers=workers).save(tmp_path / f"{workers}.mlpackage")
    assert tree(tmp_path / "1.mlpackage") == tree(tmp_path / "4.mlpackage")


def test_compressing_keeps_everything_else(package, tmp_path) -> None:
    """Operations, description, metadata and blobs that are not touched keep their bytes."""
    source = load(package())
    name = next(w.name for w in source.weights() if w.size == 48 * 64)
    config = cto.OptimizationConfig(op_name_configs={name: cto.OpLinearQuantizerConfig()})
    before = tree(package())
    saved = cto.linear_quantize_weights(source, config).save(tmp_path / "out.mlpackage")
    assert tree(package()) == before
    assert saved.spec.description == source.spec.description
    operations = lambda model: {  # noqa: E731
        op.outputs[0].name: op
        for op in model.spec.mlProgram.functions[0].value.block_specializations[0].value.operations
    }
    old, new = operations(source), operations(saved)
    assert list(old) == list(new)
    for key in set(old) - {name}:
        stripped = []
        for op in (old[key], new[key]):
            copy = type(op).FromString(op.SerializeToString())
            for entry in copy.attributes:
                if entry.value.WhichOneof("value") == "blobFileValue":
                    entry.value.blobFileValue.offset = 0
            stripped.append(copy.SerializeToString())
        assert stripped[0] == stripped[1]
    for weight, kept in zip(source.weights(), saved.weights(), strict=True):
        if weight.name != name:
            assert weight.dense().tobytes() == kept.dense().tobytes()
    manifest = "Manifest.json"
    assert (tmp_path / "out.mlpackage" / manifest).read_bytes() == (package() / manifest).read_bytes()


def test_an_existing_output_is_refused(package, tmp_path) -> None:
    copy = Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))
    before = tree(copy)
    for overwrite in (None, False):
        with pytest.raises(CorepressError, match="exists already"):
            load(copy).save(copy, overwrite=overwrite)
    assert tree(copy) == before


def test_a_script_that_saves_runs_twice(package, tmp_path) -> None:
    """The second time replaces what the first time wrote, unless that is refused; the source it never replaces."""
    source = Path(shutil.copytree(package(), tmp_path / "in.mlpackage"))
    before, output = tree(source), tmp_path / "out.mlpackage"
    for _ in range(2):
        cto.linear_quantize_weights(source, INT8).save(output)
    other = load(source)
    saved = other.save(output)
    assert tree(output) == before and not leftovers(tmp_path)
    with pytest.raises(CorepressError, match="exists already"):
        other.save(output, overwrite=False)
    with pytest.raises(CorepressError, match=r"read from it.*overwrite=True"):
        saved.save(output)
    with pytest.raises(CorepressError, match=r"read from it.*overwrite=True"):
        cto.linear_quantize_weights(source, INT8).save(output).save(source)
    assert tree(source) == before


def test_two_spellings_of_one_weight_file(package, tmp_path) -> None:
    copy = Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))
    found = find_package(copy)
    spec = read_spec(found)
    first = next(value for value in values(spec) if value.WhichOneof("value") == "blobFileValue")
    first.blobFileValue.fileName = "@model_path/weights/./weight.bin"
    found.spec.write_bytes(spec.SerializeToString())
    result = cto.linear_quantize_weights(copy, INT8)
    saved = result.save(copy, overwrite=True)
    for weight, expected in zip(saved.weights(), result.weights(), strict=True):
        np.testing.assert_array_equal(weight.dense(), expected.dense())


def test_a_saved_model_is_what_lies_there(package, tmp_path) -> None:
    """`save` gives the model back without reading it: to load it gives the same."""
    compressed = cto.linear_quantize_weights(package(), INT8)
    for source in (compressed, load(package()), cto.decompress_weights(compressed)):
        saved = source.save(tmp_path / "out.mlpackage")
        loaded = load(tmp_path / "out.mlpackage")
        saved.check()
        assert saved.package == loaded.package and saved.size() == loaded.size() == source.size()
        assert saved.spec.SerializeToString() == loaded.spec.SerializeToString()
        for one, other in zip(saved.weights(), loaded.weights(), strict=True):
            assert one.name == other.name and np.array_equal(one.dense(), other.dense())


def test_a_saved_model_stays_when_another_takes_its_place(package, tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    first = cto.linear_quantize_weights(package(), INT8)
    saved = first.save(out)
    cto.prune_weights(package(), cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.9))).save(out)
    for one, other in zip(first.weights(), saved.weights(), strict=True):
        assert np.array_equal(one.dense(), other.dense())
    assert saved.size() == first.size()  # not that of the other, of which the bytes lie there now
    shutil.rmtree(out)
    assert first.size() > saved.size() > first.size() - 4096  # the manifest is gone


def test_a_model_is_saved_where_no_thread_can_begin(package, tmp_path) -> None:
    program = f"""
import atexit
from corepress import load
model = load({str(package())!r})
atexit.register(lambda: model.save({str(tmp_path / "late.mlpackage")!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not done.stderr and tree(tmp_path / "late.mlpackage") == tree(package())


def test_compressing_leaves_the_model_in_memory_as_it_is(package) -> None:
    source = load(package())
    before = source.spec.SerializeToString()
    result = cto.linear_quantize_weights(source, INT8)
    assert source.spec.SerializeToString() == before != result.spec.SerializeToString()
    assert result.origin is source and source.origin is None


def test_what_is_known_of_a_result_is_kept(package, tmp_path) -> None:
    result = load(package()).copy()
    result.skipped, result.unfitted = {("main", "a"): "small"}, {("main", "b"): "not reached"}
    saved = result.save(tmp_path / "out.mlpackage")
    assert (saved.skipped, saved.unfitted) == (result.skipped, result.unfitted)
    assert result.copy().unfitted == result.unfitted  # a later step of a recipe does not forget it


def test_a_model_outlives_its_source(package, tmp_path) -> None:
    """Another model takes the place of the package that this one was read from."""
    source = Path(shutil.copytree(package(), tmp_path / "in.mlpackage"))
    before, model = tree(source), load(source)
    cto.linear_quantize_weights(source, INT8).save(source, overwrite=True)
    assert tree(source) != before
    model.save(tmp_path / "out.mlpackage")
    assert tree(tmp_path / "out.mlpackage") == before


def test_the_folder_around_the_source_stays(package, tmp_path) -> None:
    models = tmp_path / "models"
    shutil.copytree(package(), models / "net.mlpackage")
    (models / "notes.txt").write_text("mine")
    before = tree(models)
    with pytest.raises(CorepressError, match=r"models/net-small\.mlpackage"):
        load(models / "net.mlpackage").save(models, overwrite=True)
    models.rename(tmp_path / "models.mlpackage")
    models = tmp_path / "models.mlpackage"
    with pytest.raises(CorepressError, match="lies inside"):
        load(models / "net.mlpackage").save(models, overwrite=True)
    assert tree(models) == before


def test_the_source_can_be_overwritten_when_asked(package, tmp_path) -> None:
    copy = Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))
    model = cto.linear_quantize_weights(copy, INT8)
    model.save(tmp_path / "other.mlpackage")
    saved = model.save(copy, overwrite=True)
    assert tree(copy) == tree(tmp_path / "other.mlpackage")
    assert all(w.dense().size for w in saved.weights())
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("atomic", [True, False])
def test_an_error_in_the_middle_leaves_the_old_package(package, tmp_path, monkeypatch, atomic) -> None:
    from corepress.formats import atomic as module

    copy = Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))
    before = tree(copy)
    model = cto.linear_quantize_weights(copy, INT8)
    if not atomic:
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)

    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Model, "_contents", full)
    with pytest.raises(CorepressError, match="No space left"):
        model.save(copy, overwrite=True)
    assert tree(copy) == before and not leftovers(tmp_path)
    monkeypatch.undo()
    if not atomic:
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    model.save(copy, overwrite=True)
    assert tree(copy) != before and not leftovers(tmp_path)


def test_ctrl_c_leaves_nothing_behind(package, tmp_path, monkeypatch) -> None:
    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "_contents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cto.linear_quantize_weights(package(), INT8).save(tmp_path / "out.mlpackage")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(package, tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CorepressError, match="permission"):
        load(package()).save(tmp_path / "out.mlpackage")


def test_no_such_folder(package, tmp_path) -> None:
    with pytest.raises(CorepressError, match="no such folder"):
        load(package()).save(tmp_path / "a" / "out.mlpackage")


def test_disk_full_while_compressing(package, tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CorepressError, match="TMPDIR"):
        cto.linear_quantize_weights(package(), INT8)


KILLED = """
import sys, time
from pathlib import Path
import corepress.coreml as cto
from corepress.formats.mlprogram import Model
contents = Model._contents
def slow(self, *args):
    for item in contents(self, *args):
        print("saving", flush=True)
        time.sleep(0.05)
        yield item
Model._contents = slow
config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())
cto.linear_quantize_weights(sys.argv[1], config).save(sys.argv[1], overwrite=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_killed_in_the_middle_of_a_save(package, tmp_path, delay) -> None:
    copy = Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))
    before = tree(copy)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(copy)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert tree(copy) == before
    assert load(copy).weights()


def test_a_bare_mlmodel_stays_one_file(package, tmp_path) -> None:
    from tests.coreml.test_grid import inline
    from tests.oracle import peer_weights

    bare = tmp_path / "bare.mlmodel"
    bare.write_bytes(inline(load(package()).copy(), True).spec.SerializeToString())
    model = cto.linear_quantize_weights(bare, INT8)
    saved = model.save(tmp_path / "small.mlmodel")
    assert saved.size() < load(bare).size() * 0.65
    values = peer_weights(tmp_path / "small.mlmodel")
    for weight in saved.weights():
        assert (weight.dense() == values[weight.name]).all()
    with pytest.raises(CorepressError, match="bare"):
        model.save(tmp_path / "small.mlpackage")
    with pytest.raises(CorepressError, match="package"):
        load(package()).save(tmp_path / "small.mlmodel")


def test_a_package_without_weights_keeps_its_empty_folder(tmp_path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 4))], opset_version=ct.target.iOS16)
    def program(x):
        return mb.relu(x=x)

    ct.convert(program, convert_to="mlprogram", skip_model_load=True).save(str(tmp_path / "in.mlpackage"))
    assert any(path.is_dir() and not any(path.iterdir()) for path in (tmp_path / "in.mlpackage").rglob("*"))
    load(tmp_path / "in.mlpackage").save(tmp_path / "out.mlpackage")
    ct.models.MLModel(str(tmp_path / "out.mlpackage"), skip_model_load=True)
