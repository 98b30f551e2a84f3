"""The compiled schema is the one that is read, and it agrees with coremltools' own on every number that we use."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from corepress.formats.schema import Model
from corepress.neural_network.quantization_utils import quantize_weights
from tests.formats.neural_network.networks import every_layer, pipeline

FOLDER = Path(__file__).parents[2] / "src/corepress/formats/schema"
SHIPPED = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "schema.binpb").read_bytes())


def test_the_compiled_schema_is_up_to_date(tmp_path) -> None:
    pytest.importorskip("grpc_tools")
    out = tmp_path / "schema.binpb"
    options = [f"-I{FOLDER}", "--include_imports", f"--descriptor_set_out={out}", "model.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True, capture_output=True)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    assert compiled == SHIPPED, "run `make schema`"
    assert [file.name for file in SHIPPED.file] == ["mil.proto", "neural_network.proto", "model.proto"]


def test_field_numbers_are_those_of_coremltools() -> None:
    """Those of networks: `tests/runtime/networks/test_networks.py`."""
    from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2, NonMaximumSuppression_pb2

    theirs: dict[str, set[tuple[str, int]]] = {}

    def collect(messages) -> None:
        for message in messages:
            theirs.setdefault(message.name, set()).update((f.name, f.number) for f in message.fields)
            collect(message.nested_types)

    for module in (MIL_pb2, Model_pb2, FeatureTypes_pb2, NonMaximumSuppression_pb2):
        collect(module.DESCRIPTOR.message_types_by_name.values())
    checked = 0
    for message in (message for file in SHIPPED.file if "neural" not in file.name for message in file.message_type):
        if message.name in theirs:
            assert {(f.name, f.number) for f in message.field} <= theirs[message.name], message.name
            checked += 1
    assert checked >= 20


def test_each_message_is_declared_once() -> None:
    """Two of the same fields are one, whatever Apple calls them."""
    found = Counter(
        message.SerializeToString().partition(message.name.encode())[2]
        for file in SHIPPED.file
        for message in file.message_type
    )
    assert len(found) > 140 and max(found.values()) == 1


@pytest.mark.parametrize("make", [every_layer, lambda: quantize_weights(every_layer(), 4, "kmeans")])
def test_a_network_that_is_not_edited_keeps_its_bytes(make) -> None:
    spec = make()
    spec.neuralNetwork.updateParams.lossLayers.add(name="loss")
    layer = spec.neuralNetwork.layers.add(name="ranked", input=["a"], output=["b"], isUpdatable=True)
    layer.inputTensor.add(rank=1, dimValue=[3])
    layer.outputTensor.add(rank=2, dimValue=[1, 3])
    layer.custom.parameters["z"].intValue, layer.custom.parameters["a"].doubleValue = 0, 1.5
    layer.custom.description = "last"
    for data in (spec.SerializeToString(), pipeline("pipelineClassifier", spec, spec).SerializeToString()):
        assert Model.FromString(data).SerializeToString() == data


def test_zeros_that_a_writer_spelt_out_and_unknown_fields_survive() -> None:
    relu = b"\x92\x3e\x05\x0d\0\0\0\0"  # field 996 of a layer, which no system knows
    layer = b"\x0a\x01l" + b"\x9a\x09\x02\x08\x00" + relu
    data = b"\x08\x04" + b"\xa2\x1f" + bytes([len(layer) + 2]) + b"\x0a" + bytes([len(layer)]) + layer
    model = Model.FromString(data)
    assert model.neuralNetwork.layers[0].name == "l" and model.SerializeToString() == data
