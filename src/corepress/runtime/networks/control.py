"""Branches and loops. The networks in them have no scope of their own: what they compute is known to all that follows.

A value counts as true if it is farther than 1e-6 from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from corepress.errors import FormatError
from corepress.runtime.executor import MAX_ITERATIONS, SPECIAL, Run, Values
from corepress.runtime.forms import Form
from corepress.runtime.networks.needed import Node
from corepress.runtime.plan import Block, Computed, Step

CONTROL = ("branch", "loop", "loopBreak", "loopContinue")
_FALSE = 1e-6
_NUMBER = Form((float,))


class _Break(Exception):
    """Leaves the innermost loop."""


class _Continue(Exception):
    """Begins its next round."""


def control_step(node: Node, networks: Sequence[list[Step]]) -> Step:
    """The step of a layer that is one of `CONTROL`; `networks`: the steps of those in it."""
    layer = node.layer
    arguments: dict[str, Any] = {}
    blocks = [Block((), steps, (), ()) for steps in networks]
    if node.kind == "branch":
        if len(layer.input) != 1:
            raise FormatError(f"layer {layer.name!r} (branch): it needs one input, the condition")
        arguments["condition"] = Computed(layer.input[0], _NUMBER)
    elif node.kind == "loop":
        arguments["rounds"] = Computed(layer.input[0], _NUMBER) if layer.input else _rounds(node.message)
        if node.message.conditionVar:
            blocks[0].outputs = (Computed(node.message.conditionVar, _NUMBER),)
    return Step(node.kind, layer.name, arguments, (), tuple(blocks), writes=_written(networks))


def _rounds(loop: Any) -> int | None:
    """None: as many as the condition says."""
    return None if loop.conditionVar and not loop.maxLoopIterations else int(loop.maxLoopIterations)


def _written(networks: Sequence[list[Step]]) -> tuple[str, ...]:
    return tuple({name for steps in networks for step in steps for name in (*step.outputs, *step.writes)})


def _run(run: Run, block: Block, values: Values) -> None:
    for step in block.steps:
        run.step(step, values)


def _is_true(run: Run, argument: Any, values: Values, step: Step) -> bool:
    return bool(abs(run.value(argument, values, step, "condition")) > _FALSE)


def _branch(run: Run, step: Step, values: Values) -> Sequence[Any]:
    taken = _is_true(run, step.arguments["condition"], values, step)
    _run(run, step.blocks[0 if taken else 1], values)
    return ()


def _loop(run: Run, step: Step, values: Values) -> Sequence[Any]:
    condition, body = step.blocks
    limit = step.arguments["rounds"]
    if isinstance(limit, Computed):
        limit = int(run.value(limit, values, step, "number of rounds"))
    for done in itertools.count():
        _run(run, condition, values)
        if condition.outputs and not _is_true(run, condition.outputs[0], values, step):
            break
        if limit is not None and done >= limit:
            break
        if done >= MAX_ITERATIONS:
            raise FormatError(f"loop {step.name!r} does not end within {MAX_ITERATIONS:,} rounds")
        try:
            _run(run, body, values)
        except _Continue:
            pass
        except _Break:
            break
    return ()


def _break(run: Run, step: Step, values: Values) -> Sequence[Any]:
    raise _Break


def _continue(run: Run, step: Step, values: Values) -> Sequence[Any]:
    raise _Continue


SPECIAL.update({"branch": _branch, "loop": _loop, "loopBreak": _break, "loopContinue": _continue})
