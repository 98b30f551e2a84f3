"""States that a program reads once, before everything, and writes once, after everything.

So do programs that come from `torch.export`, in Core AI above all: a cache goes from one layer to the next as a value,
and into the state at the end. Run as a whole it is all the same. But where the steps of a sequence are walked side by
side (`carried.py`), a late step would find nothing of what the steps before it have written. So a walk takes another
plan with the same answers: the state is read where its value is first needed, and each operation that changes it writes
it at once, and reads it again, as in the packages that coremltools makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from corepress.runtime.plan import Block, Computed, Step, mark_last_uses, reads

# Operations that keep the shape of a state and the place of each of its numbers, and the arguments that may be it.
_KEPT = {
    **dict.fromkeys(("cast", "identity", "slice_update"), ("x",)),
    **dict.fromkeys(("scatter", "scatter_nd", "scatter_along_axis"), ("data",)),
    **dict.fromkeys(("add", "sub", "mul", "real_div"), ("x", "y")),
    "select": ("a", "b"),
}


class _Threaded(NamedTuple):
    """A state, the name of what its one reading gives, and the names of values that are the state later on."""

    state: str
    read: str
    later: tuple[str, ...]


def written_at_once(plan: Block, held: Mapping[str, Any]) -> Block:
    """The plan with states written where they change; the plan itself where no state waits behind a weight.

    `held`: the constants, by the name of their buffer.
    """
    found = [known for step in plan.steps if step.kind == "write_state" and (known := _threaded(plan, step, held))]
    if not found:
        return plan
    states = {name: own.state for own in found for name in own.later}
    late = {own.read for own in found}
    waiting: dict[str, Step] = {}
    steps: list[Step] = []
    for step in plan.steps:
        if step.kind == "read_state" and step.outputs[0] in late:
            waiting[step.outputs[0]] = replace(step)
            continue
        steps += [waiting.pop(name) for name in reads(step) if name in waiting]
        name = step.outputs[0] if step.outputs else ""
        if name in states:
            steps += _written(step, name, states[name])
        else:
            steps.append(replace(step))
    changed = replace(plan, steps=[*steps, *waiting.values()])
    mark_last_uses(changed)
    return changed


def _written(step: Step, name: str, state: str) -> list[Step]:
    """A step, and what writes its result to a state; what follows finds there, under its name, the state read again."""
    made = f"{name}@{state}"
    arguments = {"state": Computed(state), "value": Computed(made)}
    return [replace(step, outputs=(made,)), Step("coreml_update_state", name, arguments, (name,))]


def _threaded(plan: Block, write: Step, held: Mapping[str, Any]) -> _Threaded | None:
    """What becomes of a state until it is written; None where that needs no other plan, or is something else."""
    state, data = write.arguments["input"].name, write.arguments["data"]
    users = [step for step in plan.steps if state in reads(step)]
    if len(users) != 2 or users[0].kind != "read_state" or users[1] is not write or not isinstance(data, Computed):
        return None
    read, between = users[0].outputs[0], plan.steps[plan.steps.index(users[0]) : plan.steps.index(write)]
    if not any(is_weight(held[buffer]) for step in between for _, buffer in step.held):
        return None
    before = _kept(between, read)
    path = [data.name]
    while path[-1] in before:
        path.append(before[path[-1]])
    if path[-1] != read:
        return None
    # A cast is one with what it casts: so a state of float16 is rounded where the program rounds it.
    casts = {step.outputs[0] for step in between if step.kind == "cast"}
    while len(path) > 1 and path[-2] in casts:
        path.pop()
    later = [name for name, follower in zip(path[1:-1], path, strict=False) if follower not in casts]
    return _Threaded(state, read, tuple(later))


def _kept(steps: list[Step], read: str) -> dict[str, str]:
    """By the name of each value that is made of a state by operations that keep it, the value before that one."""
    before: dict[str, str] = {}
    for step in steps:
        given = (step.arguments.get(key) for key in _KEPT.get(step.kind, ()))
        names = [one.name for one in given if isinstance(one, Computed)]
        if (name := next((one for one in names if one == read or one in before), None)) is not None:
            before[step.outputs[0]] = name
    return before


def is_weight(value: Any) -> bool:
    """Whether a constant is more than a number, or than a vector of them."""
    return not hasattr(value, "shape") or sum(size > 1 for size in value.shape) > 1
