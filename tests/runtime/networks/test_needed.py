"""Layers that no output needs are neither checked nor run, whatever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress.errors import FormatError
from corepress.runtime.networks.needed import needed, nodes_of
from tests.lazy import lazy
from tests.runtime.networks.made import network, program, run

NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")


def dead_softmax(b: Any) -> None:
    b.add_softmax("loss", "x0", "z")  # of a vector: it has no channels


def dead_unknown(b: Any) -> None:
    b.spec.neuralNetwork.layers.add(name="later", input=["x0"], output=["z"])


def dead_custom(b: Any) -> None:
    b.spec.neuralNetwork.layers.add(name="mine", input=["x0"], output=["z"]).custom.className = "Mine"


def dead_weight(b: Any) -> None:
    layer = b.add_inner_product("bad", np.ones((2, 3)), None, 3, 2, False, "x0", "z")
    del layer.innerProduct.weights.floatValue[:2]


def dead_reader(b: Any) -> None:
    b.add_copy("copy", "nowhere", "z")


def dead_enumeration(b: Any) -> None:
    b.add_unary("odd", "x0", "z", "exp").unary.type = 77


def dead_branch(b: Any) -> None:
    layer = b.add_branch("if", "x0")
    NeuralNetworkBuilder(nn_spec=layer.branch.ifBranch).add_copy("inner", "nowhere", "z")


DEAD = [dead_softmax, dead_unknown, dead_custom, dead_weight, dead_reader, dead_enumeration, dead_branch]


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("first", [True, False])
def test_a_dead_layer_does_not_stop_a_model(dead, first) -> None:
    def build(b: Any) -> None:
        if first:
            dead(b)
        b.add_elementwise("l", ["x0"], "y0", "MULTIPLY", 2)
        if not first:
            dead(b)

    assert run(build, [1, 2, 3]).tolist() == [2, 4, 6]


@pytest.mark.parametrize("dead", DEAD)
def test_the_same_layer_stops_it_when_an_output_needs_it(dead) -> None:
    def build(b: Any) -> None:
        dead(b)
        b.add_copy("l", "z", "y0")

    with pytest.raises(FormatError):
        program(network(build, (3,))).predict({"x0": [1, 2, 3]})


def test_a_chain_of_dead_layers_and_a_live_one_that_they_share() -> None:
    def build(b: Any) -> None:
        b.add_copy("both", "x0", "a")
        b.add_reshape_static("dead", "a", "b", [7])  # of three numbers
        b.add_copy("dead too", "b", "c")
        b.add_copy("live", "a", "y0")

    spec = network(build, (3,))
    assert [node.layer.name for node in needed(nodes_of(spec.neuralNetwork), ["y0"])] == ["both", "live"]
    assert program(spec).predict({"x0": [1, 2, 3]})["y0"].tolist() == [1, 2, 3]


def test_a_loop_keeps_what_its_rounds_and_its_end_need() -> None:
    def build(b: Any) -> None:
        loop = b.add_loop("loop", max_iterations=3)
        body = NeuralNetworkBuilder(nn_spec=loop.loop.bodyNetwork)
        body.add_copy("use", "next", "y0")
        body.add_copy("make", "x0", "next")  # only later in the round
        body.add_copy("dead", "x0", "nothing")
        body.add_less_than("enough", ["x0"], "stop", alpha=1)
        branch = body.add_branch("if", "stop")
        NeuralNetworkBuilder(nn_spec=branch.branch.ifBranch).add_loop_break("break")

    spec = network(build, (1,))
    (loop,) = needed(nodes_of(spec.neuralNetwork), ["y0"])
    assert [node.layer.name for node in loop.inner[1]] == ["use", "make", "enough", "if"]
    assert [node.layer.name for node in loop.inner[1][-1].inner[0]] == ["break"]
    assert needed(nodes_of(spec.neuralNetwork), ["x0"]) == []


def test_many_layers_take_linear_time() -> None:
    def build(b: Any) -> None:
        for i in reversed(range(3000)):
            b.add_copy(f"l{i}", f"v{i}", f"v{i + 1}")

    nodes = nodes_of(network(build, (1,)).neuralNetwork)
    assert len(needed(nodes, ["v3000"])) == 3000
