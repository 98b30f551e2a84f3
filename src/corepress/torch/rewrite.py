"""Puts what an action makes of the weights of a PyTorch model into its modules, in their place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from corepress import engine
from corepress.engine import Skip, skipping
from corepress.torch.metadata import describe, read_weight, register_version, replace_value, write_value
from corepress.torch.parameters import Parameter, bake_parametrizations, parameters, together
from corepress.torch.progress import counting
from corepress.torch.report import Report, row
from corepress.weights import CompressedWeight, Sparse, decompress

log = logging.getLogger(__name__)

Array = NDArray[Any]
# A dense weight, and the mask of those of its elements that were not pruned, to its compressed form.
Action = Callable[[Array, "NDArray[np.bool_] | None"], CompressedWeight]
# The action on a weight; None leaves it alone, `Skip` does so with a warning.
Choose = Callable[[Parameter], "Action | None"]


class Job(NamedTuple):
    """One action on the parameters that share a weight."""

    holders: list[Parameter]
    action: Action


class Written(NamedTuple):
    """What a weight, which holds its new values already, has become: its form, and its row in the report."""

    form: CompressedWeight
    columns: dict[str, Any]


def rewrite(
    model: nn.Module,
    choose: Choose,
    *,
    borrowed_from: nn.Module | None = None,
    workers: int | None = None,
    description: str = "Compressing",
) -> Report:
    """Apply to every supported weight of a model, in place, the action that `choose` gives for it.

    A weight that several modules share is compressed once, as the first of them asks, and stays shared.
    `borrowed_from`: the model whose `parameters.borrowing_copy_of` this is. `workers`: threads, by default one for each
    core.
    """
    bake_parametrizations(model)
    lent = set() if borrowed_from is None else {p.value.data_ptr() for p in parameters(borrowed_from)}
    modules = _Modules(Report())
    jobs = list(_plan(together(parameters(model)), choose, modules.report))
    try:
        with counting(description, len(jobs)) as progress:
            engine.run(
                jobs,
                lambda job: write(job.holders[0], job.action, lent),
                modules,
                name=lambda job: job.holders[0].key,
                workers=workers,
                progress=progress,
            )
    finally:
        _give_back(model, lent)
    register_version(model)
    return modules.report


class _Modules:
    """The store of a model: describes the forms of weights in the modules that hold them, and in the report."""

    def __init__(self, report: Report):
        self.report = report

    def put(self, item: Job, result: Written) -> None:
        first = item.holders[0]
        for holder in item.holders:
            if holder.value.data_ptr() != first.value.data_ptr():  # which has memory of its own by now
                holder.value.data = first.value.data
            describe(holder, result.form)
            self.report[holder.key] = result.columns

    def leave(self, item: Job, reason: Skip) -> None:
        skipped(self.report, item.holders[0], str(reason))


def _plan(shared: list[list[Parameter]], choose: Choose, report: Report) -> Iterator[Job]:
    for holders in shared:
        if (action := chosen(holders[0], choose, report)) is not None:
            yield Job(holders, action)


def chosen(parameter: Parameter, choose: Choose, report: Report) -> Action | None:
    """The action on a weight; None, with the reason in the report if there is one, for one that is left alone."""
    try:
        with skipping():
            return choose(parameter)
    except Skip as skip:
        skipped(report, parameter, str(skip))
        return None


def _give_back(model: nn.Module, lent: set[int]) -> None:
    """Give weights that stay as they are memory of their own."""
    for parameter in parameters(model) if lent else ():
        if parameter.value.data_ptr() in lent:
            parameter.value.data = parameter.value.data.clone()


@skipping()
def write(parameter: Parameter, action: Action, lent: Set[int] = frozenset()) -> Written:
    """In a worker: compress a weight, which takes its new values. Raises `Skip` for one that can't be.

    `lent`: where weights begin in memory that must not be written to.
    """
    check(parameter)
    value = read_weight(parameter)
    if isinstance(value, np.ndarray):
        form = action(value, None)
    elif isinstance(value, Sparse) and isinstance(value.values, np.ndarray):
        form = Sparse(value.mask, action(value.values, value.mask))  # type: ignore[arg-type]
    else:
        raise Skip("it is compressed already")
    dense = decompress(form)
    columns = row(decompress(value), form, dense)
    if parameter.value.data_ptr() in lent:
        replace_value(parameter, dense)
    else:
        write_value(parameter, dense)
    return Written(form, columns)


def check(parameter: Parameter) -> None:
    """Raise `Skip` for a weight that can't be compressed at all."""
    value = parameter.value
    if value.is_meta:
        raise Skip("it is on the meta device, without values: load them first")
    if not value.is_floating_point() or value.ndim < 2 or value.numel() == 0:
        raise Skip(f"it is a {value.dtype} of shape {tuple(value.shape)}, not a matrix of real numbers")


def skipped(report: Report, parameter: Parameter, reason: str) -> None:
    """Warn that a weight is left alone, and count it."""
    report.skipped[parameter.key] = reason
    log.warning("%s: left as it is: %s", parameter.key, reason, extra={"weight": parameter.key})
