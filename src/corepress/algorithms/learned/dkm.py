"""Differentiable k-means: a weight as a soft mixture of a few centroids, which gradients pass through.

Cho et al. 2022, "DKM: Differentiable K-Means Clustering Layer for Neural Network Compression" (arXiv 2108.12659): the
attention of element x to centroid c_j is the softmax over j of -|x - c_j|^2 / tau, centroids are means weighed by
attention, and the gradient goes through all iterations.

Attention depends on an element's value only, of which there are at most 65,536 in 16 bits (Cho et al. 2023, "eDKM",
arXiv 2309.00964). So k-means runs over distinct values and their counts, the weight is one look-up in a table, and the
gradient of element i is `g[i] * own[code[i]] + shared[code[i]]`: what its own attention does to it, and what it does to
all others through the centroids. Attention is computed in blocks that stay in the cache, and anew for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from corepress.algorithms.kmeans1d import NOT_FINITE, cluster
from corepress.algorithms.kmeans_nd import cluster_vectors
from corepress.errors import DataError

_CODES = 1 << 16
_BLOCK = 1 << 18  # numbers of attention at once
_FEW = 1 << 13  # of so few scalars, most are distinct


class Options(NamedTuple):
    """How soft the assignment is, and how long it is iterated.

    `mode`: "dkm"; "gsm", with Gumbel noise on the logits; "hard", the nearest centroid. `tau`: the temperature.
    `iterations`: at most so many; fewer, if the sum of squared distances changes by no more than `epsilon`.
    `floor`: the least attention, in "dkm". `pull`: subtracted from the squared distance to centroid 0.
    `fixed_zero`: centroid 0 is zero; without `pull`, it takes zeros only. `keep_zeros`: zeros stay out of it all.
    `lut`: the type that the final centroids are rounded to, straight through.
    """

    mode: Literal["dkm", "gsm", "hard"] = "dkm"
    tau: float = 1e-4
    iterations: int = 3
    epsilon: float = 1e-4
    floor: float = 1e-7
    pull: float = 0.0
    fixed_zero: bool = False
    keep_zeros: bool = False
    lut: Literal["int8", "uint8"] | None = None


class Points(NamedTuple):
    """What is clustered: `values` (d, u) and `counts` (u,), or None where each element stands for itself.

    `places`: (u,) the code of each value, or the row of each element.
    """

    values: Tensor
    counts: Tensor | None
    places: Tensor


def soft_kmeans(rows: Tensor, centroids: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The soft mixture that stands for each element, and the centroids after the iterations.

    `rows`: (groups, m, d), floating point. Scalars (d = 1), if many, are rounded to 11 significant bits.
    `centroids`: (groups, k, d), float32, where to begin; as constants. Gradients reach `rows` only. Computes in
    float32, or float64 for such rows. Raises CorepressError for rows that are not finite.
    """
    dense, centroids = _SoftKMeans.apply(rows, centroids, options)  # type: ignore[no-untyped-call]
    return dense, centroids


def nearest(rows: Tensor, centroids: Tensor, options: Options) -> Tensor:
    """The index of the nearest centroid of each element: uint8 (groups, m); with `keep_zeros`, 0 for zeros."""
    indices = torch.zeros(rows.shape[:2], dtype=torch.uint8, device=rows.device)
    for row, table, found in zip(rows.detach(), centroids, indices, strict=True):
        codes, points = _points(row, options)
        labels = torch.empty(points.values.shape[1], dtype=torch.uint8, device=rows.device)
        for part, block in _blocks(points, len(table)):
            labels[part] = _distances(block, table, options).argmin(dim=0)
        if codes is not None:
            by_code = labels.new_zeros(_CODES).index_copy_(0, points.places, labels)
            found.copy_(by_code.index_select(0, codes))
        else:
            found.index_copy_(0, points.places, labels)
    return indices


