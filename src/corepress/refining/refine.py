"""`corepress.refine`: a compressed model learns to answer as its original does, and keeps its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from corepress.augmenting.augment import endless
from corepress.coreml.interop import as_model, to_mlmodel
from corepress.coreml.rewrite import sharing_store
from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.formats.handed import handed
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.model import DEFAULT_WEIGHT_FILE
from corepress.formats.mlprogram.revalue import revalue
from corepress.peer import is_mlmodel
from corepress.refining.functions import Pair, Taken, alternating, batched, pairs_of
from corepress.refining.ranges import Range, ranges_of
from corepress.refining.ranges import write as write_ranges
from corepress.refining.result import Refinement
from corepress.refining.student import Parts, check_interface, parts_of
from corepress.refining.training import drawn
from corepress.refining.whole import Data, Subject, refined, settings_of
from corepress.resuming import digest_of
from corepress.runtime.load import interface
from corepress.runtime.program import Program
from corepress.runtime.samples import checked, folders_of_functions, read_samples
from corepress.sequences import Sample
from corepress.split import HELD_BACK, hold_back
from corepress.verification import Verification, verify

# Of one function, or by the names of several.
Given = Iterable[Sample] | Mapping[str, Iterable[Sample]] | str | Path

BATCH = 16
# Of the samples held back at most so many are judged by where new ones can be made, and so many new ones for each: a
# method that was fitted to all samples knows those held back here, too, and only new ones tell what it makes of others.
# MiniLM with 2 bits, fitted, then 380 steps: the loss grows by 21 % on those held back, and falls by 18 % on new ones
# and by 17 % on other sentences.
JUDGES, NEW = 32, 2


def refine(
    original: Any,
    small: Any,
    sample_data: Given,
    *,
    test_data: Given | None = None,
    steps: int | None = None,
    time: float | str | None = None,
    batch: int = BATCH,
    augment: bool = True,
    held_back: float = HELD_BACK,
    function: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Refinement:
    """Learn what a compressed model stores, so that its answers come nearer to those of its original.

    The original is the teacher, the compressed model the student. What is learnt is all that is stored: the entries of
    look-up tables, scales and offsets of floating point, which entry or which integer each number of a weight takes,
    values under a sparse mask, ranges of activations of 8 bits, biases, and gains of norms. Operations, forms, shapes
    and the size stay.

    Each number of a weight has a latent one that gradients move; it takes the entry, or the integer, that this is
    nearest to (straight through; Malinovskii et al. 2024, arXiv 2405.14852). A part of the samples is held back, and
    with `augment` new ones are made of these, too. The state that is best on all of them is kept, so that the loss
    there is never above what it was at the start.

    Args:
        original: The model before it was compressed: a path, a `corepress.Model` or an `MLModel` of coremltools.
        small: The compressed model, of the same kinds; it stays as it is.
        sample_data: Inputs, {input name: array}, a few hundred; for a model with a state lists of such steps, as
            for `verify`; or the path of an .npz, an image or a folder. Of a model with several functions also
            {function: samples}, or a folder with a folder for each: weights that they share learn from all. The stages
            of a pipeline learn from what the stages of the original before them give them.
        test_data: Other samples to measure on at the end; without them it is on those held back.
        steps: So many steps; by default 400, or with `time` as many as it allows.
        time: When it ends, in seconds or such as "10m", with the rates falling in time.
        batch: Samples in a step.
        augment: Whether to learn from new samples, too, three for each that is given, others at each step, as
            `corepress.augment` makes them; the teacher says what the answers to them are.
        held_back: The part of the samples to judge by.
        function: Of a model with several, the one that the samples are for.
        device: Where PyTorch computes, such as "cpu" or "cuda".
        seed: Of the order of the samples and of new ones. The same seed and steps give the same bytes.
        resume: A folder in which the refinement keeps what it has come to, so that the same call goes on after it was
            stopped or killed, and comes to the same result.
        progress: Called with the steps done, of all, and what the samples held back say.

    Returns:
        The refined model, with numbers of before and after.

    Raises:
        ConfigError: For models that are not the same but for compression, if nothing is compressed, for samples that do
            not fit or are not finite, and if the folder to go on from is of another refinement.
        UnsupportedError: For a pipeline that holds no ML program.
        MissingDependencyError: Without PyTorch.
        KeyboardInterrupt: Where Ctrl-C ends it; its `result` holds the best until then.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> better = cto.refine("model.mlpackage", "small.mlpackage", samples, steps=20)
        >>> better.model.save("better.mlpackage").size() == cto.load("small.mlpackage").size()
        True
    """
    exact, given = as_model(original), as_model(small)
    asked = (steps, time, batch, augment, held_back, function, device, seed)
    settings = settings_of(steps, time, batch, seed)
    check_interface(interface(exact, function), interface(given, function), given.path)
    samples = _read(sample_data, exact, function, "sample_data")
    data = _split(samples, None if test_data is None else _read(test_data, exact, function, "test_data"), held_back)
    pairs = pairs_of(exact, given, data.learnt, data.judged, device)
    programs = {name: pair.student for name, pair in pairs.items()}
    ranges, still = ranges_of(given, programs)
    weights = parts_of(exact, given, programs)
    parts = Parts((*weights.learning, *ranges), {**weights.frozen, **still})
    if not parts.frozen and not any(isinstance(part, Range) or part.compressed for part in parts.learning):
        raise ConfigError(f"{given.path}: nothing of it is compressed, so that there is nothing to refine")
    learning = {key.rpartition("/")[0] for part in parts.learning for key in part.buffers}
    pairs = {name: pair for name, pair in pairs.items() if name in learning}
    draw, judges, notes = _drawn(pairs, augment, seed)
    subject = Subject(
        *batched(pairs, weights),
        parts,
        same=given.copy,
        written=lambda: _written(given, parts),
        compare=lambda model, samples: _compared(exact, model, samples, device),
        returned=lambda model: to_mlmodel(model, small) if is_mlmodel(small) else model,
    )
    return refined(
        subject, data, settings, draw, judges, resume=resume, progress=progress, notes=notes,
        asked=lambda: {
            "settings": repr(asked),
            "original": _digest(exact),
            "compressed model": _digest(given),
            "data": digest_of(*([taken.sample for taken in part] for part in (data.learnt, data.judged))),
        },
    )  # fmt: skip


def _digest(model: Model) -> str:
    with handed(model) as held:
        return held.digest()


def _read(data: Any, model: Model, function: str | None, what: str) -> list[Taken]:
    """Samples, all of which are finite, of one function or of several; ConfigError for those that do not fit, and where
    there are none."""
    if isinstance(data, str | Path):
        data = folders_of_functions(model, Path(data), function) or data
    if isinstance(data, Mapping):
        if function is not None:
            raise ConfigError(f"function={function!r}: {what} is of several functions; leave the function out")
        return [taken for name, own in data.items() for taken in _read(own, model, name, f"{what}[{name!r}]")]
    inputs = interface(model, function)
    if isinstance(data, str | Path):
        data, what = read_samples(data, inputs), str(data)
    return [Taken(function or "", sample) for sample in checked(data, inputs, what, finite=True, warns=True)]


def _split(samples: Sequence[Taken], tested: Sequence[Taken] | None, held_back: float) -> Data:
    """Of the samples of each function a part is held back."""
    learnt: list[Taken] = []
    judged: list[Taken] = []
    for name in dict.fromkeys(taken.name for taken in samples):
        parts = hold_back([taken.sample for taken in samples if taken.name == name], held_back)
        for found, part in zip((learnt, judged), parts, strict=True):
            found += [Taken(name, sample) for sample in part]
    return Data(learnt, judged, tested)


def _drawn(pairs: Mapping[str, Pair], augment: bool, seed: int) -> tuple[Iterator[Taken], list[Taken], tuple[str, ...]]:
    """What is learnt from, sample by sample; what is judged by; and what should be known about it."""
    draws: dict[str, Iterator[Sample]] = {}
    judges: list[Taken] = []
    notes: list[str] = []
    for name, pair in pairs.items():
        more = _more(pair.learnt, pair.teacher, seed, notes) if augment else None
        draws[name] = drawn(pair.learnt, np.random.default_rng(seed), more)
        varied = _more(pair.judged, pair.teacher, seed + 1, []) if more is not None and pair.judged else None
        judges += [Taken(name, sample) for sample in _judges(pair.judged or pair.learnt, varied)]
    return alternating(draws), judges, tuple(dict.fromkeys(notes))


def _judges(given: Sequence[Sample], more: Iterator[Sample] | None) -> list[Sample]:
    """Samples to judge by: those given, or some of them, evenly spread, and new ones."""
    if more is None:
        return [*given]
    some = given[:: -(-len(given) // JUDGES)]
    return [*some, *islice(more, NEW * len(some))]


def _more(learnt: Sequence[Sample], teacher: Program, seed: int, notes: list[str]) -> Iterator[Sample] | None:
    try:
        return endless(learnt, teacher, seed)
    except ConfigError as error:
        notes.append(f"no new samples are made of those given: {error}")
        return None


def _compared(original: Model, model: Model, samples: Sequence[Taken], device: str) -> Verification:
    """How near a model is to the original; of several functions the outputs have the name of theirs before them."""
    names = [*dict.fromkeys(taken.name for taken in samples)]
    found = [
        verify(
            original, model, [taken.sample for taken in samples if taken.name == name], function=name or None,
            device=device,
        )
        for name in names
    ]  # fmt: skip
    if len(found) == 1:
        return found[0]
    rows = tuple(
        replace(row, name=f"{name}/{row.name}") for name, one in zip(names, found, strict=True) for row in one.rows
    )
    notes = tuple(dict.fromkeys(note for one in found for note in one.notes))
    return replace(found[0], rows=rows, samples=len(samples), distinct=None, notes=notes, by_step=(), by_position=())


def _written(small: Model, parts: Parts) -> Model:
    """A copy of the compressed model with what the parts hold now."""
    result = small.copy()
    mine = {(weight.function, weight.output): weight for weight in result.weights()}
    write_ranges(result, (part for part in parts.learning if isinstance(part, Range)))
    for part in parts.learning:
        form = part.module.stored()
        stored: list[Any] = []
        for weight in part.weights:
            store = sharing_store(result, weight.file or DEFAULT_WEIGHT_FILE, stored)
            revalue(mine[weight.function, weight.output], form, store)
    result.skipped = dict(small.skipped)
    result.changed = small.changed | {(w.function, w.output) for part in parts.learning for w in part.weights}
    return result
