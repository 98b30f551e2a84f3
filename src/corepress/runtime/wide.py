"""float16 on a CPU: sums of products are computed in float32, and each result is rounded to float16.

So do accelerators: the Neural Engine and GPUs multiply float16 and add in float32 or wider. PyTorch does neither on a
CPU: its convolutions of float16 take up to a hundred times as long as those of float32. Other operations are as fast in
float16 as they are in float32, and PyTorch computes each of them in float32 anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from corepress.runtime.plan import Block, Held, Step
from corepress.runtime.registry import OPERATIONS


def widen(plan: Block, held: dict[str, Any]) -> None:
    """Let a plan compute its products of float16 in float32; `held`, the constants by name, is changed.

    The constants that only products read are held in float32, which takes twice the memory and spares a conversion in
    each run; of the others there is a copy in float32.
    """
    steps = [step for step in _steps(plan) if (known := OPERATIONS.get(step.kind)) and step.function is known.function]
    products = [step for step in steps if OPERATIONS[step.kind].product]
    chosen = {id(step): _halves(step, held) for step in products}
    others = set(_read_otherwise(plan, chosen))
    wide: dict[str, str] = {}
    for name in {name for names in chosen.values() for name in names.values()}:
        wide[name] = f"{name}_wide" if name in others else name
        held[wide[name]] = held[name].float()
    for step in products:
        own = chosen[id(step)]
        step.held = [(key, wide[name] if key in own else name) for key, name in step.held]
        step.function = partial(_in_float32, OPERATIONS[step.kind].function, tuple(own))


def _halves(step: Step, held: Mapping[str, Any]) -> dict[str, str]:
    """The constants of a step that are float16, by the names of its arguments."""
    return {key: name for key, name in step.held if held[name].dtype == torch.float16}


def _read_otherwise(block: Block, chosen: Mapping[int, Mapping[str, str]]) -> Iterator[str]:
    """The constants that something else reads than the chosen arguments of the steps with these ids."""
    yield from _held(block.outputs)
    for step in block.steps:
        own = chosen.get(id(step), {})
        yield from _held([argument for key, argument in step.arguments.items() if key not in own])
        for inner in step.blocks:
            yield from _read_otherwise(inner, chosen)


def _held(arguments: Any) -> Iterator[str]:
    for argument in arguments:
        if isinstance(argument, list):
            yield from _held(argument)
        elif isinstance(argument, Held):
            yield argument.name


def _steps(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for inner in step.blocks:
            yield from _steps(inner)


def _in_float32(function: Callable[..., Any], widened: tuple[str, ...], **arguments: Any) -> Any:
    """`function` of float16, by way of float32. `widened`: the arguments that are held in float32 already."""
    given = [value for key, value in arguments.items() if key not in widened]
    types = {tensor.dtype for tensor in _tensors(given) if tensor.is_floating_point()}
    if types <= {torch.float16} and (types or widened):
        results = function(**{key: _as(torch.float16, torch.float32, value) for key, value in arguments.items()})
        return _as(torch.float32, torch.float16, results)
    # Types are mixed: the function sees them as they are.
    return function(**arguments | {key: arguments[key].half() for key in widened})


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, list):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _as(before: torch.dtype, after: torch.dtype, value: Any) -> Any:
    """The tensors of one type, alone or in a list or tuple, in another."""
    if isinstance(value, Tensor):
        return value.to(after) if value.dtype == before else value
    if isinstance(value, list | tuple):
        return type(value)(_as(before, after, item) for item in value)
    return value
