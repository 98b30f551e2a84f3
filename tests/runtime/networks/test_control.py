"""Branches and loops of neural networks, whose inner networks share the names of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress.errors import FormatError
from corepress.runtime import executor
from tests.lazy import lazy
from tests.runtime.networks.made import network, program, run

NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")


def inside(message: Any) -> NeuralNetworkBuilder:
    return NeuralNetworkBuilder(nn_spec=message)


def choice(b: Any) -> None:
    branch = b.add_branch("if", "x0").branch
    inside(branch.ifBranch).add_elementwise("then", ["x1"], "y0", "MULTIPLY", 2)
    inside(branch.elseBranch).add_elementwise("else", ["x1"], "y0", "ADD", 5)


@pytest.mark.parametrize("condition,expected", [(1, [2, 4]), (-0.5, [2, 4]), (0, [6, 7]), (9e-7, [6, 7])])
def test_a_branch_takes_a_side(condition, expected) -> None:
    assert run(choice, [condition], [1, 2]).tolist() == expected


@pytest.mark.parametrize("condition,expected", [(1, 30), (0, 1)])
def test_a_branch_without_another_side_may_overwrite(condition, expected) -> None:
    def build(b: Any) -> None:
        b.add_copy("before", "x1", "value")
        b.add_elementwise("more", ["x1"], "tens", "MULTIPLY", 30)
        inside(b.add_branch("if", "x0").branch.ifBranch).add_copy("then", "tens", "value")
        b.add_copy("after", "value", "y0")

    assert run(build, [condition], [1]).tolist() == [expected]


def test_what_was_not_computed_is_named() -> None:
    def build(b: Any) -> None:
        inside(b.add_branch("if", "x0").branch.ifBranch).add_copy("then", "x0", "value")
        b.add_copy("after", "value", "y0")

    model = program(network(build, (1,)))
    assert model.predict({"x0": [3]})["y0"].tolist() == [3]
    with pytest.raises(FormatError, match="'value' is needed, but only a branch or a loop that was not run"):
        model.predict({"x0": [0]})

    def bare(b: Any) -> None:
        inside(b.add_branch("if", "x0").branch.ifBranch).add_copy("then", "x0", "y0")

    with pytest.raises(FormatError, match="'y0' is needed, but only a branch"):
        program(network(bare, (1,))).predict({"x0": [0]})


def counting(b: Any, **options: Any) -> NeuralNetworkBuilder:
    """`total` becomes 2 * total + 1 in each round; the builder of the body."""
    b.add_copy("start", "x0", "total")
    body = inside(b.add_loop("loop", **options).loop.bodyNetwork)
    body.add_activation("double", "LINEAR", "total", "more", [2, 1])
    body.add_copy("update", "more", "total")
    b.add_copy("end", "total", "y0")
    return body


def rounds(count: int) -> int:
    total = 1
    for _ in range(count):
        total = 2 * total + 1
    return total


def test_a_loop_of_a_fixed_number_of_rounds() -> None:
    assert run(lambda b: counting(b, max_iterations=5), [1]).tolist() == [rounds(5)]
    assert run(lambda b: counting(b), [1]).tolist() == [1]  # no condition and no number: no round


def test_a_loop_whose_number_is_an_input() -> None:
    def build(b: Any) -> None:
        counting(b, max_iterations=9, input_name="x1")

    for count in (0, 1, 4):
        assert run(build, [1], [count]).tolist() == [rounds(count)]


@pytest.mark.parametrize("most,expected", [(None, 5), (3, 3), (8, 5)])
def test_a_loop_with_a_condition(most, expected) -> None:
    def build(b: Any) -> None:
        counting(b, max_iterations=most, condition="go on")
        loop = b.spec.neuralNetwork.layers[1].loop
        inside(loop.conditionNetwork).add_less_than("test", ["total"], "go on", alpha=rounds(5))

    assert run(build, [1]).tolist() == [rounds(expected)]


@pytest.mark.parametrize("kind,expected", [("break", rounds(2)), ("continue", rounds(2))])
def test_a_round_may_end_early(kind, expected) -> None:
    def build(b: Any) -> None:
        b.add_copy("start", "x0", "total")
        body = inside(b.add_loop("loop", max_iterations=6).loop.bodyNetwork)
        body.add_greater_than("test", ["total"], "enough", alpha=rounds(1))
        inner = inside(body.add_branch("if", "enough").branch.ifBranch)
        getattr(inner, f"add_loop_{kind}")("jump")
        body.add_activation("double", "LINEAR", "total", "more", [2, 1])
        body.add_copy("update", "more", "total")
        b.add_copy("end", "total", "y0")

    assert run(build, [1]).tolist() == [expected]


def test_continue_skips_the_rest_of_its_round_only() -> None:
    def build(b: Any) -> None:  # counts all rounds in `n`, and adds up those of an odd number
        b.add_copy("n", "x0", "n")
        b.add_copy("sum", "x0", "sum")
        b.add_load_constant_nd("two", "two", np.array([2.0]), [1])
        body = inside(b.add_loop("loop", max_iterations=6).loop.bodyNetwork)
        body.add_elementwise("next", ["n"], "next n", "ADD", 1)
        body.add_copy("set n", "next n", "n")
        body.add_mod_broadcastable("odd", ["n", "two"], "is odd")
        branch = body.add_branch("if", "is odd").branch
        inside(branch.ifBranch).add_copy("nothing", "n", "unused")
        inside(branch.elseBranch).add_loop_continue("skip")
        body.add_add_broadcastable("add", ["sum", "n"], "next sum")
        body.add_copy("set sum", "next sum", "sum")
        b.add_copy("end", "sum", "y0")

    assert run(build, [0]).tolist() == [1 + 3 + 5]


def test_a_break_leaves_the_innermost_loop() -> None:
    def build(b: Any) -> None:
        b.add_copy("start", "x0", "total")
        outer = inside(b.add_loop("outer", max_iterations=3).loop.bodyNetwork)
        inner = inside(outer.add_loop("inner", max_iterations=10).loop.bodyNetwork)
        inner.add_elementwise("one", ["total"], "more", "ADD", 1)
        inner.add_copy("update", "more", "total")
        inner.add_loop_break("break")
        b.add_copy("end", "total", "y0")

    assert run(build, [0]).tolist() == [3]


def test_endless_loops_and_odd_conditions_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.networks.control.MAX_ITERATIONS", 20)
    assert executor.MAX_ITERATIONS == 1_000_000

    def endless(b: Any) -> None:
        counting(b, condition="go on")
        inside(b.spec.neuralNetwork.layers[1].loop.conditionNetwork).add_fill_like("true", "total", "go on", 1)

    with pytest.raises(FormatError, match="loop 'loop' does not end within 20 rounds"):
        run(endless, [1])
    with pytest.raises(FormatError, match="loop 'loop' does not end within 20 rounds"):
        run(lambda b: counting(b, max_iterations=1 << 63), [1])
    with pytest.raises(FormatError, match="branch 'if', condition: one number is needed"):
        run(choice, [1, 2], [1, 2])
    with pytest.raises(FormatError):
        run(lambda b: counting(b, input_name="x1"), [1], [float("nan")])


def test_what_no_path_computes_is_refused_when_loaded() -> None:
    def unknown(b: Any) -> None:
        body = inside(b.add_loop("loop", max_iterations=2).loop.bodyNetwork)
        body.add_copy("l", "nowhere", "y0")

    def condition(b: Any) -> None:
        counting(b, condition="nowhere")

    def several(b: Any) -> None:
        choice(b)
        b.spec.neuralNetwork.layers[0].input.append("x1")

    for build, message in (
        (unknown, "copy 'l' reads 'nowhere', which nothing has computed"),
        (condition, "'nowhere' is not computed by anything"),
        (several, r"layer 'if' \(branch\): it needs one input, the condition"),
    ):
        with pytest.raises(FormatError, match=message):
            program(network(build, (1,), (1,)))


def test_observers_see_the_values_in_branches_and_loops() -> None:
    seen: list[str] = []
    spec = network(lambda b: counting(b, max_iterations=2), (1,))
    program(spec).predict({"x0": [1]}, observe=lambda name, value: seen.append(name))
    assert seen.count("more") == 2 and seen[-1] == "y0"
