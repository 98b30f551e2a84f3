"""`linear_quantize_activations`: activations become 8-bit integers between `quantize` and `dequantize`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from corepress.coreml.activations.finding import RangeOptions, find_ranges, names_of_functions
from corepress.coreml.activations.observers import AUTO, OUTPUT
from corepress.coreml.activations.parts import Ranges
from corepress.coreml.activations.patterns import CORE
from corepress.coreml.config import OptimizationConfig, check_kinds
from corepress.coreml.interop import takes_any_model
from corepress.coreml.op_configs import OpActivationLinearQuantizerConfig, OpLinearQuantizerConfig
from corepress.coreml.rules import PYTHON
from corepress.engine import Progress, silence
from corepress.errors import ConfigError
from corepress.fields import warn_or_raise
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import nodes
from corepress.sequences import Sample

if TYPE_CHECKING:
    from corepress.coreml.activations.exceptions import Found, Goal, Way
    from corepress.coreml.calibrated.judging import Split

log = logging.getLogger(__name__)


@takes_any_model
def linear_quantize_activations(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Iterable[Sample] | Mapping[str, Iterable[Sample]],
    calibration_op_group_size: int = -1,
    *,
    observer: str = "min_max",
    exceptions: Iterable[str] | Literal["auto"] = (),
    min_snr: float | None = None,
    min_cosine: float | None = None,
    bias_correction: bool | None = False,
    equalize: bool | Literal["auto"] = False,
    held_back: float | Iterable[Sample] | None = None,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
) -> Model:
    """Quantize what goes into and comes out of conv, linear, add and pooling operations to 8 bits.

    With `linear_quantize_weights` on the result, these run as W8A8. A model older than iOS17 is raised to it.
    Activations without a finite range are left as they are, with a warning; `skipped` of the model lists them.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: Which operations, by type and name, and how: `OpActivationLinearQuantizerConfig`s.
        sample_data: A list, generator or other iterable of {input name: array of the input's shape and type}, read
            once; for a model of one input the name may be None. All samples count. For a model that keeps a state a
            sample should be a list of such steps, as the app runs them. Of a model with several functions also
            {function: samples}: each gets the ranges of its own.
        calibration_op_group_size: Accepted for compatibility; every activation is observed in a single run.
        observer: How ranges are found: "min_max", "moving_average", "percentile" (99.99 % of the values), "mse"
            (least squared error) or "output" (least error in what the model answers; it takes longer);
            in a search for exceptions also "auto", whichever of "min_max" and "output" is nearer.
        exceptions: Names of operations that go on computing in floating point, with no pair around them; or "auto":
            the smallest set found with which the outputs meet the goal, by real runs on a fifth of the samples that
            ranges do not come from. A skip in `config` differs from it: as in coremltools, what such an operation reads
            is quantized behind the one before it.
        min_snr: The goal of "auto": the least SNR of each output, in dB, against the model as it was loaded, so that
            what was done to its weights before counts.
        min_cosine: The same as a cosine.
        bias_correction: Take back by the biases of conv and linear what rounding shifts in a channel; None, in a search
            for exceptions only: if the outputs are nearer then.
        equalize: Move factors of channels between weights first, so that all channels make use of 8 bits; the answers
            of the model stay the same. Only dense weights can take them: quantize these afterwards. "auto", in a search
            for exceptions only: if the outputs are nearer then.
        held_back: The part of the samples that nothing is learnt from, because exceptions are chosen by them (or were,
            where they are named now); or other samples for that. By default a fifth with "auto", else none.
        function: Of a model with several, the one to calibrate and quantize; by default its default function. Of a
            pipeline all stages that are ML programs are quantized.
        target: Raise the model to this deployment target first, such as "iOS18".
        device: Where PyTorch computes, such as "cpu" or "cuda".
        workers: Its threads.
        progress: Called after each sample with the samples done, of all (0 for a generator), and a text.
        strict: Make an error of a rule in `config` that changes nothing, and of a call that quantizes no activation
            (Missed).

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For samples that do not fit the model.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.experimental.OpActivationLinearQuantizerConfig())
        >>> quantized = cto.coreml.experimental.linear_quantize_activations("model.mlpackage", config, samples)
        >>> weights = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig())
        >>> w8a8 = cto.coreml.linear_quantize_weights(quantized, weights)
        >>> cto.verify("model.mlpackage", w8a8, samples).ok
        True
    """
    return quantized(
        mlmodel, config, sample_data, observer=observer, exceptions=exceptions, min_snr=min_snr, min_cosine=min_cosine,
        bias_correction=bias_correction, equalize=equalize, held_back=held_back, function=function, target=target,
        device=device, workers=workers, progress=progress, strict=strict,
    )[0]  # fmt: skip


def quantized(
    model: Model,
    config: OptimizationConfig,
    sample_data: Iterable[Sample] | Mapping[str, Iterable[Sample]],
    *,
    observer: str = "min_max",
    exceptions: Iterable[str] | Literal["auto"] = (),
    min_snr: float | None = None,
    min_cosine: float | None = None,
    bias_correction: bool | None = False,
    equalize: bool | Literal["auto"] = False,
    held_back: float | Iterable[Sample] | None = None,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    words: Mapping[str, str] = PYTHON,
    goal: Goal | None = None,
    always: Collection[str] = (),
    value_of: Callable[[Model], float] | None = None,
    compress: Callable[[Model], Model] = lambda model: model,
) -> tuple[Model, Found | None]:
    """What `linear_quantize_activations` gives, and with `exceptions="auto"` which operations it left, and why.

    `words`: what the levels of the configuration are called where it was written. `goal`: that of "auto", instead of
    `min_snr` and `min_cosine`; for `always` and `value_of` see `exceptions.find`. `compress`: what is done to the
    weights first, but after channels are equalized.
    """
    config = check_kinds(config, "linear_quantize_activations", OpLinearQuantizerConfig)
    for op_config in config.configs():
        assert isinstance(op_config, OpLinearQuantizerConfig)
        if op_config.nbits != 8:
            raise ConfigError("activations can be int8 or uint8 only: set dtype accordingly")
    goal = goal or _goal(exceptions, observer, bias_correction, equalize, min_snr, min_cosine)
    options = RangeOptions(observer, target, device, workers, progress, strict, words)
    if isinstance(sample_data, Mapping):
        if goal is not None or observer == OUTPUT or bias_correction or equalize or held_back or function is not None:
            raise ConfigError(
                "activations of several functions get the ranges that they have in the samples, and no more: a goal, "
                "ranges by the outputs, equalization, corrected biases, samples held back and a function to choose are "
                "for the samples of one function, in a call for each"
            )
        return _function_by_function(model, config, sample_data, exceptions, options), None
    original, split = model.origin or model, None
    if goal is not None or observer == OUTPUT or bias_correction or equalize or held_back:
        split = _split(model, sample_data, held_back, function, goal is not None)
        sample_data = split.learnt

    def ranges_of(start: Model) -> Ranges:
        return find_ranges(compress(start), config, sample_data, function, options, warns=split is None)

    if split is None:
        ranges = ranges_of(model)
        return ranges.written(_known(exceptions, ranges, strict)), None
    starts: dict[bool, tuple[_Start, Ranges]] = {}
    for start in _starts(model, original, equalize, split, function, device):
        with silence() if starts else contextlib.nullcontext():  # the first one has told what there is to tell
            starts[start.equalized] = start, ranges_of(start.model)

    def ways_of(equalized: bool, observer: str) -> Iterator[Way]:
        start, ranges = starts[equalized]
        return _ways(ranges, start, split, observer, bias_correction, function, device, progress)

    if goal is None:
        (equalized,) = starts
        known = _known(exceptions, starts[equalized][1], strict)
        return next(ways_of(equalized, observer)).written(known, quiet=False), None
    from corepress.coreml.activations.exceptions import find

    # Ranges by the outputs take long, so that they are found for one start only.
    quick = observer if observer not in (OUTPUT, AUTO) else "min_max"

    def refine(way: Way) -> Iterator[Way]:
        yield from ways_of(way.equalized, observer)

    found = find(
        [way for equalized in starts for way in ways_of(equalized, quick)], original, split, goal,
        refine=None if quick == observer else refine, always=always, value_of=value_of, function=function,
        device=device, progress=progress,
    )  # fmt: skip
    return found.way.written(found.names, quiet=False), found


class _Start(NamedTuple):
    """A model to quantize, the one whose products its biases are corrected to, and whether its channels are equalized,
    so that these are not the original's."""

    model: Model
    exact: Model
    equalized: bool


