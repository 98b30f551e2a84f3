"""Our k-means beside others: time and squared error.

    python benchmarks/kmeans.py            # numbers: few or many distinct ones, with counts
    python benchmarks/kmeans.py --vectors  # cluster_dim 2 and 4

"kmeans1d" is the exact C++ solver that coremltools carries. "peer" is scikit-learn as coremltools calls it (one start,
tol=1e-2); "peer, 10 starts" is the same ten times over, the best kept.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Array = NDArray[Any]
BITS = (4, 6, 8)
SLOW = 1e8  # numbers times clusters: beyond, kmeans1d takes minutes and is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", action="store_true", help="cluster vectors instead of numbers")
    warnings.simplefilter("ignore")
    Console().print(vectors() if parser.parse_args().vectors else numbers())


def numbers() -> Table:
    table = columns("k-means of numbers", "numbers", "clusters", "ours", "kmeans1d", "peer")
    for what, values, counts in samples():
        for bits in BITS:
            solvers = [exact, kmeans1d if values.size << bits < SLOW else None, peer]
            judge = partial(error, values, counts)
            row = [cell(solver and partial(solver, values, counts, 1 << bits), judge) for solver in solvers]
            table.add_row(what, str(1 << bits), *row)
    return table


def exact(values: Array, counts: Array, k: int) -> Array:
    from corepress.algorithms.kmeans1d import cluster

    return cluster(values, counts, k).centroids


def kmeans1d(values: Array, counts: Array, k: int) -> Array:
    from coremltools._deps import _kmeans1d

    return np.array(_kmeans1d.cluster(values, k, weights=counts).centroids)


def peer(values: Array, counts: Array, k: int) -> Array:
    return scikit_learn(values.reshape(-1, 1), k, 1, counts).reshape(-1)


def samples() -> list[tuple[str, Array, Array]]:
    """Distinct values and their counts: of fp16 weights with so many distinct ones, and of a million fp32 weights."""
    rng = np.random.default_rng(0)
    values, counts = np.unique((rng.standard_t(5, 20_000_000) * 0.02).astype(np.float16), return_counts=True)
    found = []
    for n in (1_000, 5_000, 25_000):
        kept = np.sort(rng.choice(values.size, n, replace=False))
        found.append((f"{n:,} fp16", values[kept].astype(np.float64), counts[kept].astype(np.float64)))
    single = np.unique(rng.standard_t(5, 1_000_000).astype(np.float32)).astype(np.float64)
    return [*found, (f"{single.size:,} fp32", single, np.ones(single.size))]


def vectors() -> Table:
    weight = (np.random.default_rng(0).standard_t(5, (384, 768)) * 0.02).astype(np.float16)
    table = columns("k-means of vectors, 384 x 768", "cluster_dim", "clusters", "ours", "peer", "peer, 10 starts")
    for dim in (2, 4):
        points = weight.reshape(384 // dim, dim, 768).swapaxes(1, 2).reshape(-1, dim).astype(np.float32)
        for bits in BITS:
            solvers = [
                partial(vector_table, weight, bits, dim),
                partial(scikit_learn, points, 1 << bits, 1),
                partial(scikit_learn, points, 1 << bits, 10),
            ]
            row = [cell(solver, partial(vector_error, points)) for solver in solvers]
            table.add_row(str(dim), str(1 << bits), *row)
    return table


def vector_table(weight: Array, bits: int, dim: int) -> Array:
    from corepress.algorithms.palettize import palettize

    return palettize(weight, bits, mode="kmeans", channel_axis=0, cluster_dim=dim).lut.reshape(-1, dim)


def scikit_learn(points: Array, k: int, starts: int, weights: Array | None = None) -> Array:
    from sklearn.cluster import KMeans

    model = KMeans(k, init="k-means++", tol=1e-2, n_init=starts, random_state=0)
    return model.fit(points, sample_weight=weights).cluster_centers_


def error(values: Array, counts: Array, centroids: Array) -> float:
    """The weighted squared error when each value takes its nearest centroid."""
    centroids = np.sort(centroids)
    nearest = centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)]
    return float(np.dot(counts, (values - nearest) ** 2))


def vector_error(points: Array, centroids: Array) -> float:
    """The squared error when each vector takes its nearest centroid."""
    total = 0.0
    for part in np.array_split(points, 64):
        distances = ((part[:, None, :] - centroids.astype(np.float32)) ** 2).sum(axis=2)
        total += float(distances.min(axis=1).sum(dtype=np.float64))
    return total


def columns(title: str, *headers: str) -> Table:
    table = Table(title=title, caption="seconds, squared error")
    for header in headers:
        table.add_column(header, justify="right")
    return table


def cell(solver: Callable[[], Array] | None, judge: Callable[[Array], float]) -> str:
    """Seconds and error of a solver, the best of up to 4 runs, the first of which loads it; one run if it is slow."""
    if solver is None:
        return "left out"
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds) < 3:
        start = time.perf_counter()
        centroids = solver()
        seconds.append(time.perf_counter() - start)
    return f"{min(seconds):.4f} s, {judge(centroids):.5g}"


if __name__ == "__main__":
    main()
