"""`corepress.search`: from a model, data and a goal to the model that meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corepress.coreml.interop import as_model
from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.formats.handed import Files, Handed, handed, opened
from corepress.formats.kinds import leaves
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.neural_network.interop import as_model as network_of
from corepress.peer import is_mlmodel
from corepress.refining.options import at_last
from corepress.runtime.load import interface as interface_of
from corepress.runtime.samples import checked, read_samples
from corepress.searching.activations import with_activations
from corepress.searching.candidates import FORMS, MIN_GROUP
from corepress.searching.goals import PERFECT, Goal, goal_of
from corepress.searching.loop import Settings
from corepress.searching.networks import FORMS as NETWORK_FORMS
from corepress.searching.networks import NetworkSubject
from corepress.searching.packages import PackageSubject
from corepress.searching.quality import Metric, check_metric, name_of
from corepress.searching.refined import refined
from corepress.searching.result import Result
from corepress.searching.run import Elsewhere, Split, Ways, parted, searched
from corepress.searching.subject import Subject
from corepress.searching.workers import Plan
from corepress.sequences import ALONE, Sample, only_single_steps
from corepress.threads import CORES

Data = Iterable[Sample] | str | Path


def search(
    model: Any,
    data: Data,
    *,
    max_size: int | str | None = None,
    bits: float | None = None,
    min_snr: float | None = None,
    min_cosine: float | None = None,
    max_drop: float | None = None,
    metric: Metric | str | None = None,
    test_data: Data | None = None,
    target: Any = None,
    forms: Sequence[str] = FORMS,
    min_group: int = MIN_GROUP,
    points: int = 12,
    method: str = "plain",
    augment: int = 0,
    cost: str = "size",
    safe: bool = False,
    activations: bool = False,
    activation_loss: float | None = None,
    refine: int | str | None = None,
    function: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    workers: int | None = None,
    jobs: int = 1,
    ray: str | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find for each weight the form with which the model fits a size, or keeps its answers, best.

    Give one goal: `max_size`, `bits`, `min_snr`, `min_cosine` or `max_drop`. The damage of each form in the outputs is
    predicted from gradients (`corepress.searching.damage`), forms are chosen exactly under the budget
    (`corepress.searching.allotment`), the result is run, and the choice is made again with what that taught.

    Args:
        model: A path, a `corepress.Model`, a `corepress.neural_network.Model` or an `MLModel` of coremltools; it stays
            as it is.
        data: Samples, as for `verify`: an iterable of {input name: array}, or the path of an .npz, an image or a
            folder. Four fifths are learnt from, a tenth is chosen by, and a tenth is kept for the final number.
        max_size: Bytes that the whole package may have: a number, or such as "10MB" (10,000,000 bytes). It is never
            exceeded.
        bits: Stored bits for each element of the weights that can be compressed.
        min_snr: The least SNR of the outputs, in dB.
        min_cosine: The least cosine of the outputs, from -1 to 1.
        max_drop: How much of `metric` may be lost.
        metric: A function of the outputs for a sample, by name, and the sample, of which the mean counts; or of the
            loaded model (`corepress.runtime.Program`) alone. More is better. (For a sequence of steps both are tuples.)
            Or "kl", "perplexity" or "top1", as `verify` has them; these may lose `max_drop` of 0, 1 and 1.
        test_data: Other samples for the final number; then a fifth of `data` is chosen by.
        target: Raise the model to this system first, such as "iOS18".
        forms: Some of "palettized", "quantized", "sparse", "joint" (the values of a sparse weight palettized or
            quantized) and, only where it is named, "outliers" (tables for all values but the largest 0.5 %, which a
            second product adds). A weight may stay dense, too; those of networks have the first two, and float16.
        min_group: The fewest channels that may share a look-up table: smaller groups are known to be slow on phones.
        points: How many models of the front are measured.
        method: "plain", or "fitted": what is made learns from the samples (lut-gptq, gptq, sparsegpt), which takes
            longer.
        augment: With `method="fitted"`: how many samples are made of those to learn from, to learn from besides
            (`corepress.augment`).
        cost: "size", or "speed": forms that are known to be slow on phones count as more bytes in the choice.
        safe: Leave out forms that devices are reported to get wrong, or to be slow with: see `corepress.lint`.
        activations: Quantize activations to 8 bits, too, in as many operations of a package as the goal allows; a goal
            that is a quality holds for the whole. Weights that these multiply by get integers, or stay dense.
        activation_loss: With `activations`: what they may cost, in dB of the outputs' SNR; with a quality as the goal,
            weights leave so much of it. By default what they are measured to cost, and at most 3 dB, half of the noise;
            with a size 3 dB.
        refine: At last the chosen model learns from the samples to answer as the original does (`corepress.refine`) and
            keeps its size: so many steps, or for a time, such as "10m". For packages.
        function: Of a model with several, the one that the samples are for.
        device: Where PyTorch computes, such as "cpu" or "cuda".
        seed: Of the random signs in the prediction. The same seed gives the same result.
        workers: Threads; by default one for each core.
        jobs: Processes that measure models; above 1, each loads the model by itself.
        ray: The address of a Ray cluster whose machines measure instead, as `ray.init` takes it: "auto", "local",
            HOST:PORT or ray://HOST:PORT. Each needs the same version of corepress.
        resume: A folder in which the search keeps what it measured, so that the same call goes on after it was
            stopped or killed, and comes to the same result.
        progress: Called with the steps done, of all, and the name of the stage.

    Returns:
        The chosen model, the front of sizes and qualities, and the recipe of each.

    Raises:
        ConfigError: For a goal that makes no sense or can't be had, with the least that can; for samples that do not
            fit; for a metric that raises or gives no finite number.
        MissingDependencyError: Without PyTorch; with `ray`, without Ray.
        ResourceError: If a process or the cluster is lost.
        KeyboardInterrupt: Where Ctrl-C ends the search; its `result`, if there is one, holds the best until then.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, max_size="100kB")
        >>> found.model.save("small_enough.mlpackage").size() <= 100_000
        True
        >>> found.save_recipe("small_enough.yaml")
    """
    ours, metric = (metric, None) if isinstance(metric, str) else (None, metric)
    if ours is not None and ours not in PERFECT:
        raise ConfigError(f"metric={ours!r}: it must be a function, or one of {', '.join(PERFECT)}")
    if ours is not None and activations:
        raise ConfigError(f'metric="{ours}" can\'t be searched by with activations=True: give min_snr or min_cosine')
    name = ours or name_of(metric)
    has_metric = ours is not None or metric is not None
    goal = goal_of(max_size, bits, min_snr, min_cosine, max_drop, name, has_metric, ours=ours is not None)
    check_words(method, cost, points)
    if augment < 0:
        raise ConfigError(f"augment={augment}: it must be 0 or more")
    if augment and method != "fitted":
        raise ConfigError(f'augment={augment} has no effect without method="fitted"')
    if activation_loss is not None and not activations:
        raise ConfigError(f"activation_loss={activation_loss} has no effect without activations=True")
    how = None if refine is None else at_last(refine, function)
    source = _opened(model)
    if isinstance(source, Model):
        # Ranges of activations are learnt from samples, too.
        fits = method == "fitted" or activations or how is not None
        split = split_of(source, data, test_data, function, fits=fits)
        learnt = split.learnt if method == "fitted" else None
        keywords: dict[str, Any] = {"target": target, "forms": forms, "min_group": min_group, "safe": safe}
        keywords |= {"learnt": learnt, "augment": augment, "activations": activations}
        keywords |= {"function": function, "device": device}
    else:
        given = {"target": target, "function": function, "safe": safe}
        given |= {
            "method": method != "plain",
            "min_group": min_group != MIN_GROUP,
            "activations": activations,
            "refine": refine,
        }
        if unused := [word for word, value in given.items() if value]:
            raise ConfigError(f'"{unused[0]}" is for ML programs, and the model is a neural network')
        split = split_of(source, data, test_data, None)
        keywords = {"forms": NETWORK_FORMS if tuple(forms) == FORMS else forms, "device": device}
    kind: Callable[..., Subject] = PackageSubject if isinstance(source, Model) else NetworkSubject
    subject = kind(source, **keywords, workers=workers)
    if ours is not None:
        check_metric(subject, split.chosen_by[0], ours)
    if interface_of(source, function).states and only_single_steps([*split.learnt, *split.chosen_by]):
        split = split._replace(notes=(*split.notes, ALONE))
    with handed(source) as held:

        def of_weights(goal: Goal) -> Result:
            return searched(
                subject, split, goal, Settings(points, seed, workers, cost == "speed"),
                elsewhere(held, kind, keywords, jobs), metric=metric, name=name,
                ways=Ways(jobs, ray, resume), progress=progress,
            )  # fmt: skip

        if not isinstance(subject, PackageSubject):
            return of_weights(goal)
        told: dict[str, Any] = {"metric": metric, "name": name, "progress": progress}
        found = (
            with_activations(of_weights, subject, split, goal, activation_loss, **told)
            if activations
            else of_weights(goal)
        )
        return found if how is None else refined(found, subject, split, how, resume=resume, **told)