def first_centroids(rows: Tensor, k: int, options: Options) -> Tensor:
    """k-means of each group, exact for scalars: float32 (groups, k, d), the centroid nearest to zero first."""
    tables = np.zeros((len(rows), k, rows.shape[2]))
    for row, table in zip(rows.detach(), tables, strict=True):
        points = _points(row, options)[1]
        values = points.values.double().cpu().numpy()
        if not values.size:
            continue
        if len(values) == 1:
            distinct, number = np.unique(values[0], return_inverse=True)
            counts = None if points.counts is None else points.counts.double().cpu().numpy()
            found = cluster(distinct, np.bincount(number, counts).astype(np.float64), k).centroids[:, None]
        else:
            found = cluster_vectors(values.T, k)[0]
        table[: len(found)] = found
        table[len(found) :] = found[-1]
        first = np.square(table).sum(axis=1).argmin()
        table[[0, first]] = table[[first, 0]]
        if options.fixed_zero:
            table[0] = 0
    return torch.from_numpy(tables).to(rows.device, torch.float32)


def separate(centroids: Tensor, tolerance: float = 0.0) -> Tensor:
    """Move each centroid that equals another halfway to the next one, as equal ones would stay equal for ever.

    `centroids`: (groups, k, d). `tolerance`: the share of centroids of a group that may be equal.
    """
    equal = (centroids[:, :, None] == centroids[:, None]).all(dim=-1).tril(-1).any(dim=-1)
    crowded = equal.sum(dim=1) > tolerance * centroids.shape[1]
    if not bool(crowded.any()):
        return centroids
    moved = centroids.clone()
    for group in crowded.nonzero()[:, 0].tolist():
        distinct, number = torch.unique(centroids[group], dim=0, return_inverse=True)
        following = distinct.roll(-1, 0)
        # Several copies of one are spread evenly.
        for each in number[equal[group]].unique().tolist():
            copies = (equal[group] & (number == each)).nonzero()[:, 0]
            share = torch.arange(1, len(copies) + 1, device=copies.device, dtype=moved.dtype)[:, None] / (
                len(copies) + 1
            )
            moved[group, copies] = distinct[each] + share * (following[each] - distinct[each])
    return moved


def rounded(centroids: Tensor, lut: str | None) -> Tensor:
    """The entries (k, d) of a table as 8-bit integers with one scale hold them."""
    if lut is None:
        return centroids
    low, high = torch.aminmax(centroids)
    scale = torch.maximum(-low, high) / 127 if lut == "int8" else (high.clamp(min=0) - low.clamp(max=0)) / 255
    return (centroids / scale).round() * scale if scale > 0 else centroids


