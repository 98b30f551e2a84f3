"""What a search found: a front of points, each with its size, its quality and its recipe; one of them is chosen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.json_numbers import plain
from corepress.metrics import METRICS, worded
from corepress.searching.goals import meets

if TYPE_CHECKING:
    from rich.table import Table

    from corepress.refining.result import Refinement


@dataclass(frozen=True)
class Chosen:
    """What one weight got.

    Args:
        name: Of the weight.
        shape: Its shape.
        kind: The operation that reads it.
        form: The form in words, such as "palettized 4 bits, groups of 16".
        bits: Stored bits for each element.
        bytes: Stored bytes.
        damage: The predicted part of the outputs' energy that this form turns into noise.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, max_size="100kB")
        >>> found.chosen.weights[0].name
        'conv2_weight_to_fp16'
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    form: str
    bits: float
    bytes: int
    damage: float


@dataclass(frozen=True)
class Point:
    """One model of the front.

    Args:
        size: Bytes of the whole model.
        bits: Stored bits for each element of the weights that can be compressed. (Reports count all weights.)
        quality: What was measured against the original, by metric; on samples that choosing saw.
        recipe: The steps that make it, as `corepress compress --recipe` reads them.
        weights: What each weight got.
        chosen: Whether the search chose it.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, max_size="100kB")
        >>> [point.size for point in found.points] == sorted(point.size for point in found.points)
        True
    """

    size: int
    bits: float
    quality: dict[str, float]
    recipe: dict[str, Any]
    weights: tuple[Chosen, ...] = ()
    chosen: bool = False


@dataclass(frozen=True)
class Activations:
    """Which operations of the chosen model compute with 8-bit activations.

    Args:
        operations: How many there are that could, by their type.
        quantized: How many do.
        left: Those that stay in floating point because of what they do to the outputs, the most harmful first.
        weights: Those that do because their weights are no 8-bit integers.
        observer: By which their ranges were found: "min_max" or "output".
        bias_correction: Whether biases take back what rounding shifts.
        equalize: Whether factors of channels were moved between weights before.
        alone: The quality by metric, on the samples that choosing saw, with quantized weights only.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, min_snr=20, activations=True)
        >>> found.activations.quantized > 0
        True
    """

    operations: int
    quantized: int
    left: tuple[str, ...]
    weights: tuple[str, ...]
    observer: str
    bias_correction: bool
    equalize: bool
    alone: dict[str, float]

    @property
    def summary(self) -> str:
        """Which do and which do not, in a sentence."""
        text = f"{self.quantized} of {self.operations} operations compute with 8-bit activations"
        reasons = [
            f"{', '.join(names)} {why}"
            for names, why in (
                (self.left, "would do too much harm"),
                (self.weights, f"{'has' if len(self.weights) == 1 else 'have'} no weights of 8-bit integers"),
            )
            if names
        ]
        return "; ".join([text, *reasons])


@dataclass(frozen=True)
class Result:
    """What `corepress.search` gives back.

    Args:
        model: The chosen model, ready to be saved: of the kind that was searched.
        points: The front, from the smallest to the largest; the chosen one among them.
        metric: What the quality is called that was searched by.
        tested: The quality of the chosen model, by metric, on samples that neither fitting nor choosing saw; empty if
            there were none.
        met: Whether the budget or the goal is met.
        notes: Sentences on what the numbers rest on, and what was left alone.
        least: The value that `metric` was not to fall below; None where the size was limited.
        activations: Which operations compute with 8-bit activations; None where none was asked for, or none can.
        refinement: What the chosen model gained by learning at last; None where it did not.
        samples: How many were "learnt" from, how many the front was "chosen" by, and by how many the chosen model was
            "tested".

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> found = cto.search("model.mlpackage", samples, max_size="100kB")
        >>> found.chosen.size <= 100_000
        True
    """

    model: Any = field(repr=False)
    points: tuple[Point, ...]
    metric: str
    tested: dict[str, float]
    met: bool
    notes: tuple[str, ...] = ()
    least: float | None = None
    samples: dict[str, int] = field(default_factory=dict)
    activations: Activations | None = None
    refinement: Refinement | None = None

    def __str__(self) -> str:
        return self.summary

    @property
    def summary(self) -> str:
        """The verdict in a sentence, which is also what `print` shows."""
        point = self.chosen
        numbers = [quality[self.metric] for quality in (self.tested, point.quality) if self.metric in quality]
        if (least := self.least) is not None and not self.met:  # what missed it, on whichever samples
            numbers.sort(key=lambda number: meets(self.metric, number, least))
        number = numbers[0] if numbers else math.nan
        label, unit = worded(self.metric)
        # What misses a goal must not be rounded to it.
        close = self.least is not None and not self.met and f"{number:.4g}" == f"{self.least:.4g}"
        digits = ".10g" if close else ".4g"
        bits = f"{point.bits:.2f} bits per compressible weight"
        text = f"{point.size:,} bytes, {bits}, {label} {number:{digits}}{unit}"
        if self.least is None:
            return text
        beyond = "above" if self.metric in METRICS and METRICS[self.metric].at_most else "below"
        return f"{text}, {f'not {beyond}' if self.met else beyond} {self.least:{digits}}{unit}"

    @property
    def chosen(self) -> Point:
        """The point of the chosen model."""
        return next(point for point in self.points if point.chosen)

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the chosen model."""
        return self.chosen.recipe

    def save_recipe(self, path: str | Path) -> None:
        """Write the recipe of the chosen model as YAML, whole or not at all."""
        from corepress.searching.recipes import write

        write(self.recipe, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "met": self.met,
            "summary": self.summary,
            "least": plain(self.least),
            "metric": self.metric,
            "tested": plain(self.tested),
            "notes": list(self.notes),
            "samples": dict(self.samples),
            "activations": None if self.activations is None else plain(vars(self.activations)),
            "refinement": None if self.refinement is None else self.refinement.to_dict(),
            "points": [
                {
                    "size": point.size,
                    "bits": point.bits,
                    "quality": plain(point.quality),
                    "chosen": point.chosen,
                    "weights": [plain(vars(weight)) for weight in point.weights],
                    "recipe": point.recipe,
                }
                for point in self.points
            ],
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table of the front."""
        from corepress.tables import NamesTable

        metrics = list(self.chosen.quality)
        labels = (worded(name)[0] for name in metrics)
        table = NamesTable("", "size", "bits/compressible", *labels)
        for point in self.points:
            numbers = (f"{point.quality[name]:.4g}" for name in metrics)
            table.add_row("chosen" if point.chosen else "", f"{point.size:,}", f"{point.bits:.2f}", *numbers)
        return table
