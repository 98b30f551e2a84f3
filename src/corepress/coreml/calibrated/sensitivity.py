"""Sensitive k-means on a package: an element counts by how much the model's outputs depend on it.

As SqueezeLLM (Kim et al. 2023, arXiv 2306.07629), with the diagonal of the Fisher information. A package has no loss,
so that of the outputs themselves serves, the diagonal of J^T J with J their derivative by the weight: the mean of the
squared gradient of a random signed sum of all outputs (Hutchinson's estimate), each output scaled to unit variance.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.statistics import Sensitivity
from corepress.coreml.action import Action
from corepress.coreml.calibrated.fit import Decided, fitted_form
from corepress.coreml.calibrated.judging import Split
from corepress.coreml.calibrated.layers import LOOK_UP, PRODUCTS, looks_up_rows, product_axis
from corepress.coreml.method import Choose
from corepress.engine import Progress, Skip
from corepress.errors import ConfigError, CorepressError, DataError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.aside import Row, Store
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.runnable import Observe
from corepress.runtime.walk import each_program, outputs_in_steps
from corepress.sequences import Sample, each_step
from corepress.weights import CompressedWeight

# What no sample touches still counts so much of the mean.
_LEAST = 1e-3


@dataclass(frozen=True)
class _Fit:
    """The action that is fitted to how much each element of a weight counts. Equal where the plain actions are.

    `learnt`, `judged`: in the samples to learn from, and in those to judge by, if any. `unfitted` takes the reason, by
    function and output name of the weight, where it is compressed without.
    """

    plain: Action
    learnt: Sensitivity = field(compare=False)
    judged: Sensitivity | None = field(compare=False)
    unfitted: dict[tuple[str, str], str] = field(compare=False)

    def __call__(self, weight: Weight) -> CompressedWeight:
        given = fitted_form(weight, self.plain, self.learnt, self.judged)
        if given.unfitted:
            self.unfitted[weight.function, weight.output] = given.unfitted
        return given.form


def weighted(
    model: Model,
    choose: Choose,
    split: Split,
    decided: Decided,
    function: str | None,
    device: str,
    progress: Progress | None = None,
) -> Callable[[Weight], Any]:
    """The function that gives what `choose` gives, with the importance of each element of a weight.

    `decided`: what is known about weights before; it takes what is found. `progress` is not called: what takes time for
    each weight is the run.
    """
    unfitted = decided.unfitted
    wanted: dict[str, dict[str, Weight]] = {}
    for weight in model.weights():
        with contextlib.suppress(Skip):
            choose(weight)
            if (weight.function, weight.output) not in unfitted:
                wanted.setdefault(weight.function, {})[weight.output] = weight
    # By the key of the weight, which several functions may share: their samples count as one.
    learnt, judged = _Importances({}), _Importances({})
    for own, part in split.parts(function).items():
        program = load(model, device, precision="float32", function=own)
        for name, stage, given in each_program(program, part.samples):
            buffers = {
                stage.constants[output]: weight.key
                for output, weight in wanted.get(name, {}).items()
                if output in stage.constants
            }
            if not buffers:
                continue
            for importances, samples in ((learnt, given[: len(part.learnt)]), (judged, given[len(part.learnt) :])):
                importances.add(
                    squared_gradients(stage, set(buffers), samples) if samples else {}, buffers, len(samples)
                )

    def with_importance(weight: Weight) -> Any:
        action, key = choose(weight), (weight.function, weight.output)
        if (importance := learnt.of(weight.key)) is not None:
            return _Fit(action, importance, judged.of(weight.key), unfitted)
        unfitted.setdefault(key, "no output of the model depends on it, or no sample reaches it")
        return action

    return with_importance


@dataclass
class _Importances:
    """The importance of the elements of weights, by their keys: sums over functions, and over how many samples."""

    sums: dict[Any, tuple[NDArray[np.float32], int]]

    def add(self, found: Mapping[str, NDArray[np.float32]], keys: Mapping[str, Any], count: int) -> None:
        """Count what so many samples say of some constants, given by buffer."""
        for buffer, importance in found.items():
            before, counted = self.sums.get(keys[buffer], (np.float32(0), 0))
            self.sums[keys[buffer]] = before + importance * np.float32(count), counted + count

    def of(self, key: Any) -> Sensitivity | None:
        """The mean over the samples, or None if there are none."""
        if key not in self.sums:
            return None
        total, count = self.sums[key]
        return Sensitivity(total / np.float32(count))


def squared_gradients(program: Program, buffers: set[str], samples: Iterable[Sample]) -> dict[str, NDArray[np.float32]]:
    """The importance of each element of some constants, which have these names in the program's module.

    Constants that no output depends on are left out. Raises CorepressError if a gradient is not finite.
    """
    found = {}
    for name, total in sums_of_squares(program, buffers, samples).items():
        if (mean := float(total.mean())) > 0:
            found[name] = (total / mean + _LEAST).cpu().numpy()
    return found


def sums_of_squares(program: Program, buffers: set[str], samples: Iterable[Sample]) -> dict[str, Tensor]:
    """The squared gradients of a random sum of the outputs by some constants, summed over the samples.

    Raises CorepressError if a gradient is not finite.
    """
    constants = program.module.constants()
    leaves = {name: constants[name].requires_grad_() for name in buffers if constants[name].is_floating_point()}
    sums = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    generator = torch.Generator().manual_seed(0)
    done = 0
    try:
        for sample in samples:
            try:
                loss = _random_sum(program, sample, generator)
            except ConfigError as error:
                raise ConfigError(f"sample {done} of sample_data: {error}") from error
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient.square()
            done += 1
    finally:
        for leaf in leaves.values():
            leaf.requires_grad_(False)
    for total in sums.values():
        if not torch.isfinite(total).all():
            raise DataError("a sample makes gradients that are infinite or not a number")
    return sums


class Scaled(Sequence[Tensor]):
    """Numbers that are divided by their `mean` when they are asked for."""

    def __init__(self, values: Row, mean: float):
        self._values, self.mean = values, mean

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, number: Any) -> Any:
        return self._values[number] / self.mean + _LEAST


def of_vectors(program: Program, buffers: set[str], samples: Sequence[Sample]) -> dict[str, Sequence[Tensor]]:
    """How much the products of each vector with one of these constants count, 1 on average: (vectors,) for each step,
    by the name of the operation. Of operations that look up rows of one the gradients by these: (rows, columns).
    Operations that no output depends on, or not smoothly, are left out."""
    steps = [step for step in program.module.plan.steps if _counts(step) and buffers & {b for _, b in step.held}]
    read = {buffer for step in steps for _, buffer in step.held} & buffers
    leaves = [value for name, value in program.module.constants().items() if name in read]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
    store = Store()
    found = {step.name: Row(store) for step in steps}
    sums: dict[str, tuple[float, int]] = {}
    generator = torch.Generator().manual_seed(0)
    try:
        for sample in samples:
            made: dict[str, list[Tensor]] = {step.outputs[0]: [] for step in steps}

            def keep(name: str, value: Any, made: dict[str, list[Tensor]] = made) -> None:
                if name in made:
                    made[name].append(value)

            loss = _random_sum(program, sample, generator, keep)
            products = [(step, value) for step in steps for value in made[step.outputs[0]]]
            gradients = torch.autograd.grad(loss, [value for _, value in products], allow_unused=True)
            for (step, _), gradient in zip(products, gradients, strict=True):
                if gradient is not None:
                    counts = gradient.float().square().movedim(product_axis(step), 0).flatten(1).mean(0)
                    total, size = sums.get(step.name, (0.0, 0))
                    sums[step.name] = total + float(counts.double().sum()), size + len(counts)
                    rows = gradient.float().reshape(-1, gradient.shape[-1]) if step.kind == LOOK_UP else counts
                    found[step.name].append(rows)
    except CorepressError:  # nothing has a derivative; or a sample is wrong, which others will say
        return {}
    finally:
        for leaf in leaves:
            leaf.requires_grad_(False)
    count = len(list(each_step(samples)))
    kinds = {step.name: step.kind for step in steps}
    return {
        name: found[name] if kinds[name] == LOOK_UP else Scaled(found[name], total / size)
        for name, (total, size) in sums.items()
        if len(found[name]) == count and total > 0
    }


def _counts(step: Step) -> bool:
    return step.kind in PRODUCTS or (step.kind == LOOK_UP and looks_up_rows(step.arguments))


def _random_sum(program: Program, sample: Sample, generator: torch.Generator, observe: Observe | None = None) -> Tensor:
    with torch.enable_grad():
        parts = []
        for result in itertools.chain.from_iterable(outputs_in_steps(program, sample, observe)):
            if isinstance(result, Tensor) and result.requires_grad:
                signs = torch.randint(0, 2, result.shape, generator=generator).mul_(2).sub_(1).to(result)
                spread = result.detach().float().std().clamp(min=1e-6) if result.numel() > 1 else 1.0
                parts.append((signs * result / spread).sum())
    if not parts:
        raise DataError("no output of the model depends on its weights in a way that has a derivative")
    return torch.stack(parts).sum()
