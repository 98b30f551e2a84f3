"""`verify`: run a model and what was made of it on the same inputs, and measure how far the answers are apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.mlprogram import Model

if TYPE_CHECKING:
    from rich.table import Table

    from corepress.neural_network import Model as Networks
    from corepress.runtime import Program

Data = Iterable[Mapping[str, Any]] | str | Path

# For each metric its name and unit for people, and the threshold when none is given; all but max_abs are minima.
METRICS: dict[str, tuple[str, str, float]] = {
    "snr": ("SNR", " dB", 20.0),
    "cosine": ("cosine", "", 0.99),
    "psnr": ("PSNR", " dB", 20.0),
    "top1": ("top-1 agreement", "", 0.97),
    "max_abs": ("largest difference", "", 0.1),
}
OPERATION_SNR = 20.0


@dataclass(frozen=True)
class Row:
    """One value of the program in both models, over all samples. `kind`: the operation that computes it.

    `snr`, `psnr`: in dB, infinite where nothing differs, minus infinity where only one model gives finite numbers;
    NaN where neither does. Metrics that make no sense are None: all but `top1` of a label, `top1` of a single number.
    """

    name: str
    kind: str = ""
    snr: float | None = None
    cosine: float | None = None
    psnr: float | None = None
    top1: float | None = None
    max_abs: float | None = None


@dataclass(frozen=True)
class Verification:
    """How two models compare: `rows` for the outputs, `operations` for all values in program order, when asked for.

    `weak`: the inputs were random, so that good numbers prove little.
    """

    rows: tuple[Row, ...]
    operations: tuple[Row, ...]
    metric: str
    threshold: float
    samples: int
    weak: bool

    @property
    def failed(self) -> tuple[Row, ...]:
        """The outputs that miss the threshold."""
        return tuple(row for row in self._judged if not _meets(row, self.metric, self.threshold))

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def worst(self) -> Row:
        """The output with the worst value of the metric."""
        sign = -1 if self.metric == "max_abs" else 1
        return min(self._judged, key=lambda row: _order(sign * getattr(row, self.metric)))

    @property
    def first_wrong(self) -> Row | None:
        """The first operation, in program order, whose SNR is below 20 dB."""
        return next((row for row in self.operations if row.snr is not None and row.snr < OPERATION_SNR), None)

    @property
    def summary(self) -> str:
        """The verdict in a sentence or two."""
        label, unit, _ = METRICS[self.metric]
        worst = self.worst
        limit = "above" if self.metric == "max_abs" else "below"
        text = f"output {worst.name!r}: {label} {getattr(worst, self.metric):.4g}{unit}, "
        text += f"not {limit} {self.threshold:g}{unit}" if self.ok else f"{limit} {self.threshold:g}{unit}"
        text += f", on {self.samples} sample{'s' if self.samples != 1 else ''}"
        if (wrong := self.first_wrong) is not None:
            text += f"; the first below {OPERATION_SNR:g} dB is {wrong.kind} {wrong.name!r} ({wrong.snr:.1f} dB)"
        return text + ("; random inputs are weak evidence, give real ones (--data)" if self.weak else "")

    @property
    def _judged(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if getattr(row, self.metric) is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: numbers that are not finite become the words "inf", "-inf" and "nan"."""
        wrong = self.first_wrong
        return {
            "ok": self.ok,
            "metric": self.metric,
            "threshold": self.threshold,
            "samples": self.samples,
            "random_inputs": self.weak,
            "summary": self.summary,
            "outputs": [_plain(row) for row in self.rows],
            "operations": [_plain(row) for row in self.operations],
            "first_wrong": None if wrong is None else wrong.name,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table of the outputs, after the operations if these were compared."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("value", "computed by", "SNR dB", "PSNR dB", "cosine", "top-1", "max difference")
        for row in (*self.operations, *self.rows):
            cells = (_cell(row.snr, ".1f"), _cell(row.psnr, ".1f"), _cell(row.cosine, ".5f"), _cell(row.top1, ".3f"))
            table.add_row(escape(row.name), row.kind or "[bold]output[/]", *cells, _cell(row.max_abs, ".4g"))
        return table


def verify(
    original: str | Path | Model | Networks,
    compressed: str | Path | Model | Networks,
    data: Data | None = None,
    *,
    metric: str = "snr",
    threshold: float | None = None,
    per_op: bool = False,
    samples: int = 4,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    function: str | None = None,
) -> Verification:
    """Run both models on the same inputs and compare what they answer.

    `data`: inputs by name, as an iterable of dicts; or a path that `corepress.runtime.samples.read_samples` reads;
    without it `samples` random ones. `metric`, `threshold`: what decides `ok`, "snr", "cosine", "psnr", "top1" or
    "max_abs". `per_op`: compare every value that has the same name in both, which holds all values of one sample in
    memory. A stateful model starts each sample with a fresh state. Raises CorepressError where the models can't be run
    or compared.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    if data is None and samples < 1:
        raise ConfigError(f"samples must be at least 1, not {samples}")
    from corepress import runtime

    one, other = (
        runtime.load(source, device, precision=precision, function=function) for source in (original, compressed)
    )
    _check_outputs(one, other)
    outputs: dict[str, _Sums] = {feature.name: _Sums() for feature in one.interface.outputs}
    values: dict[str, _Sums] = {}
    count = 0
    for inputs in _inputs(one, data, seed, samples):
        expected, found = _run(one, other, inputs, values) if per_op else _run(one, other, inputs)
        for name, sums in outputs.items():
            sums.add_output(name, expected[name], found[name])
        count += 1
    if not count:
        raise ConfigError("the data holds no samples")
    rows = tuple(sums.row(name) for name, sums in outputs.items())
    if all(getattr(row, metric) is None for row in rows):
        raise ConfigError(f"no output of this model has the metric {metric}; choose another one, such as top1 or snr")
    kinds = _kinds(one.module.plan) if per_op else {}
    operations = tuple(replace(sums.row(name), kind=kinds.get(name, "")) for name, sums in values.items())
    limit = METRICS[metric][2] if threshold is None else threshold
    return Verification(rows, operations, metric, limit, count, data is None)


def _check_outputs(one: Program, other: Program) -> None:
    names, others = ({feature.name for feature in program.interface.outputs} for program in (one, other))
    if names != others:
        raise ConfigError(
            f"the models have different outputs: {', '.join(sorted(names))} and {', '.join(sorted(others))}"
        )


def _inputs(program: Program, data: Data | None, seed: int, count: int) -> Iterable[Mapping[str, Any]]:
    from corepress.runtime.samples import random_inputs, read_samples

    if data is None:
        return random_inputs(program.interface, seed, count)
    if isinstance(data, str | Path):
        return read_samples(data, program.interface)
    return [data] if isinstance(data, Mapping) else data


def _run(
    one: Program, other: Program, inputs: Mapping[str, Any], values: dict[str, _Sums] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outputs of both; with `values`, what is computed on the way is compared, too."""
    if values is None:
        return one.predict(inputs, one.make_state()), other.predict(inputs, other.make_state())
    # A loop computes a name many times: each round is compared with the same round.
    seen: dict[str, list[Any]] = {}
    expected = one.predict(inputs, one.make_state(), lambda name, value: seen.setdefault(name, []).append(value))

    def compare(name: str, value: Any) -> None:
        earlier = seen.get(name)
        before, now = _numbers(earlier.pop(0) if earlier else None), _numbers(value)
        if before is not None and now is not None and before.shape == now.shape:
            values.setdefault(name, _Sums()).add(before, now)

    return expected, other.predict(inputs, other.make_state(), compare)


def _kinds(block: Any) -> dict[str, str]:
    """The operation that computes each value of a plan, nested blocks included."""
    kinds: dict[str, str] = {}
    for step in block.steps:
        kinds |= dict.fromkeys(step.outputs, step.kind)
        for inner in step.blocks:
            kinds |= dict.fromkeys(inner.inputs, step.kind) | _kinds(inner)
    return kinds


def _numbers(value: Any) -> NDArray[Any] | None:
    """An array, a tensor or an image as float64; None for text, lists and others."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    known = isinstance(value, np.ndarray | np.generic | float | int) or hasattr(value, "__array_interface__")
    array = np.asarray(value) if known else None
    return None if array is None or array.dtype.kind not in "biuf" else array.astype(np.float64)


@dataclass
class _Sums:
    """What the metrics of one value need, summed over samples."""

    elements: int = 0
    compared: int = 0
    broken: bool = False
    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    peak: float = 0.0
    max_abs: float = 0.0
    agreed: int = 0
    choices: int = 0

    def add(self, before: NDArray[Any], now: NDArray[Any]) -> None:
        """Count one pair of arrays. Where both hold the same infinity or NaN they agree, and are left out."""
        finite = np.isfinite(before) & np.isfinite(now)
        alike = (before == now) | (np.isnan(before) & np.isnan(now))
        self.broken |= bool((~finite & ~alike).any())
        one, other = before[finite], now[finite]
        difference = one - other
        self.elements += before.size
        self.compared += one.size
        self.signal += float(one @ one)
        self.other += float(other @ other)
        self.noise += float(difference @ difference)
        self.dot += float(one @ other)
        self.peak = max(self.peak, float(np.abs(one).max(initial=0)))
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0)))
        if before.size and before.ndim and before.shape[-1] > 1:
            picked = before.argmax(-1) == now.argmax(-1)
            self.agreed += int(picked.sum())
            self.choices += picked.size

    def add_output(self, name: str, before: Any, now: Any) -> None:
        """Count one pair of outputs as `predict` gives them: arrays, numbers, labels, probabilities by label."""
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if before.keys() != now.keys():
                raise ConfigError(f"output {name!r} has different labels in the two models")
            before, now = (np.array([value[key] for key in before], np.float64) for value in (before, now))
        one, other = _numbers(before), _numbers(now)
        if one is None or other is None:
            self.agreed += bool(before == now)
            self.choices += 1
        elif one.shape != other.shape:
            raise ConfigError(f"output {name!r} has the shapes {one.shape} and {other.shape} in the two models")
        else:
            self.add(one, other)

    def row(self, name: str) -> Row:
        top1 = self.agreed / self.choices if self.choices else None
        if not self.elements:
            return Row(name, top1=top1)
        if self.broken or not self.compared:
            ratio = -math.inf if self.broken else math.nan
            return Row(name, "", ratio, math.nan, ratio, top1, math.inf if self.broken else math.nan)
        snr = _decibels(self.signal, self.noise)
        psnr = _decibels(self.peak**2, self.noise / self.compared)
        return Row(name, "", snr, self._cosine(), psnr, top1, self.max_abs)

    def _cosine(self) -> float:
        if not self.noise:
            return 1.0
        lengths = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.dot / lengths if lengths else 0.0


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _meets(row: Row, metric: str, threshold: float) -> bool:
    # Written so that NaN never passes.
    value: float = getattr(row, metric)
    return value <= threshold if metric == "max_abs" else value >= threshold


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _plain(row: Row) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(row).items()
    }


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
