"""Branches and loops whose conditions an input decides: they stay, as `torch.cond` and `while_loop`.

Their blocks may read nothing but what is handed to them, so that all tensors from outside are, constants too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.errors import UnsupportedError
from corepress.runtime.plan import STATES, Block, Step, reads

# Runs a block with constants, by the name of the buffer, and values that are known so far.
RunBlock = Callable[[Block, Mapping[str, Tensor], dict[str, Any]], Sequence[Any]]


class Outside(NamedTuple):
    """What blocks read from outside: the names of values and of constants, and the tensors of both in this order."""

    values: tuple[str, ...]
    held: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    def again(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The values and the constants, as a block is handed them."""
        count = len(self.values)
        return dict(zip(self.values, tensors[:count], strict=True)), dict(zip(self.held, tensors[count:], strict=True))


def outside(step: Step, values: Mapping[str, Any], held: Mapping[str, Any]) -> Outside:
    """What the blocks of a step read from outside. Raises UnsupportedError for blocks that change a state."""
    inner = list(_inner(step))
    if any(own.kind in STATES or own.state for own in inner):
        raise UnsupportedError(f"{step} reads or changes a state within, which Core AI has no form for")
    known = tuple(sorted(name for name in reads(step) if isinstance(values.get(name), Tensor)))
    constants = tuple(dict.fromkeys(name for own in inner for _, name in own.held))
    return Outside(known, constants, (*(values[name] for name in known), *(held[name] for name in constants)))


def _inner(step: Step) -> Iterator[Step]:
    for block in step.blocks:
        for own in block.steps:
            yield own
            yield from _inner(own)


def branch(step: Step, condition: Tensor, given: Outside, values: Mapping[str, Any], run: RunBlock) -> Sequence[Any]:
    """Both blocks, one of which is run."""

    def of(block: Block) -> Callable[..., tuple[Tensor, ...]]:
        def body(*tensors: Tensor) -> tuple[Tensor, ...]:
            own, held = given.again(tensors)
            return _own_memory(run(block, held, {**values, **own}))

        return body

    found: Sequence[Any] = torch.ops.higher_order.cond(
        condition.reshape(()).to(torch.bool), of(step.blocks[0]), of(step.blocks[1]), given.tensors
    )
    return found


def loop(step: Step, variables: Sequence[Any], given: Outside, values: Mapping[str, Any], run: RunBlock) -> list[Any]:
    """A loop whose condition is computed before each round. Raises UnsupportedError for variables that are lists, and
    for those of a flexible length: Apple's runtime read beyond their memory in what coremltools makes of a GRU."""
    condition, body = step.blocks
    if not all(isinstance(variable, Tensor) for variable in variables):
        raise UnsupportedError(f"{step} carries a list, which Core AI has no form for")
    if any(isinstance(size, torch.SymInt) for variable in variables for size in variable.shape):
        raise UnsupportedError(f"{step} carries a value of a flexible length")
    count = len(variables)

    def of(block: Block, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        own, held = given.again(tensors[count:])
        inner = dict(zip(block.inputs, tensors[:count], strict=True))
        return _own_memory(run(block, held, {**values, **own, **inner}))

    def goes_on(*tensors: Tensor) -> Tensor:
        return of(condition, tensors)[0].reshape(()).to(torch.bool)

    def next_round(*tensors: Tensor) -> tuple[Tensor, ...]:
        return of(body, tensors)

    started = tuple(variable.clone() for variable in variables)
    return list(torch.ops.higher_order.while_loop(goes_on, next_round, started, given.tensors))


def _own_memory(results: Sequence[Any]) -> tuple[Tensor, ...]:
    """Results that are none of what went in, as PyTorch wants them."""
    return tuple(result.clone().contiguous() for result in results)
