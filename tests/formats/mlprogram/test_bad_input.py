"""Damaged and hostile packages: each gets one clear sentence, and nothing is read beyond what was checked."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from corepress.errors import CorepressError, FormatError
from corepress.formats.mlprogram import load
from corepress.formats.package import find_package, read_spec

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
SPEC = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture
def copy(package, tmp_path) -> Path:
    return Path(shutil.copytree(package(), tmp_path / "copy.mlpackage"))


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CorepressError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    return message


def edit_spec(path: Path, change) -> None:
    package = find_package(path)
    spec = read_spec(package)
    change(spec)
    package.spec.write_bytes(spec.SerializeToString())


def patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def references(spec):
    block = spec.mlProgram.functions[0].value.block_specializations[0].value
    for op in block.operations:
        for entry in op.attributes:
            if entry.value.WhichOneof("value") == "blobFileValue":
                yield entry.value


def test_weight_file_missing(copy) -> None:
    (copy / WEIGHTS).unlink()
    refused(copy, "weight.bin", "missing")


@pytest.mark.parametrize("keep", [0, 10, 63, 64, 100, 5000])
def test_weight_file_truncated(copy, keep) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:keep])
    refused(copy, "weight.bin", "truncated" if keep < 64 else "outside")


@pytest.mark.parametrize("offset", [0, 1, 63, 65, 1 << 40, (1 << 63) - 64, (1 << 64) - 64])
def test_offset_that_is_not_in_the_file(copy, offset) -> None:
    def change(spec) -> None:
        next(references(spec)).blobFileValue.offset = offset

    edit_spec(copy, change)
    refused(copy, "offset")


def test_no_sentinel(copy) -> None:
    patch(copy / WEIGHTS, 64, b"\0\0\0\0")
    refused(copy, "sentinel")


def test_unknown_data_type(copy) -> None:
    patch(copy / WEIGHTS, 68, struct.pack("<I", 99))
    refused(copy, "data type 99")


def test_other_data_type_than_the_program_says(copy) -> None:
    patch(copy / WEIGHTS, 68, struct.pack("<I", 6))
    refused(copy, "float16", "int16")


def test_size_beyond_the_file(copy) -> None:
    patch(copy / WEIGHTS, 72, struct.pack("<Q", 1 << 62))
    refused(copy, "outside the file")


def test_shape_that_does_not_fit_the_blob(copy) -> None:
    def change(spec) -> None:
        next(references(spec)).type.tensorType.dimensions[0].constant.size += 1

    edit_spec(copy, change)
    refused(copy, "needs", "bytes")


def test_absurd_shape(copy) -> None:
    def change(spec) -> None:
        for dimension in next(references(spec)).type.tensorType.dimensions:
            dimension.constant.size = 1 << 40

    edit_spec(copy, change)
    refused(copy, "shape")


def test_overlapping_blobs(copy) -> None:
    # The second blob's data is moved into the first one's.
    first, second = sorted(v.blobFileValue.offset for v in references(read_spec(find_package(copy))))[:2]
    assert first < second
    path = copy / WEIGHTS
    (inside,) = struct.unpack_from("<Q", path.read_bytes(), first + 16)
    record = bytearray(path.read_bytes()[second : second + 64])
    (size,) = struct.unpack_from("<Q", record, 8)
    assert size <= struct.unpack_from("<Q", path.read_bytes(), first + 8)[0]
    # A record in front of the first blob's data, which claims bytes of that data.
    patch(path, first, path.read_bytes()[first : first + 64])
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", record, 16, inside + 64)
    content[inside : inside + 64] = record
    path.write_bytes(content)

    def change(spec) -> None:
        for value in references(spec):
            if value.blobFileValue.offset == second:
                value.blobFileValue.offset = inside

    edit_spec(copy, change)
    refused(copy, "overlap")


def test_version_of_the_weight_file(copy) -> None:
    patch(copy / WEIGHTS, 4, struct.pack("<I", 3))
    refused(copy, "version 3")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"not a protobuf at all", b"\x08"])
def test_corrupt_protobuf(copy, content) -> None:
    (copy / SPEC).write_bytes(content)
    refused(copy, "model.mlmodel")


def test_truncated_protobuf(copy) -> None:
    content = (copy / SPEC).read_bytes()
    (copy / SPEC).write_bytes(content[: len(content) // 2])
    refused(copy, "model.mlmodel")


def test_blocks_nested_without_end(copy) -> None:
    def change(spec) -> None:
        block = spec.mlProgram.functions[0].value.block_specializations[0].value
        for _ in range(40):
            block = block.operations.add(type="cond").blocks.add()

    edit_spec(copy, change)
    refused(copy)


@pytest.mark.parametrize(
    "item",
    ["../../../etc/passwd", "/etc/passwd", "com.apple.CoreML/../../../secret", "a\\..\\..\\b", "nowhere/model.mlmodel",
     "x" * 3000, "x/" * 3000, "com.apple.CoreML/model.mlmodel/x", "\ud800"],
)  # fmt: skip
def test_manifest_that_points_outside(copy, item) -> None:
    manifest = json.loads((copy / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = item
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    assert len(refused(copy, "Manifest.json")) < 500 + len(str(copy))


def test_manifest_that_points_outside_through_a_link(copy, tmp_path) -> None:
    outside = tmp_path / "outside"
    shutil.move(copy / "Data/com.apple.CoreML", outside)
    (copy / "Data/com.apple.CoreML").symlink_to(outside)
    refused(copy, "link")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nonsense", '{"rootModelIdentifier": "x", "itemInfoEntries": {}}', "[" * 100000]
)
def test_manifest_that_says_nothing(copy, text) -> None:
    (copy / "Manifest.json").write_text(text)
    refused(copy, "Manifest.json")


def test_weight_file_name_that_is_too_long(copy) -> None:
    def change(spec) -> None:
        next(references(spec)).blobFileValue.fileName = "@model_path/weights/" + "x" * 3000

    edit_spec(copy, change)
    assert len(refused(copy, "looked up")) < 500 + len(str(copy))


@pytest.mark.parametrize("name", ["weights/weight.bin", "@model_path/../../../../x", "@model_path//etc/passwd"])
def test_weight_file_name_that_leads_outside(copy, name) -> None:
    def change(spec) -> None:
        next(references(spec)).blobFileValue.fileName = name

    edit_spec(copy, change)
    refused(copy, "weight file" if not name.startswith("@") else "leads out")


def test_neural_network_is_named_as_such(tmp_path) -> None:
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("y", datatypes.Array(3))])
    builder.add_activation("relu", "RELU", "x", "y")
    path = tmp_path / "old.mlmodel"
    ct.models.MLModel(builder.spec, skip_model_load=True).save(str(path))
    refused(path, "a neural network", "old.mlmodel")


def test_no_such_file(tmp_path) -> None:
    refused(tmp_path / "nothing.mlpackage", "no such file")


def test_a_folder_that_is_no_package(tmp_path) -> None:
    refused(tmp_path, "Manifest.json")


def test_format_errors_are_corepress_errors() -> None:
    assert issubclass(FormatError, CorepressError)