def _starts(
    model: Model, original: Model, equalize: bool | Literal["auto"], split: Split, function: str | None, device: str
) -> Iterator[_Start]:
    """What quantization may begin with."""
    if equalize is not True:
        yield _Start(model, original, False)
    if equalize:
        from corepress.coreml.activations.equalizing import equalized

        result = equalized(model, split.learnt, function, device)
        if result is not None:
            yield _Start(result, result, True)
        elif equalize is True:
            log.warning("equalize has no effect: no dense weights can take factors of channels from each other")
            yield _Start(model, original, False)


def _ways(
    ranges: Ranges,
    start: _Start,
    split: Split,
    observer: str,
    bias_correction: bool | None,
    function: str | None,
    device: str,
    progress: Progress | None,
) -> Iterator[Way]:
    """The ways to quantize that are asked for: several where it is left open which is best."""
    from corepress.coreml.activations.biases import corrected
    from corepress.coreml.activations.exceptions import Way
    from corepress.coreml.activations.narrowing import narrowed

    def finish(result: Model) -> Model:
        return corrected(result, start.exact, split.learnt, function, device)

    known = {} if observer == OUTPUT else {"min_max" if observer == AUTO else observer: ranges}
    if observer in (OUTPUT, AUTO):
        known[OUTPUT] = narrowed(ranges, split.learnt, function, device, progress)
    for name, found in known.items():
        if not bias_correction:
            yield Way(found, name, start.equalized)
        if bias_correction is not False:
            yield Way(found, name, start.equalized, finish)


