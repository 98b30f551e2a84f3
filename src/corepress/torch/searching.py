"""`corepress.torch.search`: for each module the configuration with which a model fits a size, or keeps its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from corepress.engine import Progress
from corepress.searching.candidates import MIN_GROUP
from corepress.searching.goals import goal_of
from corepress.searching.loop import Settings
from corepress.searching.modules import FORMS, ModuleSubject
from corepress.searching.quality import name_of
from corepress.searching.result import Result
from corepress.searching.run import Elsewhere, Ways, parted, searched, source_of
from corepress.searching.search import check_words
from corepress.searching.workers import Plan
from corepress.threads import CORES
from corepress.torch.calls import samples_of
from corepress.torch.metadata import array_of

__all__ = ["search"]


def search(
    model: nn.Module,
    data: Iterable[Any],
    *,
    max_size: int | str | None = None,
    bits: float | None = None,
    min_snr: float | None = None,
    min_cosine: float | None = None,
    max_drop: float | None = None,
    metric: Callable[..., Any] | None = None,
    outputs: Callable[[Any], Any] | None = None,
    test_data: Iterable[Any] | None = None,
    forms: Sequence[str] = FORMS,
    min_group: int = MIN_GROUP,
    points: int = 12,
    cost: str = "size",
    seed: int = 0,
    workers: int | None = None,
    jobs: int = 1,
    ray: str | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find for each module of a PyTorch model the configuration with which it fits a size, or keeps its answers, best.

    As `corepress.search` does for packages. What comes out is what `PostTrainingPalettizer` and `PostTrainingQuantizer`
    make, ready for `coremltools.convert`. Activations are quantized in packages only: see `corepress.search`.

    Args:
        model: Of PyTorch, as it is evaluated; it stays as it is.
        data: Batches of its input: of each a tensor, a tuple of arguments, or a dictionary of keyword arguments. Four
            fifths are learnt from, a tenth is chosen by, and a tenth is kept for the final number.
        max_size: Bytes that all parameters and buffers may take, each in its own type unless it is compressed: a
            number, or such as "10MB". It is never exceeded.
        bits: Stored bits for each element of the weights that can be compressed.
        min_snr: The least SNR of the outputs, in dB.
        min_cosine: The least cosine of the outputs, from -1 to 1.
        max_drop: How much of `metric` may be lost.
        metric: A function of the outputs for a batch, arrays by name, and the batch as a dictionary (positional
            arguments by their number, "0", "1"), of which the mean counts; or of the module alone. More is better.
        outputs: Takes, of what the model returns, what counts: a tensor, or several in a tuple or dictionary; by
            default all tensors in it.
        test_data: Other batches for the final number.
        forms: Some of "palettized" and "quantized". A weight may stay dense, too.
        min_group: The fewest channels that may share a look-up table.
        points: How many models of the front are measured.
        cost: "size", or "speed": forms that are known to be slow on phones count as more bytes in the choice.
        seed: Of the random signs in the prediction. The same seed gives the same result.
        workers: Threads; by default one for each core.
        jobs: Processes that measure models; the classes of `model` and `metric` must be in files that can be imported.
        ray: The address of a Ray cluster, as in `corepress.search`.
        resume: A folder in which the search keeps what it measured, as in `corepress.search`.
        progress: Called with the steps done, of all, and the name of the stage.

    Returns:
        The compressed module, the front, and as the recipe of each point the configurations: `recipe["palettize"]` is
        for `PostTrainingPalettizerConfig.from_dict`, `recipe["quantize"]` for `PostTrainingQuantizerConfig.from_dict`.

    Raises:
        ConfigError: For a goal that makes no sense or can't be had, a metric that raises or gives no finite number.
        ResourceError: If a process or the cluster is lost.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> found = cto.torch.search(model, [torch.randn(4, 64) for _ in range(20)], bits=4)
        >>> found.chosen.bits <= 4, sorted(found.recipe["palettize"])
        (True, ['module_name_configs'])
    """
    name = name_of(metric)
    goal = goal_of(max_size, bits, min_snr, min_cosine, max_drop, name, metric is not None)
    check_words("plain", cost, points)
    split = parted(samples_of(data), None if test_data is None else samples_of(test_data))
    keywords = {"forms": tuple(forms), "min_group": min_group, "outputs": outputs}
    subject = ModuleSubject(model, **keywords, workers=workers)  # type: ignore[arg-type]

    def plan(on_another_machine: bool) -> Plan:
        threads = 1 if on_another_machine else max(1, CORES // jobs)
        return Plan(_subject, (model, {**keywords, "workers": threads}))

    def identity() -> str:
        taken = "" if outputs is None else source_of(outputs)
        return f"{_digest(model)} {tuple(forms)} {min_group} {taken}"

    return searched(
        subject, split, goal, Settings(points, seed, workers, cost == "speed"),
        Elsewhere(plan, identity), metric=metric, name=name,
        ways=Ways(jobs, ray, resume), progress=progress,
    )  # fmt: skip


def _subject(model: nn.Module, keywords: Mapping[str, Any]) -> ModuleSubject:
    return ModuleSubject(model, **keywords)


def _digest(model: nn.Module) -> str:
    """A text that is the same for modules of the same classes and values."""
    found = hashlib.sha256(str(model).encode())
    for name, value in model.state_dict().items():
        array = np.ascontiguousarray(array_of(value))
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def __dir__() -> list[str]:
    return __all__
