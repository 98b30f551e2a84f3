"""What each candidate costs in the model's answers, predicted to the first order from a few gradients.

Changing a weight by D moves the outputs y by J D, J their derivative. For random signs s, the square of s . J D is on
average the energy |J D|^2 (Hutchinson 1989), and s . J D is the inner product of D with the gradient of s . y, which
one backward pass gives for all weights at once. So a few dozen gradients, with signs of their own for each sample,
predict the damage of any candidate of any weight: the part of the outputs' energy that becomes noise. Unlike a diagonal
Fisher information this keeps how the errors of a weight's elements add up, over positions and channels, too.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress import engine
from corepress.engine import Progress, Skip
from corepress.errors import DataError
from corepress.kernels.half import widen
from corepress.searching.subject import Candidate, Part, Place, Subject
from corepress.sequences import Sample

# Gradients: as many as fit a file of so many bytes, between these. The damage strays from its mean by sqrt(2 / 64), a
# sixth, with the most of them, and by a third with the fewest.
FEWEST, MOST, _FILE = 16, 64, 2 << 30
# A form that does so many times the damage of another of the same size stays behind it, wherever damages are predicted.
_FAR = 3.0
# Samples that they are made of: more cost time and hardly tell more.
SAMPLES = 64
# Candidates of a large tensor are looked at in turns of so many bytes.
_AT_ONCE = 1 << 26
# What says which elements share a table or a scale.
_SHARING = frozenset({"granularity", "group_size", "block_size", "channel_axis"})
_TINY = float(np.finfo(np.float32).tiny)
# And of a gradient so many numbers are widened at a time.
_PIECE = 1 << 18


class Prices(NamedTuple):
    """For each item, for each candidate, its bytes and its damage; infinite where it can't be had.

    `unreached`: the items that no output depends on in the samples; their damage is guessed.
    """

    sizes: list[list[float]]
    damages: list[list[float]]
    unreached: list[int]


def as_they_are(subject: Subject) -> Prices:
    """The prices of the dense candidates alone, the first ones, which do no damage."""
    sizes = [
        float(sum(subject.value((number, piece), 0).size for piece in range(len(item.shapes))))
        for number, item in enumerate(subject.items)
    ]
    return Prices([[size] for size in sizes], [[0.0] for _ in sizes], [])


def predicted(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    among: Prices | None = None,
    most: int = MOST,
) -> Prices:
    """Predict what every candidate of every item costs, where the model has the values that it has now.

    The damages of a candidate are those of the change from the original to it. `among`: only of candidates that can be
    had in these prices. `most`: gradients. Raises DataError for gradients that are not finite.
    """
    step = max(1, math.ceil(len(samples) / SAMPLES))
    probes = max(FEWEST, min(most, _FILE // (2 * sum(item.elements for item in subject.items))))
    with Gradients() as gradients:
        for number, part in enumerate(subject.parts(samples[::step])):
            _gather(part, number, gradients, probes, seed, progress)
        rows: list[_Row] = [_Row([], [], [])] * len(subject.items)

        class Rows:
            def put(self, item: int, result: _Row) -> None:
                rows[item] = result

            def leave(self, item: int, reason: Skip) -> None:
                raise AssertionError(reason)

        engine.run(
            sorted(range(len(rows)), key=lambda item: -subject.items[item].elements),
            lambda item: _row(subject, item, gradients, None if among is None else among.damages[item]),
            Rows(),
            name=lambda item: subject.items[item].name,
            workers=workers,
            progress=None if progress is None else lambda done, total, _: progress(done, total, "trying all forms"),
        )
    return _with_guesses(rows)


def worthwhile(prices: Prices, costs: Sequence[Sequence[float]]) -> Prices:
    """The prices, infinite for candidates that another beats by so much that they need not be priced again: of many
    forms few are left. The dense one stays. `costs`: what each candidate costs in the choice."""
    damages = [
        [
            math.inf if number and _beaten(cost, damage, *row) else damage
            for number, (cost, damage) in enumerate(zip(*row, strict=True))
        ]
        for row in zip(costs, prices.damages, strict=True)
    ]
    return prices._replace(damages=damages)


def _beaten(cost: float, damage: float, costs: Sequence[float], damages: Sequence[float]) -> bool:
    """Whether another candidate costs no more and does far less damage."""
    return any(other <= cost and harm * _FAR < damage for other, harm in zip(costs, damages, strict=True))


class _Row(NamedTuple):
    """Of one item, for each candidate: bytes, damage, and the part of the weight's own energy that becomes noise."""

    sizes: list[float]
    damages: list[float]
    errors: list[float]


