"""The compiled schema is the one that is read, and it agrees with coremltools' own on every number that we use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

FOLDER = Path(__file__).parents[2] / "src/corepress/formats/schema"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.proto")))
def test_the_compiled_schema_is_up_to_date(name, tmp_path) -> None:
    pytest.importorskip("grpc_tools")
    out = tmp_path / "schema.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", f"{name}.proto"]
    subprocess.run(command, check=True, capture_output=True)
    compiled, shipped = descriptor_pb2.FileDescriptorSet(), descriptor_pb2.FileDescriptorSet()
    compiled.ParseFromString(out.read_bytes())
    shipped.ParseFromString((FOLDER / f"{name}.binpb").read_bytes())
    assert compiled == shipped, "run `make schema`"


def test_field_numbers_are_those_of_coremltools() -> None:
    from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2

    theirs: dict[str, set[tuple[str, int]]] = {}

    def collect(messages) -> None:
        for message in messages:
            theirs.setdefault(message.name, set()).update((f.name, f.number) for f in message.fields)
            collect(message.nested_types)

    for module in (MIL_pb2, Model_pb2, FeatureTypes_pb2):
        collect(module.DESCRIPTOR.message_types_by_name.values())
    shipped = descriptor_pb2.FileDescriptorSet()
    shipped.ParseFromString((FOLDER / "mil.binpb").read_bytes())
    checked = 0
    for message in shipped.file[0].message_type:
        if message.name in theirs:
            assert {(f.name, f.number) for f in message.field} <= theirs[message.name], message.name
            checked += 1
    assert checked >= 20
