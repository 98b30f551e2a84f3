"""The layers of a model that are compressed together, stage by stage, each seeing what the ones before became."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import CorepressError
from corepress.torch.layerwise_compression.input_cacher import Call, Device, Stop, on_device
from corepress.torch.parameters import Parameter

Forward = Callable[[Call], Any]
Reads = tuple[tuple[int, ...], ...]


@dataclass
class Stage:
    """Weights that are compressed from the same runs: `forward` with each of `calls` brings their inputs by."""

    name: str
    parameters: list[Parameter]
    forward: Forward
    calls: list[Call]


def chained(
    layers: list[tuple[str, nn.Module]], calls: list[Call], parameters: list[Parameter], device: Device
) -> Generator[Stage, None, None]:
    """Each layer is a stage; its output, once it is compressed, is the next layer's input. Changes `calls`."""
    before = "the model's input"
    for name, layer in layers:
        forward = _telling(name, before, layer)
        with on_device(layer.modules(), device):
            yield Stage(name, [p for p in parameters if is_in(p.module_name, name)], forward, calls)
            if name != layers[-1][0]:
                for i, call in enumerate(calls):
                    calls[i] = Call.of(forward(call), call.kwargs)
        before = f"the output of {name}"


def is_in(name: str, container: str) -> bool:
    """Whether a module of that name is another one or lies in it."""
    return name == container or name.startswith(f"{container}.")


def _telling(name: str, before: str, layer: nn.Module) -> Forward:
    def forward(call: Call) -> Any:
        try:
            return layer(*call.args, **call.kwargs)
        except (TypeError, RuntimeError, AttributeError, ValueError, IndexError) as error:
            raise CorepressError(
                f"layer {name} can't take {before} ({type(error).__name__}: {str(error)[:200]}): with layers=, name "
                "layers of which each reads the output of the one before"
            ) from error

    return forward


def whole(model: nn.Module, calls: list[Call], parameters: list[Parameter], device: Device) -> list[Stage]:
    """Stages for any model: its blocks, in the order in which a run reaches them; runs begin with the model's inputs.

    A block is what stands at one place of a list of modules, such as `encoder.layer.3`, or else one module's children.
    """

    def forward(call: Call) -> Any:
        return model(*call.args, **call.kwargs)

    seen = observe(parameters, lambda: forward(calls[0].to(device)))
    by_name = {parameter.module_name: parameter for parameter in parameters}
    stages = []
    for block, names in itertools.groupby(seen, _block):
        found = list(names)
        last = max(found, key=lambda name: seen[name][-1])
        once = len(seen[last]) == 1
        run = _until(by_name[last].module, forward, device) if once else (lambda call: forward(call.to(device)))
        stages.append(Stage(block or "model", [by_name[name] for name in found], run, calls))
    return stages


def _block(name: str) -> str:
    indexed = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return indexed[0] if indexed else name.rpartition(".")[0]


def _until(last: nn.Module, forward: Forward, device: Device) -> Forward:
    """A run that ends behind the last module whose input matters."""

    def stop(*_: Any) -> None:
        raise Stop

    def run(call: Call) -> None:
        hook = last.register_forward_hook(stop)
        try:
            with contextlib.suppress(Stop):
                forward(call.to(device))
        finally:
            hook.remove()

    return run


def observe(parameters: list[Parameter], run: Callable[[], Any]) -> dict[str, Reads]:
    """What the modules of these weights read in one run: for each of its calls (number of the tensor, of the call).

    In the order of their first calls; a module that is not called is not there. Modules with the same numbers of
    tensors read the same ones.
    """
    tensors: list[Tensor] = []  # kept until the end, so that no other takes the place of one in memory
    numbers: dict[tuple[int, int], int] = {}
    reads: dict[str, list[tuple[int, ...]]] = {}
    counter = itertools.count()

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                tensors.append(args[0])
                number = numbers.setdefault((id(args[0]), args[0]._version), len(numbers))
                reads.setdefault(name, []).append((next(counter), number))

        return hook

    with hooks(p.module.register_forward_pre_hook(note(p.module_name)) for p in parameters):
        run()
    return {name: tuple(found) for name, found in reads.items()}


@contextlib.contextmanager
def hooks(handles: Iterator[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Hooks that go, whatever happens."""
    registered = []
    try:
        for handle in handles:
            registered.append(handle)
        yield
    finally:
        for handle in registered:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, float32 products in full precision, and attention by its modules instead of in one piece."""
    training = {module: module.training for module in model.modules()}
    matmul, cudnn, mha = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mha
    flags = matmul.allow_tf32, cudnn.allow_tf32, mha.get_fastpath_enabled()
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        mha.set_fastpath_enabled(False)
        model.eval()
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = flags[:2]
        mha.set_fastpath_enabled(flags[2])
        for module, mode in training.items():
            module.training = mode
