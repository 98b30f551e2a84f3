"""Compresses the weights of a PyTorch model one by one, in threads, and puts each result into its module."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from corepress.errors import CorepressError
from corepress.torch.metadata import describe, read_weight, register_version, replace_value, write_value
from corepress.torch.parameters import Parameter, bake_parametrizations, parameters, together
from corepress.torch.progress import track
from corepress.torch.report import Report, row
from corepress.weights import CompressedWeight, Sparse, decompress

log = logging.getLogger(__name__)

Array = NDArray[Any]
# A dense weight, and the mask of those of its elements that were not pruned, to its compressed form.
Action = Callable[[Array, "NDArray[np.bool_] | None"], CompressedWeight]


class Skip(CorepressError):
    """Leave a weight as it is; the message says why."""


def compress_weights(
    model: nn.Module,
    choose: Callable[[Parameter], Action | None],
    *,
    borrowed_from: nn.Module | None = None,
    workers: int | None = None,
    description: str = "Compressing",
) -> Report:
    """Apply to every supported weight of a model, in place, the action that `choose` gives for it.

    `choose`: None leaves a weight alone, `Skip` does so with a warning. A weight that several modules share is
    compressed once, as the first of them asks, and stays shared. `borrowed_from`: the model whose
    `parameters.borrowing_copy_of` this is. `workers`: threads, by default one for each core.
    """
    bake_parametrizations(model)
    lent = set() if borrowed_from is None else {p.value.data_ptr() for p in parameters(borrowed_from)}
    report = Report()
    jobs = list(_plan(together(parameters(model)), choose, report))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        try:
            results = pool.map(lambda job: attempt(job[0][0], job[1], lent), jobs)
            for (holders, _), result in zip(track(jobs, description), results, strict=True):
                _put(holders, result, report)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            _give_back(model, lent)
    register_version(model)
    return report


def _plan(
    shared: list[list[Parameter]], choose: Callable[[Parameter], Action | None], report: Report
) -> Iterator[tuple[list[Parameter], Action]]:
    for holders in shared:
        try:
            action = choose(holders[0])
        except CorepressError as skip:
            skipped(report, holders[0], str(skip))
            continue
        if action is not None:
            yield holders, action


def _give_back(model: nn.Module, lent: set[int]) -> None:
    """Give weights that stay as they are memory of their own."""
    for parameter in parameters(model) if lent else ():
        if parameter.value.data_ptr() in lent:
            parameter.value.data = parameter.value.data.clone()


def attempt(
    parameter: Parameter, action: Action, lent: Set[int] = frozenset()
) -> tuple[CompressedWeight, dict[str, Any]] | CorepressError:
    """In a worker: compress the weight; its form and its row in the report, or the reason to leave it alone.

    `lent`: where weights begin in memory that must not be written to.
    """
    try:
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
        return form, columns
    except CorepressError as reason:
        return reason


def check(parameter: Parameter) -> None:
    """Raise `Skip` for a weight that can't be compressed at all."""
    value = parameter.value
    if value.is_meta:
        raise Skip("it is on the meta device, without values: load them first")
    if not value.is_floating_point() or value.ndim < 2 or value.numel() == 0:
        raise Skip(f"it is a {value.dtype} of shape {tuple(value.shape)}, not a matrix of real numbers")


def _put(holders: list[Parameter], result: Any, report: Report) -> None:
    if isinstance(result, CorepressError):
        skipped(report, holders[0], str(result))
        return
    form, columns = result
    for holder in holders:
        if holder.value.data_ptr() != holders[0].value.data_ptr():  # which has memory of its own by now
            holder.value.data = holders[0].value.data
        describe(holder, form)
        report[holder.key] = columns


def skipped(report: Report, parameter: Parameter, reason: str) -> None:
    """Warn that a weight is left alone, and count it."""
    report.skipped[parameter.key] = reason
    log.warning("%s: left as it is: %s", parameter.key, reason, extra={"weight": parameter.key})
