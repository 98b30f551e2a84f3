"""The layers of a model that are compressed together, stage by stage, each seeing what the ones before became."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corepress.torch.calls import Call, Device, said_of_batch
from corepress.torch.layerwise_compression.input_cacher import Stop, on_device
from corepress.torch.parameters import Parameter, Slot, copy_of

Forward = Callable[[Call], Any]
Reads = tuple[tuple[int, ...], ...]


@dataclass
class Original:
    """What the modules of a stage read while nothing was compressed: `forward` with each of `calls` brings it by."""

    modules: dict[str, nn.Module]
    forward: Forward
    calls: list[Call]

    def inputs(self, number: int, names: Iterable[str]) -> dict[str, list[Tensor]]:
        """In one call: for each of these modules its inputs, one for each time that it is called."""
        found: dict[str, list[Tensor]] = {name: [] for name in names}

        def noting(name: str) -> Callable[..., None]:
            return lambda module, args: found[name].extend(args[:1])

        with hooks(self.modules[name].register_forward_pre_hook(noting(name)) for name in found):
            self.forward(self.calls[number])
        return found


@dataclass
class Stage:
    """Weights that are compressed from the same runs: `forward` with each of `calls` brings their inputs by."""

    name: str
    parameters: list[Parameter]
    forward: Forward
    calls: list[Call]
    original: Original | None = None


def chained(
    layers: list[tuple[str, nn.Module]],
    calls: list[Call],
    parameters: list[Parameter],
    device: Device,
    match_original: bool = False,
) -> Generator[Stage, None, None]:
    """Each layer is a stage; its output, once it is compressed, is the next layer's input. Changes `calls`.

    `match_original`: beside it goes what the layers make of one another's outputs as they were.
    """
    before, originals = "the model's input", list(calls)
    for name, layer in layers:
        forward, own = _telling(name, before, layer), [p for p in parameters if is_in(p.module_name, name)]
        twin = copy_of(layer) if match_original else None
        with on_device(itertools.chain(layer.modules(), [] if twin is None else twin.modules()), device):
            original = None
            if twin is not None:
                original = Original(dict(twin.named_modules(prefix=name)), _telling(name, before, twin), originals)
            yield Stage(name, own, forward, calls, original)
            if name != layers[-1][0]:
                _advance(calls, forward)
                if original is not None:
                    _advance(originals, original.forward)
        before = f"the output of {name}"


def _advance(calls: list[Call], forward: Forward) -> None:
    for i, call in enumerate(calls):
        calls[i] = Call.of(forward(call), call.kwargs)


def is_in(name: str, container: str) -> bool:
    """Whether a module of that name is another one or lies in it."""
    return name == container or name.startswith(f"{container}.")


def _telling(name: str, before: str, layer: nn.Module) -> Forward:
    def forward(call: Call) -> Any:
        with said_of_batch(
            f"layer {name} can't take {before}, that is", call.by_name(layer),
            "; with layers=, name layers of which each reads the output of the one before",
        ):  # fmt: skip
            return layer(*call.args, **call.kwargs)

    return forward


def whole(
    model: nn.Module,
    calls: list[Call],
    parameters: list[Parameter],
    device: Device,
    original: nn.Module | None = None,
) -> list[Stage]:
    """Stages for any model: its blocks, in the order in which a run reaches them; runs begin with the model's inputs.

    A block is what stands at one place of a list of modules, such as `encoder.layer.3`, or else one module's children.
    `original`: a copy that stays as it is.
    """

    twins = {} if original is None else dict(original.named_modules())
    seen = observe(parameters, lambda: _until(model, None, device)(calls[0]))
    by_name = {parameter.module_name: parameter for parameter in parameters}
    stages = []
    for block, names in itertools.groupby(seen, _block):
        found = list(names)
        last = max(found, key=lambda name: seen[name][-1])
        once = len(seen[last]) == 1
        run = _until(model, by_name[last].module if once else None, device)
        beside = None
        if original is not None:
            beside = Original(twins, _until(original, twins[last] if once else None, device), calls)
        stages.append(Stage(block or "model", [by_name[name] for name in found], run, calls, beside))
    return stages


def _block(name: str) -> str:
    indexed = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    return indexed[0] if indexed else name.rpartition(".")[0]


def _until(model: nn.Module, last: nn.Module | None, device: Device) -> Forward:
    """A run that ends behind the last module whose input matters, if one is given."""

    ending = [] if last is None else [last]

    def stop(*_: Any) -> None:
        raise Stop

    def run(call: Call) -> None:
        call = call.to(device)
        with contextlib.suppress(Stop), hooks(module.register_forward_hook(stop) for module in ending):
            call.answer(model)

    return run


def observe(slots: Sequence[Slot], run: Callable[[], Any]) -> dict[str, Reads]:
    """What the modules of these slots read in one run: for each of its calls (number of the tensor, of the call).

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

    with hooks(slot.module.register_forward_pre_hook(note(slot.module_name)) for slot in slots):
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