def _with_guesses(rows: Sequence[_Row]) -> Prices:
    """The prices; an item without a gradient has the damage that its errors would do in a typical other item."""
    ratios = [
        damage / error
        for row in rows
        for damage, error in zip(row.damages, row.errors, strict=True)
        if 0 < damage < math.inf and error > 0
    ]
    typical = float(np.median(ratios)) if ratios else 1.0
    unreached = [
        number
        for number, row in enumerate(rows)
        # Where no form changes anything, as of zeros, there is no damage to be had.
        if any(0 < error < math.inf for error in row.errors) and not any(0 < one < math.inf for one in row.damages)
    ]
    damages = [
        [typical * error for error in row.errors] if number in unreached else row.damages
        for number, row in enumerate(rows)
    ]
    return Prices([row.sizes for row in rows], damages, unreached)


def _row(subject: Subject, item: int, gradients: Gradients, among: Sequence[float] | None) -> _Row:
    """In a thread: the sizes and damages of one item. `among`: infinite for candidates that need no price."""
    described = subject.items[item]
    count = len(described.candidates)
    wanted = [number for number in range(count) if among is None or among[number] < math.inf]
    sizes, noise, apart, signal = np.full(count, math.inf), np.zeros(count), np.zeros(count), 0.0
    sizes[wanted] = 0
    products: dict[int, NDArray[np.float64]] = {}
    for piece, shape in enumerate(described.shapes):
        place = item, piece
        exact = subject.original(place).astype(np.float32).ravel()
        signal += float(exact @ exact)
        turn = max(1, _AT_ONCE // (4 * math.prod(shape)))
        for first in range(0, len(wanted), turn):
            chosen = wanted[first : first + turn]
            differences = np.zeros((len(chosen), exact.size), np.float32)
            for row, candidate in enumerate(chosen):
                try:
                    dense, size, left = subject.value(place, candidate)
                except Skip:
                    sizes[candidate] = math.inf
                    continue
                np.subtract(dense.ravel(), exact, out=differences[row], dtype=np.float32)
                differences[row] *= math.sqrt(left)
                sizes[candidate] += size
                noise[candidate] += float(differences[row] @ differences[row])
            for part, rows, gradient in gradients.pieces(place):
                own = differences.reshape(len(chosen), shape[0], -1)[:, rows].reshape(len(chosen), -1)
                found = products.setdefault(part, np.zeros((count, MOST)))
                found[chosen, : len(gradient)] += own @ gradient.T
                apart[chosen] += np.square(own) @ np.einsum("ij,ij->j", gradient, gradient)
    damages = sum((np.square(found).sum(1) for found in products.values()), np.zeros(count))
    lost = np.isinf(sizes)
    damages, errors = _smooth(described.candidates, damages, apart), noise / max(signal, _TINY)
    damages[lost] = errors[lost] = math.inf
    return _Row(sizes.tolist(), damages.tolist(), errors.tolist())


def _smooth(
    candidates: Sequence[Candidate], damages: NDArray[np.float64], apart: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The damages with less chance in them.

    `damages` stray from their mean, each candidate on its own, and the best of many would be the luckiest. `apart`,
    what the errors would do if none made up for another, hardly does: so that orders the candidates that differ in
    nothing but what shares a table or a scale, and the mean ratio of both over these says how much their errors add up.
    (Not over more: the fewer bits, the more they do.)
    """
    smooth = damages.copy()
    ways = [_way(candidate) for candidate in candidates]
    for way in set(ways):
        alike = np.array([way == other for other in ways]) & (damages > 0) & (apart > 0)
        if alike.any():
            smooth[alike] = apart[alike] * math.exp(np.log(damages[alike] / apart[alike]).mean())
    return smooth


def _way(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """How a candidate is made, but for what shares a table or a scale."""
    return tuple(
        (verb, str([value for name, value in sorted(arguments.items()) if name not in _SHARING]))
        for verb, arguments in candidate.steps
    )


def _gather(part: Part, number: int, gradients: Gradients, probes: int, seed: int, progress: Progress | None) -> None:
    """Keep the gradients of random sums of a part's outputs, each over some of its samples."""
    leaves = [(place, leaf) for place, copies in part.leaves.items() for leaf in copies if leaf.is_floating_point()]
    if not leaves or not part.samples:
        return
    scales = _scales(part)
    repeats = max(1, math.ceil(probes / len(part.samples)))
    order = [sample for _ in range(repeats) for sample in part.samples]
    generator = torch.Generator().manual_seed(seed)
    for _, leaf in leaves:
        leaf.requires_grad_()
    try:
        for probe in range(probes):
            if progress is not None:
                progress(probe, probes, "measuring what the answers depend on")
            for sample in order[probe::probes]:
                _backward(part, sample, scales, generator, [leaf for _, leaf in leaves])
            _keep(leaves, number, gradients, 1 / math.sqrt(repeats))
    finally:
        for _, leaf in leaves:
            leaf.requires_grad_(False)
            leaf.grad = None


def _scales(part: Part) -> list[float]:
    """By which each output is multiplied, so that noise energies become parts of its energy, and count alike."""
    sums: list[float] = []
    with torch.no_grad():
        for sample in part.samples:
            energies = [float(_finite(y).double().square().sum()) for y in part.outputs(sample)]
            sums = [one + other for one, other in zip(sums or [0.0] * len(energies), energies, strict=True)]
    return [1 / math.sqrt(total * len(sums)) if total > 0 else 0.0 for total in sums]


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), values, torch.zeros((), dtype=values.dtype))


