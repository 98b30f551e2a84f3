"""k-means in one dimension and of vectors, and palettization by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from corepress.algorithms.kmeans1d import cluster, histogram, nearest, quantize_rows, quantize_values
from corepress.algorithms.kmeans_nd import cluster_vectors, distinct_vectors, nearest_vectors
from corepress.algorithms.palettize import indices_into, palettize
from tests.kernels.grid.cases import Array, Case
from tests.kernels.grid.numbers import bell, every_half, heavy, integers, of_kind, wide

TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8")
KINDS = ("bell", "heavy", "wide", "subnormal", "huge", "few", "lattice", "outlier", "constant", "zeros of both signs")
SIZES = (1, 2, 3, 16, 100, 256)


def drawn(kind: str, shape: tuple[int, ...], dtype: str) -> Any:
    if dtype not in ("int8", "uint8"):
        return of_kind(kind, len(kind), shape, dtype)
    return integers(len(kind), 0, 127, shape, dtype) // np.array(len(kind), dtype)


def partitions() -> Iterator[Case]:
    """`cluster`: of few and of many numbers, with ties, and counts of many sizes."""
    for kind in KINDS:
        for size in (1, 2, 9, 170, 3000, 20000):
            values = np.unique(of_kind(kind, size, (size,), "float64") + 0.0)
            counts = {
                "ones": np.ones(len(values)),
                "counts": integers(size, 1, 1000, values.shape, "float64"),
                "uneven": np.abs(wide(size, values.shape, -20, 20)) + 2.0**-30,
            }
            for name, weights in counts.items():
                found: list[Any] = []
                for k in {*SIZES, 7, max(1, size // 3), size - 1 or 1, size}:
                    if k <= 256 or size < 1000:
                        found += cluster(values, weights, k)
                yield Case(f"{kind}, {size} with {name}", tuple(found))


def histograms() -> Iterator[Case]:
    for kind in KINDS:
        for dtype in TYPES:
            weight = drawn(kind, (40, 60), dtype)
            found = [*histogram(weight)]
            for top in (1, 3, 1000):
                found += histogram(weight, integers(top, 0, top, weight.shape, "float32"))
            found += histogram(weight[:0]) if dtype == "float16" else ()
            yield Case(f"{kind} {dtype}", tuple(found))
    finite = every_half()[np.isfinite(every_half())]
    yield Case("every half", (*histogram(finite), *histogram(finite.astype(np.float32))))


def weighed_error(weight: Array, importance: Array, luts: Array, indices: Array) -> float:
    entries = np.take_along_axis(luts, indices.astype(np.intp), axis=1).astype(np.float64)
    return float((importance * (weight.astype(np.float64) - entries) ** 2).sum())


def rows() -> Iterator[Case]:
    """`quantize_rows`: a table for each row."""
    for kind in KINDS:
        for dtype in TYPES:
            weight, importance = drawn(kind, (3, 700), dtype), integers(4, 0, 9, (3, 700))
            found: list[Any] = []
            error = 0.0
            for k in SIZES:
                for worth in (None, importance):
                    lut, indices = quantize_rows(weight, k, worth)
                    found += lut, indices
                    error += weighed_error(weight, np.ones(weight.shape) if worth is None else worth, lut, indices)
            # Of even steps several tables are the best, of the same error: which is found hangs on the last digit of
            # the price at which the search begins, a sum of cube roots.
            yield Case(f"{kind} {dtype}", tuple(found), error if kind == "lattice" else None)
    for dtype in ("float16/float32", "bfloat16/float64", "float32/float64"):
        weight = of_kind("bell", 5, (3, 700), dtype.split("/")[0]).astype(dtype.split("/")[1])
        yield Case(dtype, (*quantize_rows(weight, 16), *quantize_rows(weight, 200, integers(1, 0, 9, (3, 700)))))


def bins() -> Iterator[Case]:
    """float32 in bins: rows long enough, coarse and fine."""
    for kind in KINDS:
        weight = of_kind(kind, len(kind), (2, 40000), "float32")
        importance = integers(4, 0, 9, weight.shape)
        for k in (2, 16, 64):
            found = [*quantize_rows(weight, k, binned=True), *quantize_rows(weight, k, importance, binned=True)]
            yield Case(f"{kind}, {k}", tuple(found))
    weight = heavy(1, (1, 300_000)).astype(np.float32)
    yield Case("256", quantize_rows(weight, 256, binned=True))
    yield Case("256, exactly", quantize_values(weight[0, :50_000], 256))


def nearest_entries() -> Iterator[Case]:
    for kind in KINDS:
        for dtype in TYPES:
            weight, found = drawn(kind, (2, 3000), dtype), []
            for k in (1, 2, 5, 16, 255, 256):
                lut = np.sort(of_kind("bell", k, (2, k), "float64") * (1 if "f" in dtype else 20)).astype(dtype)
                found += [nearest(weight, lut), nearest(weight, lut, np.array([k, max(1, k // 2)], np.int32))]
            yield Case(f"{kind} {dtype}", tuple(found))
    weight = of_kind("heavy", 3, (2, 70_000), "float32")
    for k in (1, 3, 16, 256):
        yield Case(f"bins, {k}", (nearest(weight, np.sort(bell(k, (2, k))).astype(np.float32)),))


def points(kind: str, n: int, d: int) -> Any:
    made = {
        "bell": lambda: bell(n, (n, d)),
        "heavy": lambda: heavy(n, (n, d)),
        "heaps": lambda: bell(n, (n, d), 2.0**-18) + integers(d, -9, 9, (100, d))[integers(n, 0, 99, (n,))],
        "duplicates": lambda: integers(n, -3, 3, (n, d)),
        "far from zero": lambda: 100 + bell(n, (n, d)),
    }
    return made[kind]().astype(np.float32)


def vectors() -> Iterator[Case]:
    for kind in ("bell", "heavy", "heaps", "duplicates", "far from zero"):
        for n, d, k in ((1, 2, 4), (300, 1, 7), (3000, 2, 16), (4000, 3, 5), (3000, 4, 64), (500, 8, 16)):
            drawn = points(kind, n, d)
            found = [
                *cluster_vectors(drawn, k),
                *cluster_vectors(drawn, k, integers(n, 0, 7, (n,)), restarts=1, seed=3),
            ]
            yield Case(f"{kind}, {n} of {d} in {k}", tuple(found))
    yield Case("samples", cluster_vectors(points("heavy", 40_000, 2), 16))
    yield Case("256", cluster_vectors(points("bell", 20_000, 2), 256, restarts=1))


def vectors_found() -> Iterator[Case]:
    """`nearest_vectors` and `distinct_vectors`."""
    for kind in ("bell", "heavy", "heaps", "duplicates"):
        for d in (1, 2, 3, 4, 8, 16):
            drawn = points(kind, 1000, d)
            tables = [drawn[:k] + np.float32(2.0**-6) for k in (1, 2, 3, 16, 100, 256)]
            found: list[Any] = [nearest_vectors(drawn, table) for table in tables]
            few = (
                drawn[integers(d, 0, 254, (2000,))]
                * np.array([-1.0, 0.0, 1.0], np.float32)[integers(d, 0, 2, (2000, 1))]
            )
            for n in (0, 1, 5, 100, 2000):
                found += distinct_vectors(few[:n], 256) or ()
            yield Case(f"{kind} of {d}", tuple(found))


def palettizing() -> Iterator[Case]:
    for dtype in ("float16", "bfloat16", "float32", "int8", "uint8"):
        for kind in ("bell", "heavy", "few"):
            weight = drawn(kind, (16, 12, 3), dtype)
            importance, mask = integers(1, 0, 9, weight.shape, "float64"), integers(2, 0, 2, weight.shape) > 0
            found: list[Any] = []
            for bits in (1, 2, 3, 4, 6, 8):
                found += [palettize(weight, bits), palettize(weight, bits, "uniform", mask=mask)]
                found.append(palettize(weight, bits, channel_axis=1, group_size=4, importance=importance))
                found.append(palettize(weight, bits, group_size=8, mask=mask))
            for dim, bits in ((2, 2), (4, 4), (2, 8)):
                found.append(palettize(weight, bits, group_size=8, cluster_dim=dim, mask=mask, importance=importance))
            found.append(palettize(weight, 4, "uniform", channel_axis=2, group_size=1))
            few = of_kind("few", 3, weight.shape, "float32").astype(dtype)
            found += [
                palettize(few, mode="unique", group_size=4),
                palettize(few, mode="unique", cluster_dim=2, mask=mask),
            ]
            found.append(indices_into(weight, palettize(weight, 3, group_size=8).lut[:, :, :, ::-1]))
            found.append(indices_into(weight, palettize(weight, 3, cluster_dim=2).lut, 0))
            yield Case(f"{kind} {dtype}", tuple(found))


GROUPS = (partitions, histograms, rows, bins, nearest_entries, vectors, vectors_found, palettizing)
