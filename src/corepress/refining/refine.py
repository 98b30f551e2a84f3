"""`corepress.refine`: a compressed model learns to answer as its original does, and keeps its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from corepress.augmenting.augment import endless
from corepress.coreml.interop import as_model, to_mlmodel
from corepress.coreml.rewrite import sharing_store
from corepress.engine import Progress
from corepress.errors import ConfigError, UnsupportedError
from corepress.formats.handed import handed
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.model import DEFAULT_WEIGHT_FILE
from corepress.formats.mlprogram.revalue import revalue
from corepress.peer import is_mlmodel
from corepress.refining.cuts import cuts
from corepress.refining.ranges import Range, ranges_of
from corepress.refining.ranges import write as write_ranges
from corepress.refining.result import Refinement
from corepress.refining.student import Batched, Parts, check_same, parts_of
from corepress.refining.training import drawn
from corepress.refining.whole import Subject, refined, settings_of, split
from corepress.runtime import Program, load
from corepress.runtime.samples import checked, read_samples
from corepress.sequences import Sample, each_step, only_single_steps
from corepress.split import HELD_BACK
from corepress.verification import verify

Data = Iterable[Sample] | str | Path

BATCH = 16
# So many new samples, made of those held back, are judged by besides: a method that was fitted to all samples knows
# those held back here, too, and only new ones tell what it makes of others.
VARIED = 32


def refine(
    original: Any,
    small: Any,
    sample_data: Data,
    *,
    test_data: Data | None = None,
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
            for `verify`; or the path of an .npz, an image or a folder.
        test_data: Other samples to measure on at the end; without them it is on those held back.
        steps: So many steps; by default 400, or with `time` as many as it allows.
        time: When it ends, in seconds or such as "10m", with the rates falling in time.
        batch: Samples in a step.
        augment: Whether half of what is learnt from are new samples that `corepress.augment` makes; the teacher says
            what the answers to them are.
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
        UnsupportedError: For pipelines.
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
    teacher, student = (_program(model, device, function) for model in (exact, given))
    check_same(teacher, student, given.path)
    samples = _read(sample_data, teacher, "sample_data")
    tested = None if test_data is None else _read(test_data, teacher, "test_data")
    ranges, still = ranges_of(given, student)
    weights = parts_of(exact, given, student)
    parts = Parts((*weights.learning, *ranges), {**weights.frozen, **still})
    if not parts.frozen and not any(isinstance(part, Range) or part.compressed for part in parts.learning):
        raise ConfigError(f"{given.path}: nothing of it is compressed, so that there is nothing to refine")
    data = split(samples, tested, held_back)
    notes: list[str] = []
    more = _more(data.learnt, teacher, seed, notes) if augment else None
    draw = drawn(data.learnt, np.random.default_rng(seed), more)
    varied = _more(data.judged, teacher, seed + 1, []) if more is not None and data.judged else None
    new = [] if varied is None else islice(varied, min(len(data.judged), VARIED))
    known = teacher.kinds()
    buffers = {buffer for part in weights.learning for buffer in part.buffers}
    names = [name for name in cuts(student.module.plan, buffers) if name in known]
    subject = Subject(
        Batched(teacher, names),
        Batched(student, names),
        parts,
        same=given.copy,
        written=lambda: _written(given, parts),
        compare=lambda model, samples: verify(exact, model, samples, function=function, device=device),
        returned=lambda model: to_mlmodel(model, small) if is_mlmodel(small) else model,
    )
    return refined(
        subject, data, settings, draw, [*(data.judged or data.learnt), *new], resume=resume, progress=progress,
        asked=lambda: {"settings": repr(asked), "original": _digest(exact), "compressed model": _digest(given)},
        notes=notes,
    )  # fmt: skip


def _digest(model: Model) -> str:
    with handed(model) as held:
        return held.digest()


def _program(model: Model, device: str, function: str | None) -> Program:
    program = load(model, device, precision="float32", function=function)
    if not isinstance(program, Program):
        raise UnsupportedError(f"{model.path}: a pipeline can't be refined as a whole; refine the models that it is of")
    return program


def _read(data: Data, program: Program, what: str) -> list[Sample]:
    """Samples, all of which are finite; ConfigError for those that do not fit, and where there are none."""
    given: Any = data
    if isinstance(data, Mapping):
        raise ConfigError(f"{what}: a refinement learns from samples of one function, and these are of several")
    if isinstance(data, str | Path):
        given, what = read_samples(data, program.interface), str(data)
    return list(checked(given, program.interface, what, finite=True, warns=True))


def _more(learnt: Sequence[Sample], teacher: Program, seed: int, notes: list[str]) -> Iterator[Sample] | None:
    if not only_single_steps(learnt):
        notes.append("no new samples are made of sequences")
        return None
    try:
        return endless([*each_step(learnt)], teacher, seed)
    except ConfigError as error:
        notes.append(f"no new samples are made of those given: {error}")
        return None


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
