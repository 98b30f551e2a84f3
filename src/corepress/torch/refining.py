"""`corepress.torch.refine`: a compressed module learns to answer as its original does, and keeps its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from corepress.algorithms.learned.stored import learned
from corepress.engine import Progress
from corepress.errors import ConfigError, CorepressError
from corepress.metrics import METRICS, Sums
from corepress.refining.result import Refinement
from corepress.refining.student import Answers, Part, Parts
from corepress.refining.training import drawn
from corepress.refining.whole import Data, Subject, refined, settings_of
from corepress.resuming import digest_of
from corepress.sequences import Sample, steps_of
from corepress.split import HELD_BACK, hold_back
from corepress.torch.calls import Outputs, moved, samples_of, tensors_of
from corepress.torch.layerwise_compression import fingerprint
from corepress.torch.metadata import array_of, read_weight, write_value, write_weight
from corepress.torch.parameters import Slot, bake_parametrizations, copy_of, parameters, together
from corepress.verification import Verification

__all__ = ["refine"]


def refine(
    original: nn.Module,
    small: nn.Module,
    data: Iterable[Any],
    *,
    test_data: Iterable[Any] | None = None,
    outputs: Outputs | None = None,
    steps: int | None = None,
    time: float | str | None = None,
    held_back: float = HELD_BACK,
    device: str = "cpu",
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Refinement:
    """Learn what a compressed module stores, so that its answers come nearer to those of its original.

    As `corepress.refine` does for packages, before they are converted. What is learnt is all that the buffers of
    `PostTrainingPalettizer`, `PostTrainingQuantizer`, `MagnitudePruner` and `LayerwiseCompressor` stand for, biases,
    and gains of norms; the forms stay, and `coremltools.convert` makes the same operations of them.

    Args:
        original: The module before it was compressed, which is the teacher; both stay as they are.
        small: The compressed module.
        data: Batches of its input: of each a tensor, a tuple of arguments, or a dictionary of keyword arguments. Each
            step learns from one of them. A part is held back, by which the best state is chosen.
        test_data: Other batches to measure on at the end; without them it is on those held back.
        outputs: Takes, of what the module returns, what counts: a tensor, or several in a tuple or dictionary; by
            default all tensors in it.
        steps: So many steps; by default 400, or with `time` as many as it allows.
        time: When it ends, in seconds or such as "10m", with the rates falling in time.
        held_back: The part of the batches to judge by.
        device: Where it learns, such as "cpu" or "cuda".
        seed: Of the order of the batches. The same seed and steps give the same values.
        resume: A folder to go on from, as in `corepress.refine`.
        progress: Called with the steps done, of all, and what the batches held back say.

    Returns:
        The refined module, with numbers of before and after.

    Raises:
        ConfigError: For modules that are not the same but for compression, if nothing is compressed or can learn, and
            for batches that do not fit or hold NaN.
        KeyboardInterrupt: Where Ctrl-C ends it; its `result` holds the best until then.

    Examples:
        >>> from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
        >>> small = PostTrainingPalettizer(model, config).compress()
        >>> better = cto.torch.refine(model, small, [torch.randn(16, 64) for _ in range(20)], steps=50)
        >>> better.after.worst.snr > better.before.worst.snr, len(better.model[0].weight.unique())
        (True, 4)
    """
    asked = (steps, time, held_back, device, seed)
    settings = settings_of(steps, time, 1, seed)
    batches = samples_of(data)
    if not batches:
        raise ConfigError("data holds no batch: a refinement learns from some, typical for the app")
    tested = None if test_data is None else samples_of(test_data)
    teacher, student = (_running(model, device) for model in (original, small))
    _check_same(teacher, student)
    found = Data(*hold_back(batches, held_back), tested)
    first = found.learnt[0]
    slots, parts = _reached(Batched(student, (), outputs), *_parts_of(teacher, student), first)
    names = _blocks(student, {key for part in parts.learning for key in part.buffers}, first, outputs)
    subject = Subject(
        Batched(teacher, names, outputs),
        Batched(student, names, outputs),
        parts,
        same=lambda: copy_of(small),
        written=lambda: _written(small, slots, parts),
        compare=lambda model, samples: _compared(teacher, model, samples, outputs),
        returned=lambda model: model,
    )
    return refined(
        subject, found, settings, drawn(found.learnt, np.random.default_rng(seed), None), found.judged or found.learnt,
        resume=resume, progress=progress, asked=lambda: {
            "settings": repr(asked),
            "original": fingerprint.of_weights(original),
            "compressed model": fingerprint.of_weights(small),
            "data": digest_of(found.learnt, found.judged),
        },
    )  # fmt: skip


class Batched:
    """A module as a function of a batch, with some of its parameters replaced. `names`: of modules inside, of whose
    answers the student learns, too."""

    at_once = True

    def __init__(self, module: nn.Module, names: Sequence[str], outputs: Outputs | None):
        self._module, self._names, self._outputs = module, names, outputs
        self._device = next(module.parameters()).device

    def batches(self, samples: Sequence[Sample], most: int) -> Iterator[tuple[Any, int]]:
        """Each sample is a batch by itself."""
        for sample in samples:
            (batch,) = steps_of(sample)
            yield moved(dict(batch), self._device), 1

    def __call__(self, batch: Any, constants: Mapping[str, Tensor], *, inside: bool = False) -> Answers:
        """`inside`: whether the answers of the modules inside are wanted."""
        types = {name: parameter.dtype for name, parameter in self._module.named_parameters(remove_duplicate=False)}
        held = {name: value.to(types[name]) for name, value in constants.items()}
        whole = _Replaced(self._module, held)
        with _watching(self._module, self._names if inside else ()) as seen:
            found = tensors_of(whole, batch, self._outputs)
        return Answers([*found.values()], [tensor for tensors in seen.values() for tensor in tensors])


class _Replaced(nn.Module):
    """A module that computes with other values of some parameters."""

    def __init__(self, module: nn.Module, held: Mapping[str, Tensor]):
        super().__init__()
        self._replaced = module, dict(held)  # in a tuple, so that the module is no part of this one

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        module, held = self._replaced
        return functional_call(module, held, args, kwargs, tie_weights=False)


@contextmanager
def _watching(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What modules inside answer while the whole runs: of each the first tensor of each call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, answer: Any) -> None:
            first = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
            if isinstance(first, Tensor):
                seen[name].append(first)

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _running(model: nn.Module, device: str) -> nn.Module:
    """A copy that can be run, as a model is evaluated, without weights that are computed from others."""
    copied = copy_of(model)
    bake_parametrizations(copied)
    return copied.to(device).eval().requires_grad_(False)


def _check_same(original: nn.Module, small: nn.Module) -> None:
    """A ConfigError where two modules are not of one model."""
    shapes = {name: value.shape for name, value in original.named_parameters(remove_duplicate=False)}
    for name, value in small.named_parameters(remove_duplicate=False):
        if shapes.get(name) != value.shape:
            there = f"{'x'.join(map(str, shapes[name]))} there" if name in shapes else "not there"
            raise ConfigError(
                f"the compressed module is not one of the original's: its {name} of shape "
                f"{'x'.join(map(str, value.shape))} is {there}: is it the same model, compressed?"
            )


def _parts_of(teacher: nn.Module, student: nn.Module) -> tuple[list[list[Slot]], Parts]:
    """What of a module can learn, with the places that hold it."""
    exact = dict(teacher.named_parameters(remove_duplicate=False))
    found: list[tuple[list[Slot], Any, NDArray[Any] | None]] = []
    for holders in together(parameters(student)):
        value = read_weight(holders[0])
        if not isinstance(value, np.ndarray):
            found.append(([*holders], value, array_of(exact[holders[0].key])))
    if not found:
        raise ConfigError("no weight of the compressed module is compressed, so that there is nothing to refine")
    found += [(holders, array_of(holders[0].value), None) for holders in together(_of_channels(student))]
    names: dict[int, list[str]] = {}  # of all that hold a tensor, in whatever module
    for name, parameter in student.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.data_ptr(), []).append(name)
    slots, learning, frozen = [], [], {}
    for held, value, dense in found:
        try:
            module = learned(value, dense).to(held[0].value.device)
        except CorepressError as error:
            frozen[held[0].key] = str(error)
            continue
        slots.append(held)
        learning.append(Part((), tuple(names[held[0].value.data_ptr()]), module))
    return slots, Parts(tuple(learning), frozen)


def _of_channels(model: nn.Module) -> Iterator[Slot]:
    """The vectors that hold a number for each channel: biases, and the gains of norms."""
    for module_name, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            if value.ndim == 1 and value.is_floating_point() and (name == "weight" or name.endswith("bias")):
                yield Slot(module, module_name, name)


def _blocks(student: nn.Module, learning: set[str], batch: Sample, outputs: Outputs | None) -> list[str]:
    """The elements of sequences and lists of modules that hold something that learns and whose answer is a value of its
    own inside the model."""
    names = [
        f"{name}.{place}" if name else place
        for name, module in student.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        for place, inner in module.named_children()
        if any(f"{name}.{place}.{key}".lstrip(".") in learning for key, _ in inner.named_parameters())
    ]
    with torch.no_grad(), _watching(student, names) as seen:
        (step,) = steps_of(batch)
        device = next(student.parameters()).device
        known = {id(tensor) for tensor in tensors_of(student, moved(dict(step), device), outputs).values()}
    found = []
    for name, tensors in seen.items():
        if len(tensors) == 1 and id(tensors[0]) not in known:
            known.add(id(tensors[0]))
            found.append(name)
    return found


def _reached(student: Batched, slots: list[list[Slot]], parts: Parts, sample: Sample) -> tuple[list[list[Slot]], Parts]:
    """The parts on which some answer has a derivative; ConfigError where there are none."""
    ((batch, _),) = student.batches([sample], 1)
    leaves = {name: value.detach().requires_grad_() for name, value in parts.dense().items()}
    answers = [answer for answer in student(batch, leaves).outputs if answer.requires_grad]
    if answers:
        torch.stack([answer.float().sum() for answer in answers]).sum().backward()  # type: ignore[no-untyped-call]
    kept = [any(leaves[name].grad is not None for name in part.buffers) for part in parts.learning]
    frozen = dict(parts.frozen)
    for held, part, whether in zip(slots, parts.learning, kept, strict=True):
        if not whether and held[0].value.ndim > 1:
            frozen[part.buffers[0]] = "no answer has a derivative by it"
    if not any(kept):
        raise ConfigError(
            "no answer of the compressed module has a derivative by its weights, as where activations are quantized "
            "for coremltools.convert: convert it, and let corepress.refine learn the package"
        )
    pairs = [pair for pair, whether in zip(zip(slots, parts.learning, strict=True), kept, strict=True) if whether]
    return [held for held, _ in pairs], Parts(tuple(part for _, part in pairs), frozen)


def _written(small: nn.Module, slots: Sequence[Sequence[Slot]], parts: Parts) -> nn.Module:
    """A copy of a compressed module with what the parts hold now."""
    result = copy_of(small)
    bake_parametrizations(result)
    for held, part in zip(slots, parts.learning, strict=True):
        form = part.module.stored()
        for slot in held:
            mine = Slot(result.get_submodule(slot.module_name), slot.module_name, slot.name)
            if isinstance(form, np.ndarray):
                write_value(mine, form)
            else:
                write_weight(mine, form)
    return result


def _compared(teacher: nn.Module, model: nn.Module, samples: Sequence[Sample], outputs: Outputs | None) -> Verification:
    """How near a module is to the original on batches."""
    device = next(teacher.parameters()).device
    running = copy_of(model).to(device).eval()
    sums: dict[str, Sums] = {}
    with torch.no_grad():
        for sample in samples:
            (step,) = steps_of(sample)
            batch = moved(dict(step), device)
            now = tensors_of(running, batch, outputs)
            for name, exact in tensors_of(teacher, batch, outputs).items():
                sums.setdefault(name, Sums()).add_output(name, array_of(exact), array_of(now[name]))
    rows = tuple(found.row(name) for name, found in sums.items())
    return Verification(rows, (), "snr", METRICS["snr"].threshold, len(samples), weak=False)


def __dir__() -> list[str]:
    return __all__