def _opened(model: Any) -> Model | Networks:
    if isinstance(model, str | Path):
        found: Model | Networks = opened(Path(model))
        return found
    if isinstance(model, Networks) or (is_mlmodel(model) and "mlProgram" not in leaves(model.get_spec())):
        return network_of(model)
    return as_model(model)


def elsewhere(held: Handed, kind: Callable[..., Any], keywords: Mapping[str, Any], jobs: int) -> Elsewhere:
    """How other processes build the subject of a model of Core ML, with these arguments."""

    def plan(on_another_machine: bool) -> Plan:
        workers = 1 if on_another_machine else max(1, CORES // jobs)
        source = held.files() if on_another_machine else held.path
        return Plan(_subject, (kind, source, {**keywords, "workers": workers}))

    def identity() -> str:
        described = {**keywords, "learnt": keywords.get("learnt") is not None}  # the samples count as data
        return f"{held.digest()} {described}"

    return Elsewhere(plan, identity)


def _subject(kind: Callable[..., Any], source: Path | Files, keywords: Mapping[str, Any]) -> Any:
    return kind(opened(source), **keywords)


def check_words(method: str, cost: str, points: int) -> None:
    if method not in ("plain", "fitted"):
        raise ConfigError(f'method={method!r}: it must be "plain" or "fitted"')
    if cost not in ("size", "speed"):
        raise ConfigError(f'cost={cost!r}: it must be "size" or "speed"')
    if points < 1:
        raise ConfigError(f"points={points}: at least 1 is needed")


def split_of(model: Any, data: Data, test_data: Data | None, function: str | None, *, fits: bool = False) -> Split:
    """The samples of a caller, checked and split. Raises ConfigError for too few, and for those that do not fit."""
    interface = interface_of(model, function)

    def samples(given: Data, what: str) -> list[Sample]:
        if isinstance(given, str | Path):
            return list(checked(read_samples(given, interface), interface, str(given), finite=True))
        return list(checked(given, interface, what, finite=True))

    tested = None if test_data is None else samples(test_data, "test_data")
    return parted(samples(data, "data"), tested, fits=fits)
