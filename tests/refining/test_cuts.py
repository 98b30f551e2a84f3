"""Cuts of a program: all that weights have a part in goes through them."""

from __future__ import annotations

import corepress
from corepress.refining.cuts import cuts
from corepress.runtime.plan import Block, Computed, Held, Step, mark_last_uses
from tests.test_readme import ROOT


def plan(*steps: tuple[str, list[str], str]) -> Block:
    """Steps, each with its name, what it reads (weights in capital letters) and the operation."""
    made = [
        Step(kind, name, {f"a{i}": Held(n) if n.isupper() else Computed(n) for i, n in enumerate(reads)}, (name,))
        for name, reads, kind in steps
    ]
    last = made[-1].outputs[0]
    block = Block(("x", "mask"), made, (Computed(last),), (last,))
    mark_last_uses(block)
    return block


def test_cuts_lie_between_residual_blocks():
    block = plan(
        ("bias", ["mask"], "mul"),
        ("first", ["x", "A"], "linear"),
        ("act", ["first"], "relu"),
        ("q", ["act", "B"], "linear"),
        ("k", ["act", "C"], "linear"),
        ("scores", ["q", "k", "bias"], "add"),
        ("sum", ["scores", "act"], "add"),
        ("norm", ["sum"], "tanh"),
        ("last", ["norm", "D"], "linear"),
        ("out", ["last", "bias"], "add"),
    )
    # `bias` goes around all of them, but no weight has a part in it.
    assert cuts(block, {"A", "B", "C", "D"}) == ["first", "sum", "last"]
    assert cuts(block, {"B", "D"}) == ["q", "last"]
    assert cuts(block, set()) == []


def test_the_output_is_no_cut():
    block = plan(("first", ["x", "A"], "linear"), ("out", ["first", "B"], "linear"))
    assert cuts(block, {"A", "B"}) == ["first"]


def test_a_convolutional_network_is_cut_behind_each_weight():
    program = corepress.runtime.load(ROOT / "examples/digits.mlpackage")
    found = cuts(program.module.plan, set(program.constants.values()))
    kinds = program.kinds()
    assert [kinds[name] for name in found] == ["conv", "conv", "conv", "linear"]