def _backward(
    part: Part, sample: Sample, scales: Sequence[float], generator: torch.Generator, leaves: list[Tensor]
) -> None:
    """Add the gradient of the outputs' sum with random signs to those of the leaves."""
    with torch.enable_grad():
        total = None
        for y, scale in zip(part.outputs(sample), scales, strict=True):
            if y.requires_grad and scale:
                signs = torch.randint(0, 2, y.shape, generator=generator).mul_(2).sub_(1).to(y)
                term = (signs * _finite(y)).sum() * scale
                total = term if total is None else total + term
        if total is not None:
            total.backward(inputs=leaves)  # type: ignore[no-untyped-call]


def _keep(leaves: Sequence[tuple[Place, Tensor]], part: int, gradients: Gradients, factor: float) -> None:
    sums: dict[Place, Tensor] = {}
    for place, leaf in leaves:
        if leaf.grad is not None:
            sums[place] = sums[place] + leaf.grad if place in sums else leaf.grad
            leaf.grad = None
    for place, gradient in sums.items():
        gradients.add(place, part, gradient.detach(), factor)


class _Kept(NamedTuple):
    """Where one gradient lies in the file: half precision numbers, times `scale`; only those of some rows."""

    offset: int
    rows: NDArray[np.intp]
    width: int
    scale: float


class Gradients:
    """The gradients of all probes, in an unnamed temporary file: in memory they would take that many times the model.

    A gradient that touches few rows, as that of a table of words does, takes no more room than these.
    """

    def __enter__(self) -> Gradients:
        self._file = tempfile.TemporaryFile(prefix="corepress-", buffering=0)
        self._end, self._lock = 0, threading.Lock()
        self._kept: dict[Place, dict[int, list[_Kept]]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, place: Place, part: int, gradient: Tensor, factor: float) -> None:
        """Keep the gradient of one probe of a part, times a factor. Raises DataError where it is not finite."""
        flat = gradient.reshape(gradient.shape[0], -1)
        peaks = torch.maximum(flat.amax(1), -flat.amin(1))
        peak = float(peaks.max())
        if not math.isfinite(peak):
            raise DataError("a sample makes gradients that are infinite or not a number")
        if not peak:
            return
        rows = peaks.nonzero().ravel()
        numbers = (flat[rows] / peak).to(torch.float16).cpu().numpy()
        self._file.write(numbers.data)
        kept = _Kept(self._end, rows.cpu().numpy(), flat.shape[1], peak * factor)
        self._kept.setdefault(place, {}).setdefault(part, []).append(kept)
        self._end += numbers.nbytes

    def pieces(self, place: Place) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float32]]]:
        """For each part, some rows of a tensor at a time, and its gradients there: (probes, rows * width)."""
        for part, kept in self._kept.get(place, {}).items():
            rows, width = np.unique(np.concatenate([entry.rows for entry in kept])), kept[0].width
            step = max(1, _PIECE // width)
            for first in range(0, len(rows), step):
                chosen = rows[first : first + step]
                found = np.zeros((len(kept), len(chosen), width), np.float32)
                for probe, entry in enumerate(kept):
                    begin, end = np.searchsorted(entry.rows, (chosen[0], chosen[-1] + 1))
                    places = np.searchsorted(chosen, entry.rows[begin:end])
                    found[probe, places] = self._read(entry, int(begin), int(end))
                yield part, chosen, found.reshape(len(kept), -1)

    def _read(self, entry: _Kept, begin: int, end: int) -> NDArray[np.float32]:
        """The gradient in some of the rows that it has."""
        with self._lock:
            self._file.seek(entry.offset + 2 * begin * entry.width)
            content = self._file.read(2 * (end - begin) * entry.width)
        numbers = widen(np.frombuffer(content, np.float16)) * np.float32(entry.scale)
        return numbers.reshape(-1, entry.width)
