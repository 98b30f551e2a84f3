"""Several packages of one model side by side: size, quality, what runs them, and what is known of their forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.errors import ConfigError
from corepress.json_numbers import plain
from corepress.linting import lint
from corepress.metrics import METRICS, Row, limit_of, worst
from corepress.reports.rows import AnyModel, report
from corepress.sizes import size
from corepress.verification.compare import Data, verify

if TYPE_CHECKING:
    from rich.table import Table

_SHORT = {"top1": "top-1"}  # in the title of a column, for the sake of a narrow terminal


@dataclass(frozen=True)
class Compared:
    """One of several models that are compared.

    Args:
        name: Of its file; of a model in memory its number.
        size: Bytes of the whole model.
        bits_per_weight: Stored bits for each element, over all weights.
        target: The oldest system that it runs on.
        outputs: How each output compares with the original's; empty for the original itself.
        hazards: The rules of `corepress.lint` that apply, with the number of places.

    Examples:
        >>> original, small = cto.compare(["model.mlpackage", "small.mlpackage"], "samples.npz").models
        >>> original.outputs, small.hazards
        ((), {'lut4-per-tensor': 4})
    """

    name: str
    size: int
    bits_per_weight: float
    target: str
    outputs: tuple[Row, ...]
    hazards: dict[str, int]

    def worst(self, metric: str) -> float | None:
        """The value of a metric at the worst output; None of the original, and where no output has it."""
        return worst(self.outputs, metric)


@dataclass(frozen=True)
class Comparison:
    """How several models of one compare with the first of them. `compare` makes it.

    Args:
        models: The original first, the others in the order in which they were given.
        metric: The one that the page draws by.
        samples: How many inputs.
        random_inputs: Whether these were random, so that good numbers prove little.
        notes: What makes the evidence weaker.

    Examples:
        >>> result = cto.compare(["model.mlpackage", "small.mlpackage"], "samples.npz")
        >>> [one.name for one in result.models], result.samples
        (['model.mlpackage', 'small.mlpackage'], 20)
    """

    models: tuple[Compared, ...]
    metric: str
    samples: int
    random_inputs: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        original, *others = self.models
        label, unit, *_ = METRICS[self.metric]
        lines = [f"{original.name}: {size(original.size)}"]
        lines += [
            f"{one.name}: {size(one.size)}, {label} {_cell(self.metric, one.worst(self.metric))}{unit}"
            for one in others
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "metric": self.metric,
            "samples": self.samples,
            "random_inputs": self.random_inputs,
            "notes": list(self.notes),
            "models": [
                {**asdict(one), "outputs": [plain(asdict(row)) for row in one.outputs]} for one in self.models
            ],
        }  # fmt: skip

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table, a row for each model."""
        from corepress.tables import NamesTable

        metrics = shown_metrics(self)
        titles = [_SHORT.get(metric, METRICS[metric].label) + METRICS[metric].unit for metric in metrics]
        table = NamesTable(
            *("model", "size", "bits/weight", *titles, "system", "hazards"),
            lesser=("system", "bits/weight"), sentences=("hazards",),
        )  # fmt: skip
        for number, one in enumerate(self.models):
            values = ["" if number == 0 else _cell(metric, one.worst(metric)) for metric in metrics]
            hazards = ", ".join(one.hazards)
            table.add_row(one.name, f"{one.size:,}", f"{one.bits_per_weight:.2f}", *values, one.target, hazards)
        return table


def shown_metrics(comparison: Comparison) -> list[str]:
    """The metrics of a table: what decides, SNR and cosine, and top-1 agreement where there is one."""
    wanted = dict.fromkeys((comparison.metric, "snr", "cosine", "top1"))
    return [metric for metric in wanted if any(one.worst(metric) is not None for one in comparison.models)]


def compare(
    models: Sequence[AnyModel],
    data: Data | None = None,
    *,
    metric: str = "snr",
    samples: int = 4,
    seed: int = 0,
    device: str = "cpu",
    function: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Compare several models with the one that they were made of, on the same inputs.

    Args:
        models: The original first, then what was made of it: paths, `corepress.Model` or
            `corepress.neural_network.Model`. At least two.
        data: Inputs, as `corepress.verify` takes them; without, random ones, which is weak evidence.
        metric: The one to draw by, as in `corepress.verify`.
        samples: How many random inputs, without `data`.
        seed: Of the random inputs.
        device: Where PyTorch computes.
        function: Of models with several, the one to run.
        progress: Called after each model with the number done, of all, and its name.

    Returns:
        For each model its size, its bits, how its outputs compare with the original's, and hazards.

    Raises:
        ConfigError: For fewer than two models.
        CorepressError: Where the models can't be run or compared.

    Examples:
        >>> result = cto.compare(["model.mlpackage", "small.mlpackage"], "samples.npz")
        >>> [one.size < 500_000 for one in result.models], round(result.models[1].worst("snr"))
        ([True, True], 27)
    """
    limit_of(metric)
    if isinstance(models, str | Path) or len(models) < 2:
        raise ConfigError("models must be two or more: the original, and what was made of it")
    from corepress.runtime.load import opened

    given = data if data is None or isinstance(data, str | Path) else _kept(data)
    original, *others = map(opened, models)
    names = _names(models)
    results = []
    for done, other in enumerate(others, 1):
        results.append(
            verify(original, other, given, metric=metric, samples=samples, seed=seed, device=device, function=function)
        )
        if progress is not None:
            progress(done, len(others), names[done])
    outputs = [(), *(result.rows for result in results)]
    compared = tuple(map(_compared, names, (original, *others), outputs))
    notes = tuple(dict.fromkeys(note for result in results for note in result.notes))
    return Comparison(compared, metric, results[0].samples, results[0].weak, notes)


def _names(models: Sequence[AnyModel]) -> list[str]:
    """Of files their names, or their paths where these would be the same; of models in memory their numbers."""
    paths = [Path(model) if isinstance(model, str | Path) else None for model in models]
    short = [path and path.name for path in paths]
    whole = len(set(short)) < len(short)
    return [
        f"model {number}" if path is None else str(path) if whole else path.name for number, path in enumerate(paths, 1)
    ]


def _kept(data: Any) -> list[Mapping[str, Any]]:
    """Samples that are read once for each model."""
    return [data] if isinstance(data, Mapping) else [dict(sample) for sample in data]


def _compared(name: str, model: Any, outputs: tuple[Row, ...]) -> Compared:
    facts = report(model, snr=False)
    hazards = {rule.id: len(items) for rule, items in lint(model).by_rule().items()}
    return Compared(name, facts.size_after, facts.bits_per_weight, facts.target, outputs, hazards)


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if METRICS[metric].unit == " dB" else f"{value:.5f}"
