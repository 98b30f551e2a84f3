"""The table of layers is up to date, and names all layers of the format."""

from __future__ import annotations

from typing import Any

from tools.layers_table import PAGE, kinds, page, status, weights

from corepress.neural_network.interop import as_model
from corepress.runtime.networks.control import CONTROL
from corepress.runtime.networks.registry import LAYERS
from tests.formats.neural_network.networks import every_layer


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m tools.layers_table`"


def test_every_layer_of_coremltools_is_there_and_runs() -> None:
    from coremltools.proto import NeuralNetwork_pb2

    activations = NeuralNetwork_pb2.ActivationParams.DESCRIPTOR.oneofs_by_name["NonlinearityType"].fields
    layers = NeuralNetwork_pb2.NeuralNetworkLayer.DESCRIPTOR.oneofs_by_name["layer"].fields
    theirs = {f"activation_{field.name}" for field in activations} | {field.name for field in layers} - {"activation"}
    assert set(kinds()) == theirs == {*LAYERS, *CONTROL, "custom"}
    assert {status(kind) for kind in kinds() if kind != "custom"} == {"runs"}


def test_weights_are_those_that_are_found() -> None:
    found: dict[str, set[Any]] = {}
    for weight in as_model(every_layer()).weights():
        found.setdefault(weight.layer_type, set()).add(weight.name.rpartition(".")[2])
    for kind in kinds():
        if kind in found and len(found[kind]) <= 4:
            assert set(weights(kind).split(", ")) == found[kind]
        elif kind in found:
            assert weights(kind) == "matrices and vectors of all gates"
        elif kind not in ("branch", "loop"):
            assert weights(kind) == "", f"{kind} has weights, so it belongs into every_layer"
