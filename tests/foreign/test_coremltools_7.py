"""Packages of coremltools 7: garbage where nobody reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import corepress.coreml as cto
from corepress import runtime
from corepress.description import describe
from corepress.formats.mlprogram import load
from corepress.formats.package import find_package, read_spec
from tests import packages
from tests.foreign.old import WEIGHTS, as_coremltools_7, detector
from tests.formats.mlprogram.test_model import tree
from tests.oracle import peer_weights

MODES = {
    "kmeans": lambda model: cto.palettize_weights(model, config(cto.OpPalettizerConfig(mode="kmeans", nbits=4))),
    "uniform": lambda model: cto.palettize_weights(model, config(cto.OpPalettizerConfig(mode="uniform", nbits=6))),
    "int8": lambda model: cto.linear_quantize_weights(model, config(cto.OpLinearQuantizerConfig())),
    "uint8": lambda model: cto.linear_quantize_weights(
        model, config(cto.OpLinearQuantizerConfig(mode="linear", dtype="uint8"))
    ),
    "pruned": lambda model: cto.prune_weights(model, config(cto.OpMagnitudePrunerConfig(0.5))),
    "int4 blocks": lambda model: cto.linear_quantize_weights(
        model,
        config(cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16)),
        target="iOS18",
    ),
    "groups": lambda model: cto.palettize_weights(
        model, config(cto.OpPalettizerConfig(nbits=3, granularity="per_grouped_channel", group_size=16)), target="iOS18"
    ),
}


def config(global_config) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config)


def dense(path: Path) -> dict[str, bytes]:
    return {weight.name: weight.dense().tobytes() for weight in load(path).weights()}


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("target,dtype", [("iOS15", "float32"), ("iOS16", "float16"), ("iOS17", "float32")])
def test_it_opens_with_the_same_values(package, tmp_path, target, dtype, header) -> None:
    old = as_coremltools_7(package(target, dtype), tmp_path / "old.mlpackage", header=header)
    assert dense(old) == dense(package(target, dtype))
    expected = peer_weights(old)
    assert all((expected[w.name] == w.dense()).all() for w in load(old).weights())
    load(old).save(tmp_path / "copy.mlpackage")
    assert tree(tmp_path / "copy.mlpackage") == tree(old)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_compressed_saved_and_decompressed(package, tmp_path, dtype, mode) -> None:
    """The garbage changes nothing in what comes out, and is not passed on."""
    clean, old = package("iOS16", dtype), as_coremltools_7(package("iOS16", dtype), tmp_path / "old.mlpackage")
    before = tree(old)
    for source, name in ((clean, "clean"), (old, "small")):
        model = MODES[mode](source)
        assert any(weight.compression for weight in model.weights())
        saved = model.save(tmp_path / f"{name}.mlpackage")
        cto.decompress_weights(saved).save(tmp_path / f"{name}-dense.mlpackage")
    assert tree(tmp_path / "small.mlpackage") == tree(tmp_path / "clean.mlpackage")
    assert tree(tmp_path / "small-dense.mlpackage") == tree(tmp_path / "clean-dense.mlpackage")
    assert dense(tmp_path / "small-dense.mlpackage") == dense(tmp_path / "small.mlpackage")
    expected = peer_weights(tmp_path / "small.mlpackage")
    assert all((expected[w.name] == w.dense()).all() for w in load(tmp_path / "small.mlpackage").weights())
    assert tree(old) == before


@pytest.mark.parametrize("mode", ["kmeans", "int8", "pruned"])
def test_what_was_compressed_then(package, tmp_path, mode) -> None:
    """uint8 indices, int8 weights, masks: compressed by old tools, decompressed and run today."""
    MODES[mode](package("iOS16")).save(tmp_path / "small.mlpackage")
    old = as_coremltools_7(tmp_path / "small.mlpackage", tmp_path / "old.mlpackage")
    assert dense(old) == dense(tmp_path / "small.mlpackage")
    saved = cto.decompress_weights(old).save(tmp_path / "dense.mlpackage")
    assert dense(saved.path) == dense(old)
    inputs = packages.inputs()
    answers = [runtime.load(path).predict(inputs) for path in (old, tmp_path / "small.mlpackage")]
    assert all((answers[0][name] == answers[1][name]).all() for name in answers[0])


def test_garbage_does_not_hide_unused_bits_of_narrow_types(package, tmp_path) -> None:
    """Types narrower than a byte need the field, so it is still checked there."""
    from corepress.errors import FormatError

    model = MODES["int4 blocks"](package("iOS16")).save(tmp_path / "small.mlpackage")
    old = as_coremltools_7(model.path, tmp_path / "old.mlpackage")
    assert dense(old) == dense(model.path)
    content = bytearray((old / WEIGHTS).read_bytes())
    at = content.find(bytes.fromhex("efbeadde08000000"))
    assert at > 0
    content[at + 24 : at + 32] = (9).to_bytes(8, "little")
    (old / WEIGHTS).write_bytes(content)
    with pytest.raises(FormatError, match="unused bits"):
        load(old)


@pytest.mark.parametrize("pipeline_version", [1, 5, 6])
@pytest.mark.parametrize("program,version", [("iOS15", 6), ("iOS16", 7)])
def test_a_detector_whose_pipeline_is_older_than_its_program(tmp_path, program, version, pipeline_version) -> None:
    """The target is that of the program, the one that compression needs, and the stage that is none stays as it is."""
    source = detector(tmp_path, program, pipeline_version)
    model = load(source)
    assert model.spec.specificationVersion == pipeline_version and model.spec_version == version
    suppression = model.spec.pipeline.models[1].SerializeToString()
    assert describe(source).target == program
    for name, reached in (("kmeans", 7), ("int8", 7), ("pruned", 7), ("int4 blocks", 9), ("groups", 9)):
        result = MODES[name](source)
        assert all(weight.compression for weight in result.weights() if weight.size > 2048)
        saved = result.save(tmp_path / "small.mlpackage")
        assert saved.spec_version == reached == saved.spec.pipeline.models[0].specificationVersion
        assert saved.spec.pipeline.models[1].SerializeToString() == suppression
        if reached > version:
            assert saved.spec.specificationVersion == reached
        restored = cto.decompress_weights(saved).save(tmp_path / "dense.mlpackage")
        assert dense(restored.path) == dense(saved.path)
    import coremltools as ct

    assert ct.models.MLModel(str(saved.path), skip_model_load=True).get_spec().pipeline.models[1].WhichOneof("Type")


def beliefs(path: Path) -> dict[str, object]:
    """Changes of what no reader needs, by name."""
    import json

    manifest_path = path / "Manifest.json"

    def manifest(change) -> None:
        content = json.loads(manifest_path.read_text())
        change(content)
        manifest_path.write_text(json.dumps(content))

    def spec(change) -> None:
        package = find_package(path)
        message = read_spec(package)
        change(message)
        package.spec.write_bytes(message.SerializeToString())

    def ranks(message) -> None:
        for function in message.mlProgram.functions:
            for op in function.value.block_specializations[0].value.operations:
                for entry in op.attributes:
                    entry.value.type.tensorType.ClearField("rank")

    def items(content, change) -> None:
        for item in content["itemInfoEntries"].values():
            change(item)

    def unknown(message) -> None:
        message.MergeFromString(b"\xfa\x7f\x03abc")  # field 2047

    def remaining(content) -> None:
        content["itemInfoEntries"] = {content["rootModelIdentifier"]: content["itemInfoEntries"][
            content["rootModelIdentifier"]]}  # fmt: skip

    def missing(content) -> None:
        content["itemInfoEntries"]["x"] = {"path": "com.apple.CoreML/nowhere", "author": "a", "name": "n"}

    def order(content) -> None:
        content["itemInfoEntries"] = dict(reversed(content["itemInfoEntries"].items()))

    return {
        "no version of the manifest": lambda: manifest(lambda content: content.pop("fileFormatVersion", None)),
        "items without author, name and description": lambda: manifest(
            lambda content: items(content, lambda item: [item.pop(key) for key in list(item) if key != "path"])
        ),
        "item digests": lambda: manifest(lambda content: items(content, lambda item: item.update(digest="0" * 64))),
        "an item that is missing": lambda: manifest(missing),
        "other items not named": lambda: manifest(remaining),
        "items in another order": lambda: manifest(order),
        "byte order mark": lambda: manifest_path.write_bytes(b"\xef\xbb\xbf" + manifest_path.read_bytes()),
        "no description": lambda: spec(lambda message: message.ClearField("description")),
        "no rank beside the dimensions": lambda: spec(ranks),
        "unknown fields": lambda: spec(unknown),
        "no version of the program": lambda: spec(lambda message: message.mlProgram.ClearField("version")),
        "files of the system": lambda: (path / ".DS_Store").write_bytes(b"x"),
    }


NAMES = tuple(beliefs(Path()))


@pytest.mark.parametrize("name", NAMES)
def test_what_no_reader_needs_is_not_believed(package, tmp_path, name) -> None:
    path = Path(shutil.copytree(package("iOS16"), tmp_path / "net.mlpackage"))
    beliefs(path)[name]()
    assert dense(path) == dense(package("iOS16"))
    saved = MODES["int8"](path).save(tmp_path / "small.mlpackage")
    assert dense(saved.path) == dense(MODES["int8"](package("iOS16")).save(tmp_path / "clean.mlpackage").path)
    assert set(tree(saved.path)) == set(tree(path))
    kept = {name: data for name, data in tree(path).items() if "weight.bin" not in name and ".mlmodel" not in name}
    assert kept == {name: tree(saved.path)[name] for name in kept}


def test_blobs_keep_their_values_whatever_their_order(package, tmp_path) -> None:
    """A program may name its blobs in another order than the file holds them."""
    path = Path(shutil.copytree(package("iOS16"), tmp_path / "net.mlpackage"))
    model = load(path)
    values = {w.name: np.array(w.dense()) for w in model.weights()}
    operations = model.spec.mlProgram.functions[0].value.block_specializations[0].value.operations
    constants = [type(op).FromString(op.SerializeToString()) for op in operations if op.type == "const"]
    others = [type(op).FromString(op.SerializeToString()) for op in operations if op.type != "const"]
    del operations[:]
    operations.extend(constants[::-1] + others)
    find_package(path).spec.write_bytes(model.spec.SerializeToString())
    saved = MODES["int8"](path).save(tmp_path / "small.mlpackage")
    restored = cto.decompress_weights(saved).save(tmp_path / "dense.mlpackage")
    again = {w.name: w.dense() for w in restored.weights()}
    assert all(np.abs(values[name] - again[name]).max() < 0.02 * np.abs(values[name]).max() for name in values)