class _SoftKMeans(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, starts: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        dense, ends = torch.empty_like(rows), torch.empty_like(starts)
        ctx.groups, ctx.options = [], options
        for group, row in enumerate(rows):
            codes, points = _points(row, options)
            trail = _iterate(points, starts[group].to(points.values.dtype, copy=True), options)
            table = torch.empty_like(points.values)
            for part, block in _blocks(points, len(trail.ends[-1])):
                attention = _attention(block, trail, len(trail.ends) - 2, part, options)[1]
                table[:, part] = rounded(trail.ends[-1], options.lut).T @ attention
            _look_up(table, codes, points, out=dense[group])
            ends[group] = trail.ends[-1]
            ctx.groups.append((None if codes is None else codes.to(torch.int16), points, trail))
        ctx.mark_non_differentiable(ends)
        ctx.device_type = rows.device.type
        return dense, ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        result = torch.empty_like(gradient)
        with torch.autocast(ctx.device_type, enabled=False):
            for group, (codes, points, trail) in enumerate(ctx.groups):
                codes = None if codes is None else codes.to(torch.int32) & 0xFFFF
                given = gradient[group].to(points.values.dtype)
                own, shared = _gradients(points, trail, _summed(given, codes, points), ctx.options)
                _look_up(shared, codes, points, out=result[group])
                if codes is not None:
                    spread = own.new_zeros(_CODES).index_copy_(0, points.places, own)
                    result[group, :, 0] += spread.index_select(0, codes) * given[:, 0]
        return result, None, None


class Trail(NamedTuple):
    """The way of the centroids: `ends` (k, d), from the first to the last; `masses` (k,) of each step between."""

    ends: list[Tensor]
    masses: list[Tensor]
    seed: int


def _iterate(points: Points, centroids: Tensor, options: Options) -> Trail:
    if options.fixed_zero:
        centroids[0] = 0
    seed = int(torch.randint(1 << 62, ())) if options.mode == "gsm" else 0
    trail = Trail([centroids], [], seed)
    if not points.values.numel():
        return Trail([centroids] * 2, [torch.ones_like(centroids[:, 0])], seed)
    before = math.inf
    for step in range(options.iterations):
        mass, moment = torch.zeros_like(centroids[:, 0]), torch.zeros_like(centroids)
        energy = torch.zeros_like(mass[0])
        for part, block in _blocks(points, len(centroids)):
            distances, attention = _attention(block, trail, step, part, options)[:2]
            least = distances.amin(dim=0)
            energy += least.sum() if block.counts is None else least @ block.counts
            if block.counts is not None:
                attention = attention * block.counts
            mass += attention.sum(dim=1)
            moment += attention @ block.values.T
        mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)
        centroids = moment / mass[:, None]
        if options.mode == "hard":  # nobody's centroid stays where it is
            centroids = centroids.where(mass[:, None] >= 0.5, trail.ends[-1])
        if options.fixed_zero:
            centroids[0] = 0
        trail.ends.append(centroids)
        trail.masses.append(mass)
        if abs(before - float(energy)) <= options.epsilon:
            break
        before = float(energy)
    return trail


