"""How sensitive a loss is to each parameter of a model: the diagonal of the Fisher information, from gradients.

That is the sum over samples of the squared gradient (Kim et al. 2023, "SqueezeLLM", arXiv 2306.07629, section 4.1).
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import ConfigError, DataError, ResourceError
from corepress.threads import CORES
from corepress.torch.calls import Call, said_of_batch
from corepress.torch.progress import track

LossFunction = Callable[[nn.Module, Any], Tensor]
LEAST = 1e-12


def fisher_diagonal(
    model: nn.Module, samples: Iterable[Any], loss_fn: LossFunction, *, most: int, workers: int = 1
) -> dict[str, Tensor]:
    """For each floating-point parameter, by name, its sum of squared gradients: float32, on the CPU.

    `samples`: at most `most` of them are used, each with a gradient of its own. `loss_fn(model, sample)`: a scalar.
    `workers`: processes that share the samples. The model, its buffers, gradients and modes are as before afterwards.
    A parameter that several modules share counts once, under its first name. Raises CorepressError without samples, and
    where a gradient is not finite.
    """
    samples = list(islice(samples, most)) if workers > 1 else islice(samples, most)
    if workers > 1:
        return _in_processes(model, list(samples), loss_fn, workers)
    return _sum_of_squares(model, track(samples, "Sensitivities", most), loss_fn)


def normalized(diagonal: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor from 1e-12 to 1: divided by its largest element, zeros raised to its least; all 1 if all are zero."""
    return {name: _normalized(values) for name, values in diagonal.items()}


def factored(sensitivity: Tensor) -> Tensor:
    """The rank-one estimate of a weight's sensitivities: of each element the mean of its row times that of its column,
    over the mean of all; a row is an index of the first axis.

    Of a linear layer a gradient is what goes back into its row times what came in by its column; were the two
    independent, it would be exact. It has far fewer numbers to learn from few samples. Source: the factored second
    moment of Shazeer and Stern 2018, "Adafactor", arXiv 1804.04235, section 3.
    """
    matrix = sensitivity.flatten(1)
    product = matrix.mean(1, keepdim=True) * matrix.mean(0, keepdim=True) / matrix.mean().clamp(min=LEAST)
    return product.reshape(sensitivity.shape).clamp(min=LEAST)


def _normalized(values: Tensor) -> Tensor:
    if not values.any():
        return torch.ones_like(values)
    values = values / values.max()
    return values.where(values != 0, values[values != 0].min()).clamp_(min=LEAST)


def _sum_of_squares(model: nn.Module, samples: Iterable[Any], loss_fn: LossFunction) -> dict[str, Tensor]:
    parameters = {name: value for name, value in model.named_parameters() if value.is_floating_point()}
    if not parameters:
        raise DataError("the model has no parameters, so nothing to find the sensitivity of")
    sums: dict[str, Tensor] = {}
    seen = 0
    with _unchanged(model), torch.enable_grad():
        for seen, sample in enumerate(samples, 1):  # noqa: B007
            for value in parameters.values():
                value.grad = None
            with said_of_batch("loss_fn can't be computed for a sample of", Call.of(sample).by_name()):
                loss = loss_fn(model, sample)
            _backward(loss)
            for name, value in parameters.items():
                if value.grad is not None:
                    square = value.grad.detach().float().square().cpu()
                    sums[name] = sums[name].add_(square) if name in sums else square
    if not seen:
        raise DataError("the dataloader gave no samples, so there are no gradients to learn sensitivities from")
    for name, value in parameters.items():
        if not sums.setdefault(name, torch.zeros(value.shape)).isfinite().all():
            raise DataError(f"a gradient of {name} is not finite: look at the loss function and the samples")
    return {name: sums[name] for name in parameters}


def _backward(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ConfigError("loss_fn must return a scalar tensor that depends on the parameters of the model")
    loss.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Let every parameter have a gradient; put back gradients, buffers such as batch statistics, and modes."""
    parameters = [(value, value.grad, value.requires_grad) for value in model.parameters()]
    buffers = [
        (module, name, value, value.clone())
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for value, _, _ in parameters:
            value.requires_grad_(value.is_floating_point())
        yield
    finally:
        for value, grad, requires_grad in parameters:
            value.grad = grad
            value.requires_grad_(requires_grad)
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer.copy_(before)
        for module, training in modes:
            module.training = training


def _in_processes(model: nn.Module, samples: list[Any], loss_fn: LossFunction, workers: int) -> dict[str, Tensor]:
    parts = [part for part in (samples[start::workers] for start in range(workers)) if part]
    if len(parts) < 2:
        return _sum_of_squares(model, samples, loss_fn)
    threads = max(1, CORES // len(parts))
    with tempfile.TemporaryDirectory() as folder:
        # A file, not the pool's pickles: those would move the parameters into memory that all processes share.
        jobs = [Path(folder, f"{number}.pt") for number in range(len(parts))]
        for job, part in zip(jobs, parts, strict=True):
            _save_job((model, part, loss_fn), job)
        try:
            with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
                results = list(pool.map(_work, jobs, [threads] * len(jobs)))
        except BrokenProcessPool as error:
            raise ResourceError(
                "a process that computes sensitivities ended early: a script that asks for several must keep its own "
                'work under `if __name__ == "__main__":`; else there may be too little memory'
            ) from error
    return {name: torch.stack([torch.from_numpy(part[name]) for part in results]).sum(dim=0) for name in results[0]}


def _save_job(job: tuple[nn.Module, list[Any], LossFunction], path: Path) -> None:
    try:
        torch.save(job, path)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"with num_sensitivity_workers > 1 the model, the samples and loss_fn must be picklable ({error}): "
            "define loss_fn at the top of a module, or use one worker"
        ) from error


def _work(job: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    model, samples, loss_fn = torch.load(job, weights_only=False)
    return {name: value.numpy() for name, value in _sum_of_squares(model, samples, loss_fn).items()}
