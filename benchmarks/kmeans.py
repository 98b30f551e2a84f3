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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Array = NDArray[Any]
BITS = (4, 6, 8)
SLOW = 4e8  # numbers times clusters: what would take kmeans1d minutes, and gigabytes, is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", action="store_true", help="cluster vectors instead of numbers")
    warnings.simplefilter("ignore")
    Console().print(vectors() if parser.parse_args().vectors else numbers())


def numbers() -> Table:
    from corepress.algorithms.kmeans1d import cluster

    table = columns("k-means of numbers", "numbers", "clusters", "ours", "kmeans1d", "peer")
    for what, values, counts in samples():
        for bits in BITS:
            k = 1 << bits

            def ours(k: int = k, values: Array = values, counts: Array = counts) -> Array:
                return cluster(values, counts, k).centroids

            def kmeans1d(k: int = k, values: Array = values, counts: Array = counts) -> Array:
                from coremltools._deps import _kmeans1d

                return np.array(_kmeans1d.cluster(values, k, weights=counts).centroids)

            def peer(k: int = k, values: Array = values, counts: Array = counts) -> Array:
                return scikit_learn(values.reshape(-1, 1), k, 1, counts).reshape(-1)

            slow = values.size * k > SLOW
            solvers = [ours, None if slow and bits == 8 else kmeans1d, peer]
            table.add_row(what, str(k), *(
                cell(solver, lambda found, values=values, counts=counts: error(values, counts, found))
                for solver in solvers
            ))  # fmt: skip
    return table


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
    from corepress.algorithms.palettize import palettize

    weight = (np.random.default_rng(0).standard_t(5, (768, 768)) * 0.02).astype(np.float16)
    table = columns("k-means of vectors, 768 x 768", "cluster_dim", "clusters", "ours", "peer", "peer, 10 starts")
    for dim in (2, 4):
        points = weight.reshape(768 // dim, dim, 768).swapaxes(1, 2).reshape(-1, dim).astype(np.float32)
        for bits in BITS:
            solvers = (
                lambda bits=bits, dim=dim: palettize(
                    weight, bits, mode="kmeans", channel_axis=0, cluster_dim=dim
                ).lut.reshape(-1, dim),
                lambda bits=bits, points=points: scikit_learn(points, 1 << bits, 1),
                lambda bits=bits, points=points: scikit_learn(points, 1 << bits, 10),
            )
            row = [cell(solver, lambda found, points=points: vector_error(points, found)) for solver in solvers]
            table.add_row(str(dim), str(1 << bits), *row)
    return table


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
    total = 0.0
    exact = centroids.astype(np.float32)
    for part in np.array_split(points, 64):
        total += float(((part[:, None, :] - exact) ** 2).sum(axis=2).min(axis=1).sum(dtype=np.float64))
    return total


def columns(title: str, *headers: str) -> Table:
    table = Table(title=title, caption="seconds, squared error")
    for header in headers:
        table.add_column(header, justify="right")
    return table


def cell(solver: Callable[[], Array] | None, judge: Callable[[Array], float]) -> str:
    """Seconds and error of a solver: the best of up to 3 runs after one that loads it."""
    if solver is None:
        return "left out"
    seconds = []
    while len(seconds) < 4 and sum(seconds) < 3:
        start = time.perf_counter()
        centroids = solver()
        seconds.append(time.perf_counter() - start)
    return f"{min(seconds):.4f} s, {judge(centroids):.5g}"


if __name__ == "__main__":
    main()