def _gradients(points: Points, trail: Trail, summed: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """What an output's gradient does to its own value (u,), and the gradient of each value that is not its own (d, u).

    `summed`: (d, u), the gradients of the outputs, summed over those of one value. Without counts all is in the second.
    """
    own, shared = torch.zeros_like(points.values[0]), torch.zeros_like(points.values)
    last, shown = len(trail.masses) - 1, rounded(trail.ends[-1], options.lut)
    to_centroids = torch.zeros_like(shown)
    for part, block in _blocks(points, len(shown)):
        to_centroids += _attention(block, trail, last, part, options)[1] @ summed[:, part].T
    for step in range(last, -1, -1):
        centroids, mass = trail.ends[step], trail.masses[step]
        if options.fixed_zero:
            to_centroids[0] = 0
        to_moment = to_centroids / mass[:, None]
        to_mass = -(to_moment * trail.ends[step + 1]).sum(dim=1, keepdim=True)
        to_centroids = torch.zeros_like(to_centroids)
        for part, block in _blocks(points, len(centroids)):
            _, attention, soft = _attention(block, trail, step, part, options)
            shared[:, part] += to_moment.T @ attention
            if options.mode == "hard":
                continue
            to_attention = torch.addmm(to_mass, to_moment, block.values)
            if step == last and block.counts is None:
                to_attention += shown @ summed[:, part]
            to_logits = _through_softmax(to_attention, soft, options)
            shared[:, part] += centroids.T @ to_logits * (2 / options.tau)
            if block.counts is not None:
                to_logits *= block.counts
            if step == last and block.counts is not None:
                to_own = _through_softmax(shown.expand_as(soft), soft, options)
                own[part] = (centroids.T @ to_own)[0] * (2 / options.tau)
                to_logits += to_own * summed[:, part]
            if step:
                moved = to_logits @ block.values.T - centroids * to_logits.sum(dim=1, keepdim=True)
                to_centroids += moved * (2 / options.tau)
    return own, shared


def _through_softmax(gradient: Tensor, soft: Tensor, options: Options) -> Tensor:
    """The gradient of the logits; its sum over the centroids is zero."""
    weighed = soft * gradient
    if options.mode == "dkm":
        weighed *= soft >= options.floor
    return weighed - soft * weighed.sum(dim=0)


def _attention(block: Points, trail: Trail, step: int, part: slice, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances, attention, and attention before it is raised to the floor; (k, u) each."""
    distances = _distances(block, trail.ends[step], options)
    if options.mode == "hard":
        attention = torch.zeros_like(distances).scatter_(0, distances.argmin(dim=0, keepdim=True), 1.0)
        return distances, attention, attention
    # Less than 1e-20 is nothing, and would become denormal numbers, with which processors are slow.
    logits = ((distances.amin(dim=0) - distances) / options.tau).clamp_(min=-46)
    if options.mode == "gsm":
        random = torch.Generator(logits.device).manual_seed((trail.seed + step * 7919 + part.start) % (1 << 62))
        logits -= torch.empty_like(logits).exponential_(generator=random).log_()
        soft = torch.softmax(logits, dim=0)
        return distances, soft, soft
    soft = logits.exp_()
    soft /= soft.sum(dim=0)
    return distances, soft.clamp(min=options.floor), soft


def _distances(block: Points, centroids: Tensor, options: Options) -> Tensor:
    centroids = centroids.to(block.values.dtype)
    distances = (block.values[0] - centroids[:, :1]).square_()
    for value, column in zip(block.values[1:], centroids.T[1:], strict=True):
        distances += (value - column[:, None]).square_()
    if options.pull:
        distances[0] -= options.pull
    elif options.fixed_zero:
        distances[0].masked_fill_(block.values.any(dim=0), 1 / options.floor)
    return distances


def _points(row: Tensor, options: Options) -> tuple[Tensor | None, Points]:
    """The codes of the scalars of a row, int32 (m,), and what there is to cluster."""
    dtype = torch.float64 if row.dtype == torch.float64 else torch.float32
    if not row.numel():
        raise DataError("the weight holds nothing to cluster")
    low, high = torch.aminmax(row)
    largest = float(torch.maximum(-low, high))
    if not math.isfinite(largest):
        raise DataError(NOT_FINITE)
    if row.shape[1] > 1 or len(row) <= _FEW:
        places = row.any(dim=1).nonzero()[:, 0] if options.keep_zeros else torch.arange(len(row), device=row.device)
        return None, Points(row[places].T.to(dtype).contiguous(), None, places)
    # A power of two brings the largest just below float16's end, so that small ones keep their bits.
    exponent = 15 - math.frexp(largest)[1]
    codes = torch.ldexp(row[:, 0].to(dtype), torch.tensor(exponent)).to(torch.float16).view(torch.int16)
    codes = codes.to(torch.int32).bitwise_and_(0xFFFF)
    counts = torch.bincount(codes, minlength=_CODES)
    if options.keep_zeros:
        counts[[0, 0x8000]] = 0
    places = counts.nonzero()[:, 0]
    values = places.to(torch.int16).view(torch.float16).to(dtype)
    return codes, Points(torch.ldexp(values, torch.tensor(-exponent))[None], counts[places].to(dtype), places)


def _look_up(table: Tensor, codes: Tensor | None, points: Points, out: Tensor) -> None:
    """Fill (m, d) from the values (d, u) of the points; zero where none is."""
    if codes is not None:
        by_code = table.new_zeros(_CODES).index_copy_(0, points.places, table[0])
        out[:, 0] = by_code.index_select(0, codes)
    else:
        out.zero_().index_copy_(0, points.places, table.T.to(out.dtype))


def _summed(gradient: Tensor, codes: Tensor | None, points: Points) -> Tensor:
    """Gradients (m, d), summed by point: (d, u)."""
    if codes is not None:
        sums = gradient.new_zeros(_CODES).index_add_(0, codes, gradient[:, 0])
        return sums.index_select(0, points.places)[None]
    return gradient[points.places].T


def _blocks(points: Points, k: int) -> Iterator[tuple[slice, Points]]:
    size = max((_BLOCK if points.values.is_cpu else 1 << 24) // k, 1)
    for start in range(0, points.values.shape[1], size):
        part = slice(start, start + size)
        counts = None if points.counts is None else points.counts[part]
        yield part, Points(points.values[:, part], counts, points.places[part])