def _function_by_function(
    model: Model,
    config: OptimizationConfig,
    samples: Mapping[str, Iterable[Sample]],
    exceptions: Iterable[str],
    options: RangeOptions,
) -> Model:
    """The model with the activations of each function quantized to the ranges that they have in its samples."""
    names, operations = set(exceptions), dict[str, str]()
    rules: Collection[str] = names_of_functions(model, samples)  # once for all
    for function, own in samples.items():
        ranges = find_ranges(model, config, own, function, options, rules=rules, warns=True)
        operations |= ranges.operations()
        model, rules = ranges.written(names), ()
    _check_known(names, operations, options.strict)
    return model


def _known(exceptions: Iterable[str], ranges: Ranges, strict: bool) -> set[str]:
    """The exceptions that a caller names; those that change nothing are told."""
    names = set(exceptions)
    _check_known(names, ranges.operations(), strict)
    return names


def _check_known(names: set[str], operations: Mapping[str, str], strict: bool) -> None:
    idle = [
        f'exceptions: "{name}" is no operation whose activations would be quantized.'
        for name in sorted(names.difference(operations))
    ]
    warn_or_raise(idle, log, strict)


def _goal(
    exceptions: Iterable[str] | Literal["auto"],
    observer: str,
    bias_correction: bool | None,
    equalize: bool | Literal["auto"],
    min_snr: float | None,
    min_cosine: float | None,
) -> Goal | None:
    """What the exceptions are searched by, if they are."""
    if exceptions == "auto":
        from corepress.coreml.activations.exceptions import goal_of

        return goal_of(min_snr, min_cosine)
    if isinstance(exceptions, str):
        raise ConfigError(f'exceptions must be "auto" or a list of names of operations, not {exceptions!r}')
    if observer == AUTO:
        raise ConfigError(
            "the observer auto needs a search for exceptions, which measures what is nearer: give another one"
        )
    if bias_correction is None:
        raise ConfigError("bias_correction=None needs a search for exceptions, which measures if it helps: say which")
    if equalize == AUTO:
        raise ConfigError("equalize: auto needs a search for exceptions, which measures what is nearer")
    for name, goal in (("min_snr", min_snr), ("min_cosine", min_cosine)):
        if goal is not None:
            raise ConfigError(f"{name} has no effect here: it is the goal of a search for exceptions (auto)")
    return None


def _split(
    model: Model,
    samples: Iterable[Sample],
    held_back: float | Iterable[Sample] | None,
    function: str | None,
    judged: bool,
) -> Split:
    """The samples that ranges come from, and those that exceptions are chosen by (`judged`), by default a fifth."""
    from corepress.coreml.calibrated.judging import Split, split_of
    from corepress.split import HELD_BACK, hold_back

    if held_back is None:
        held_back = HELD_BACK if judged else 0.0
    if isinstance(held_back, int | float):
        given = split_of(model, samples, 0.0, function).learnt
        split = Split(*hold_back(given, held_back))
    else:
        split = split_of(model, samples, held_back, function)
    if judged and not split.judged:
        log.warning(
            "no samples are held back (of fewer than five different ones none can be): exceptions are chosen by those "
            "that ranges come from, which is weak evidence"
        )
        return Split(split.learnt, split.learnt)
    return split


def as_for_weights(config: OptimizationConfig, model: Model, mode: Any = None) -> OptimizationConfig:
    """How activations are quantized beside weights that are quantized as `config` says: with the same modes (or another
    `mode`), signs and exceptions by type and name, in 8 bits. Rules that no operation with activations to quantize
    matches are left out: they are for weights."""

    def as_activations(held: Any) -> OpActivationLinearQuantizerConfig | None:
        if held is None:
            return None
        return OpActivationLinearQuantizerConfig(mode=mode or held.mode, dtype="int8" if held.dtype.signed else "uint8")

    names = {node.name for node in nodes(model.spec) if node.type in CORE}
    return OptimizationConfig(
        as_activations(config.global_config),
        {kind: as_activations(held) for kind, held in config.op_type_configs.items() if kind in CORE},
        {
            name: as_activations(held)
            for name, held in config.op_name_configs.items()
            if any(other == name or fnmatchcase(other, name) for other in names)
        },
    )
