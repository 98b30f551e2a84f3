"""What a compression did, weight by weight: as rows, as a table, as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from corepress.coreml.outliers import outliers_of
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import programs
from corepress.json_numbers import plain
from corepress.metrics import decibels, energies
from corepress.sizes import size
from corepress.targets import ALL, system_of

if TYPE_CHECKING:
    from rich.table import Table

    from corepress.formats.neural_network import Model as Networks
    from corepress.formats.neural_network.layers import LayerWeight

# A path, a `Model`, a `corepress.neural_network.Model`, or an `MLModel` of coremltools, which has no types.
AnyModel: TypeAlias = str | Path | Model | Any
# How weights of neural networks are stored, in the words for those of packages.
_FORMS = {"linear": "quantized", "lut": "palettized", "int8": "quantized"}


@dataclass(frozen=True)
class Row:
    """One weight before and after. `snr` is the signal-to-noise ratio in dB (infinite when nothing changed);
    `changed`: it was written anew on the way from the one to the other; `skipped` says why the last step left it as it
    was, empty when it did not; `unfitted` why the samples of a calibrated compression have no part in it; `few` how few
    independent vectors it was fitted to, if so."""

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    consumers: tuple[str, ...]
    compression: str
    bits: int
    bits_per_weight: float
    bytes_before: int
    bytes_after: int
    snr: float | None
    skipped: str
    changed: bool
    unfitted: str = ""
    few: str = ""


@dataclass(frozen=True)
class Report:
    """The rows of a compression and its sums. `report` makes it; `table()` prints it, `to_json()` feeds scripts.

    Args:
        rows: One for each weight: its name, shape, form, bits, bytes before and after, SNR in dB, and why it was left
            alone.
        size_before: Bytes of the whole package.
        size_after: The same afterwards.
        target_before: The oldest system that all its functions run on.
        target: The same afterwards.

    Examples:
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
        >>> report = cto.report(cto.coreml.palettize_weights("model.mlpackage", config))
        >>> report.worst.name, round(report.worst.snr)
        ('hidden_weight_to_fp16', 20)
        >>> report.skipped[0].skipped
        'it has no more than 2048 elements (weight_threshold)'
    """

    rows: tuple[Row, ...]
    size_before: int
    size_after: int
    target_before: str
    target: str

    def __str__(self) -> str:
        sizes = f"{size(self.size_before)} -> {size(self.size_after)}, ratio {self.ratio:.2f}"
        changed, what = (self.compressed, "compressed") if self.compressed else (self.decompressed, "decompressed")
        done = f"{len(changed)} of {len(self.rows)} weights {what}" if changed else "no weight was changed"
        return f"{sizes}, {self.bits_per_weight:.2f} bits per weight; {done}"

    @property
    def compressed(self) -> tuple[Row, ...]:
        """The weights that were compressed on the way from the one model to the other."""
        return tuple(row for row in self.rows if row.compression and row.changed)

    @property
    def compressed_before(self) -> tuple[Row, ...]:
        """Those that were compressed already, and stayed as they were."""
        return tuple(row for row in self.rows if row.compression and not row.changed)

    @property
    def decompressed(self) -> tuple[Row, ...]:
        """Those that were made dense again, or written anew as dense."""
        return tuple(row for row in self.rows if row.changed and not row.compression)

    @property
    def largest_left(self) -> Row | None:
        """Of those that were left alone the one that takes most bytes."""
        return max((row for row in self.rows if not row.changed), key=lambda row: row.bytes_after, default=None)

    @property
    def skipped(self) -> tuple[Row, ...]:
        """Those that were left alone, with a reason."""
        return tuple(row for row in self.rows if row.skipped and not row.changed)

    @property
    def left_by_last(self) -> tuple[Row, ...]:
        """Of several steps: those that the last one left as the steps before it had made them."""
        return tuple(row for row in self.rows if row.skipped and row.changed)

    @property
    def unfitted(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.unfitted)

    @property
    def ratio(self) -> float:
        return self.size_before / max(self.size_after, 1)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each element, over all weights."""
        elements = sum(math.prod(row.shape) for row in self.rows)
        return 8 * sum(row.bytes_after for row in self.rows) / max(elements, 1)

    @property
    def worst(self) -> Row | None:
        """The compressed weight of least SNR."""
        return min(
            (row for row in self.compressed if row.snr is not None), key=lambda row: row.snr or 0.0, default=None
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: an infinite SNR becomes the word "inf"; null is one that was not measured."""
        return {
            "size_before": self.size_before,
            "size_after": self.size_after,
            "target_before": self.target_before,
            "target": self.target,
            "ratio": self.ratio,
            "bits_per_weight": self.bits_per_weight,
            "compressed": len(self.compressed),
            "compressed_before": len(self.compressed_before),
            "skipped": len(self.skipped),
            "unfitted": len(self.unfitted),
            "weights": [plain(asdict(row)) for row in self.rows],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """A `rich` table of all weights."""
        from corepress.tables import NamesTable

        table = NamesTable(
            *("weight", "shape", "form", "bits/weight", "before", "after", "SNR dB", "left alone because"),
            lesser=("before", "shape", "after", "bits/weight", "form"),
            sentences=("left alone because",),
        )
        for row in self.rows:
            snr = "" if row.snr is None else f"{row.snr:.1f}"
            table.add_row(
                row.name,
                "x".join(map(str, row.shape)),
                row.compression,
                f"{row.bits_per_weight:.2f}",
                f"{row.bytes_before:,}",
                f"{row.bytes_after:,}",
                snr,
                row.skipped,
            )
        return table


def report(model: AnyModel, *, snr: bool = True) -> Report:
    """Compare a compressed model, be it an ML program or a neural network, with the one that it was made from.

    Errors are computed here, from both values of each compressed weight. It works on the result of a compression,
    before and after it is saved in the same process.

    Args:
        model: What a function of `corepress.coreml` gave back, a `Model` or an `MLModel`; or a path or any other model,
            of which there is nothing to compare with, but the weights are listed all the same.
        snr: False saves the time of computing errors.

    Returns:
        A row for each weight, and the sums.

    Examples:
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
        >>> small = cto.coreml.palettize_weights("model.mlpackage", config)
        >>> report = cto.report(small)
        >>> f"{report.ratio:.1f} times smaller, {len(report.compressed)} of {len(report.rows)} weights"
        '3.7 times smaller, 4 of 10 weights'
    """
    if not isinstance(model, Model):
        from corepress.coreml.interop import with_history
        from corepress.formats.neural_network import Model as Networks
        from corepress.formats.read import load

        if isinstance(model, str | Path):
            model = load(model)
        if isinstance(model, Networks):
            return _of_networks(model, snr)
        model = with_history(model)
    origin = model.origin or model
    after = {(weight.function, weight.output): weight for weight in model.weights()}
    known = {(weight.function, weight.output): weight for weight in origin.weights()}
    rows = []
    for key, before in known.items():
        now = after.get(key, before)
        row = _row(before, now, model.skipped.get(key, ""), key in model.changed, snr, outliers_of(now, after, known))
        rows.append(replace(row, unfitted=model.unfitted.get(key, ""), few=model.few.get(key, "")))
    return Report(tuple(rows), origin.size(), model.size(), _target(origin), _target(model))


def between(original: Model | Networks, compressed: Model | Networks) -> Report:
    """The rows of two models that need not have been made from each other here: a weight is compared with that of the
    same function, name and shape, and one that the other model lacks has no row."""
    if not isinstance(original, Model) or not isinstance(compressed, Model):
        return _between_others(original, compressed)
    after = {(weight.function, weight.output): weight for weight in compressed.weights()}
    known = {(weight.function, weight.output): weight for weight in original.weights()}
    rows = []
    for key, before in known.items():
        now = after.get(key)
        if now is not None and now.shape == before.shape:
            rows.append(_compared(_row(before, now, "", True, True, outliers_of(now, after, known))))
    return Report(tuple(rows), original.size(), compressed.size(), _target(original), _target(compressed))


def _between_others(original: Model | Networks, compressed: Model | Networks) -> Report:
    """Those of neural networks; of a network and a program the sizes only, for they share no names."""
    rows: list[Row] = []
    if not isinstance(original, Model) and not isinstance(compressed, Model):
        after = {weight.name: weight for weight in compressed.weights()}
        for before in original.weights():
            now = after.get(before.name)
            if now is not None and now.shape == before.shape:
                rows.append(_network_row(before, now, "", True))
    systems = (
        _target(one) if isinstance(one, Model) else system_of(one.spec_version) for one in (original, compressed)
    )
    return Report(tuple(rows), original.size(), compressed.size(), *systems)


def _compared(row: Row) -> Row:
    """A row of two models; what lost nothing and takes the same room was not changed. (Of infinities and NaN, such as
    a mask's, nothing can be said but that they take the same room.)"""
    same = row.bytes_before == row.bytes_after and row.snr is not None and (row.snr == math.inf or math.isnan(row.snr))
    return replace(row, changed=False, snr=None) if same else row


def _target(model: Model) -> str:
    """The name of the system that the newest function needs; of an unknown set of operations its own name."""
    known = {target.opset: number for number, target in enumerate(ALL)}
    opsets = [function.value.opset for _, program in programs(model.spec) for function in program.functions]
    newest = max(opsets, key=lambda opset: known.get(opset, len(known)), default="")
    return ALL[known[newest]].name if newest in known else newest


def _row(
    before: Weight, now: Weight, skipped: str, changed: bool, with_snr: bool, outliers: Weight | None = None
) -> Row:
    """`outliers`: the constant of those that were put apart; both make up the weight."""
    snr = _snr(before, now, outliers) if with_snr and changed else None
    stored = now.stored_bytes + (0 if outliers is None else outliers.stored_bytes)
    return Row(
        name=before.name,
        function=before.function,
        shape=before.shape,
        dtype=before.dtype,
        consumers=tuple(consumer.op_type for consumer in before.consumers),
        compression=now.compression if outliers is None else f"{now.compression}+outliers",
        bits=now.bits,
        bits_per_weight=8 * stored / max(now.size, 1),
        bytes_before=before.stored_bytes,
        bytes_after=stored,
        snr=snr,
        skipped=skipped,
        changed=changed,
    )


def _of_networks(model: Networks, snr: bool) -> Report:
    origin = model.origin or model
    # The same weights in the same order; their names need not differ.
    pairs = zip(origin.weights(), model.weights(), strict=True)
    rows = [_network_row(before, now, model.skipped.get(before.name, ""), snr) for before, now in pairs]
    systems = system_of(origin.spec_version), system_of(model.spec_version)
    return Report(tuple(rows), origin.size(), model.size(), *systems)


def _network_row(before: LayerWeight, now: LayerWeight, skipped: str, with_snr: bool) -> Row:
    changed = before.params != now.params
    return Row(
        name=before.name,
        function="",
        shape=before.shape,
        dtype=before.form if before.form in ("float32", "float16") else "float32",
        consumers=(before.layer_type,),
        compression=_FORMS.get(now.form, "float16" if changed and now.form == "float16" else ""),
        bits=now.bits,
        bits_per_weight=now.bits_per_weight,
        bytes_before=before.stored_bytes,
        bytes_after=now.stored_bytes,
        snr=decibels(*energies(before.dense(), now.dense())) if with_snr and changed else None,
        skipped=skipped,
        changed=changed,
    )


def _snr(before: Weight, now: Weight, outliers: Weight | None) -> float:
    dense = now.dense() if outliers is None else now.dense() + outliers.dense()
    ratio = decibels(*energies(before.dense(), dense))
    before.release()
    now.release()
    return ratio
