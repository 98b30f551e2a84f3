"""Each kernel beside the same in another checkout of corepress, warm, alternately in one run.

    python benchmarks/kernels.py --before OTHER_CHECKOUT/src [--only NAME] [--rounds 7]

Both versions run in a process of their own and take turns, so that what else the machine does hits both. Seconds are
the least of all turns, of one thread and of two that do the same at once; the ratio is before / now.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

Work = Callable[[], Any]
FLOATS = ("float16", "float32")
SYMMETRIC = "linear_symmetric"
HERE = Path(__file__).resolve()
# glibc keeps what is freed, or not, by what else lies in memory; to fetch 4 MB anew takes longer than some kernels.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
AT_LEAST = 0.01  # seconds of a turn: short calls are repeated


def numbers(*shape: int, dtype: Any = np.float16) -> Any:
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(dtype)


def integers(*shape: int, below: int = 256) -> Any:
    return np.random.default_rng(0).integers(0, below, shape).astype(np.uint8)


def pack(bits: int) -> Work:
    from corepress.weights import pack_bits

    values = integers(1 << 22, below=1 << bits)
    return lambda: pack_bits(values, bits)


def unpack(bits: int) -> Work:
    from corepress.weights import unpack_bits

    packed = integers((1 << 22) * bits // 8)
    return lambda: unpack_bits(packed, bits, 1 << 22)


def keep(dtype: Any) -> Work:
    from corepress.weights import kept_values

    values, mask = numbers(1 << 22, dtype=dtype), integers(1 << 22, below=2).astype(bool)
    return lambda: kept_values(values, mask)


def settle(bits: int = 0, n_m: tuple[int, int] = (0, 0), normal_float: bool = False) -> Work:
    import torch

    from corepress.algorithms.fitted.grid import Grid
    from corepress.algorithms.fitted.sweep import settle_in_kernel

    weight = torch.from_numpy(numbers(128, 1024, dtype=np.float32))
    factor = torch.from_numpy(numbers(128, 128, dtype=np.float32)).triu() + torch.eye(128)
    grid = Grid(weight.T.contiguous(), bits=bits, block_size=32, normal_float=normal_float) if bits else None
    kept, levels = torch.ones(weight.shape, dtype=torch.bool), torch.empty(weight.shape, dtype=torch.uint8)
    masked = bool(n_m[1])

    def work() -> None:
        own = kept.clone() if masked else None
        settle_in_kernel(weight.clone(), factor, own, n_m, grid, slice(0, 128), levels.clone())

    return work


def smallest() -> Work:
    import torch

    from corepress.algorithms.fitted.sweep import _dearest

    values, diagonal = torch.from_numpy(numbers(128, 4096, dtype=np.float32)), torch.ones(128)
    return lambda: _dearest(values, diagonal, 0.5)


def tables_and_codes(bits: int, dim: int, rows: int) -> tuple[Any, Any, Any]:
    """Vectors (n, dim, 256), tables (1, entries, dim) and codes (n, 256)."""
    vectors = numbers(rows // dim, dim, 256, dtype=np.float32)
    tables = np.sort(numbers(1, 1 << bits, dim, dtype=np.float32), axis=1)
    return vectors, tables, integers(rows // dim, 256, below=1 << bits)


def feedback(bits: int, dim: int) -> Work:
    from corepress.algorithms.fitted.lut_gptq import _feedback

    vectors, tables, _ = tables_and_codes(bits, dim, 512)
    unit = np.triu(numbers(256, 256, dtype=np.float32), 1) + np.eye(256, dtype=np.float32)
    return lambda: _feedback(vectors, unit, tables)


def descend(bits: int, dim: int) -> Work:
    from corepress.algorithms.fitted.lut_gptq import _descend

    vectors, tables, codes = tables_and_codes(bits, dim, 512)
    inputs = numbers(512, 256, dtype=np.float32)
    hessian = inputs.T @ inputs
    return lambda: _descend(vectors, hessian, codes.copy(), tables, 3)


def quantize(kind: Any, dtype: Any, mode: Any, block: int, search: bool = False) -> Work:
    from corepress.algorithms.linear import quantize

    weight = numbers(256, 1024) if search else numbers(1024, 1024)
    weight, sizes = weight.astype(kind), (1, block)
    return lambda: quantize(weight, dtype=dtype, mode=mode, block_sizes=sizes, scale_search=search)


def dequantize(dtype: Any, kind: Any, block: int) -> Work:
    from corepress.weights import Quantized

    data, scale = integers(1024, 1024).astype(kind), abs(numbers(1024, 1024 // block, dtype=dtype))
    weight = Quantized(data, scale, integers(*scale.shape).astype(kind))
    return weight.decompress


def look_up(dtype: Any, groups: int, bits: int, dim: int) -> Work:
    from corepress.weights import Palettized

    indices, lut = integers(1024, 1024, below=1 << bits), numbers(groups, 1, 1 << bits, dim, dtype=dtype)
    return Palettized(indices, lut, vector_axis=1 if dim > 1 else None).decompress


def take_entries(bits: int) -> Work:
    from corepress.kernels.lookup import take_entries

    tables = np.sort(numbers(64, 1 << bits, dtype="float32"))
    edges, points = (tables[:, 1:] + tables[:, :-1]) / 2, numbers(64, 16384, dtype="float32")
    return lambda: take_entries(points, edges, tables)


def swap(dtype: Any) -> Work:
    from corepress.weights.blocks import to_rows

    array = numbers(1024, 1024, dtype=dtype)
    return lambda: to_rows(array, (1, 1024))


def prune(dtype: Any, n_m: int = 0) -> Work:
    from corepress.algorithms.magnitude import prune_n_m, prune_sparsity

    weight = numbers(1024, 1024, dtype=dtype)
    return (lambda: prune_n_m(weight, 2, 4, n_m)) if n_m else (lambda: prune_sparsity(weight, 0.5))


def histogram(weighed: bool) -> Work:
    from corepress.algorithms.kmeans1d import histogram

    weight = numbers(1 << 21)
    importance = integers(1 << 21).astype(np.float64) if weighed else None
    return lambda: histogram(weight, importance)


def partition(k: int) -> Work:
    from corepress.algorithms.kmeans1d import cluster, histogram

    values, counts = histogram(numbers(1 << 22))
    return lambda: cluster(values, counts, k)


def kmeans(k: int, rows: int, dtype: Any = np.float16, binned: bool = False) -> Work:
    from corepress.algorithms.kmeans1d import quantize_rows

    weight = numbers(rows, (1 << 21) // rows, dtype=dtype)
    return lambda: quantize_rows(weight, k, binned=binned)


def nearest(k: int, rows: int, dtype: Any = np.float16) -> Work:
    from corepress.algorithms.kmeans1d import nearest

    weight = numbers(rows, (1 << 21) // rows, dtype=dtype)
    tables = np.sort(weight[:, :k], axis=1)
    return lambda: nearest(weight, tables)


def vectors(k: int, d: int, what: str) -> Work:
    from corepress.algorithms.kmeans_nd import cluster_vectors, distinct_vectors, nearest_vectors

    points = numbers(1 << 17, d, dtype=np.float32)
    few = points[integers(1 << 20, below=k)]
    work = {
        "k-means": lambda: cluster_vectors(points[: 1 << 15], k),
        "nearest": lambda: nearest_vectors(points, points[:k]),
        "distinct": lambda: distinct_vectors(few, k),
    }
    return work[what]


def product(form: str, size: tuple[int, int], tokens: int) -> Work:
    """`form`: bits of a look-up table; or of integers, with blocks of so many columns, and offsets or not."""
    import torch

    from corepress.runtime.packed import pack
    from corepress.weights import Palettized, Quantized

    kind, bits, *rest = form.split()
    data = integers(*size, below=1 << int(bits))
    weight: Any = Palettized(data, numbers(1, 1, 1 << int(bits), 1))
    if kind == "int":
        blocks, half = size[1] // min(int(rest[0]), size[1]), 1 << (int(bits) - 1)
        offset = integers(size[0], blocks, below=half).view(np.int8) if "offsets" in rest else None
        weight = Quantized((data.astype(np.int16) - half).astype(np.int8), numbers(size[0], blocks), offset, int(bits))
    packed, x = pack(weight, torch.float32), torch.from_numpy(numbers(tokens, size[1], dtype=np.float32))
    assert packed is not None
    if tokens > 64:  # more than the kernels multiply: only what makes rows dense
        room = torch.zeros(size[0], packed.padded)
        return lambda: packed.tile(0, size[0], room)
    return lambda: packed(x)


FORMS = [f"table {bits}" for bits in (1, 2, 3, 4, 6, 8)]
FORMS += ["int 4 32", "int 4 16", "int 4 32 offsets", "int 8 9999", "int 8 9999 offsets", "int 8 64", "int 4 8"]


# Each makes its data, and gives the work that is timed; only what both versions have is called.
CASES: dict[str, Callable[[], Work]] = {
    **{f"pack, {bits} bits": lambda bits=bits: pack(bits) for bits in (2, 3, 4, 6)},
    **{f"unpack, {bits} bits": lambda bits=bits: unpack(bits) for bits in (2, 3, 4, 6)},
    "settle, values": settle,
    **{f"settle, {bits} bits": lambda bits=bits: settle(bits) for bits in (4, 8)},
    **{f"settle, normal float of {bits}": lambda bits=bits: settle(bits, normal_float=True) for bits in (3, 4)},
    **{f"settle, {n} of {m}": lambda n=n, m=m: settle(0, (n, m)) for n, m in ((2, 4), (4, 8))},
    "settle, 2 of 4, 4 bits": lambda: settle(4, (2, 4)),
    "smallest": smallest,
    **{
        f"{work.__name__}, {bits} bits, vectors of {dim}": lambda work=work, bits=bits, dim=dim: work(bits, dim)
        for work in (feedback, descend)
        for bits, dim in ((2, 1), (4, 1), (6, 1), (8, 1), (4, 2), (6, 4))
    },
    **{f"keep, {dtype}": lambda dtype=dtype: keep(dtype) for dtype in FLOATS},
    **{f"int4, blocks of 32, {kind}": lambda kind=kind: quantize(kind, "int4", SYMMETRIC, 32) for kind in FLOATS},
    **{f"int8, per channel, {kind}": lambda kind=kind: quantize(kind, "int8", SYMMETRIC, 0) for kind in FLOATS},
    **{f"uint4, zero points, {kind}": lambda kind=kind: quantize(kind, "uint4", "linear", 32) for kind in FLOATS},
    "scale search, int4, blocks of 32": lambda: quantize("float16", "int4", SYMMETRIC, 32, search=True),
    "scale search, uint4, zero points": lambda: quantize("float16", "uint4", "linear", 32, search=True),
    "scale search, int8, per channel": lambda: quantize("float16", "int8", SYMMETRIC, 0, search=True),
    **{f"dequantize, blocks of 32, {dtype}": lambda dtype=dtype: dequantize(dtype, "int8", 32) for dtype in FLOATS},
    **{f"dequantize, per channel, {dtype}": lambda dtype=dtype: dequantize(dtype, "uint8", 1024) for dtype in FLOATS},
    **{f"look up, 4 bits, {dtype}": lambda dtype=dtype: look_up(dtype, 1, 4, 1) for dtype in FLOATS},
    "look up, 8 bits, 64 tables": lambda: look_up("float16", 64, 8, 1),
    **{f"look up, vectors of {dim}": lambda dim=dim: look_up("float16", 1, 6, dim) for dim in (2, 3, 4)},
    **{f"nearest entries, {bits} bits, 64 tables": lambda bits=bits: take_entries(bits) for bits in (2, 4, 8)},
    **{f"columns to rows, {dtype}": lambda dtype=dtype: swap(dtype) for dtype in ("uint8", *FLOATS, "float64")},
    **{f"prune 50 %, {dtype}": lambda dtype=dtype: prune(dtype) for dtype in FLOATS},
    **{f"prune 2:4, {dtype}": lambda dtype=dtype: prune(dtype, 1) for dtype in FLOATS},
    "histogram, float16": lambda: histogram(False),
    "histogram, float16, weighed": lambda: histogram(True),
    **{f"partition, {k} clusters": lambda k=k: partition(k) for k in (4, 16, 64, 256)},
    **{f"k-means, float16, {k} clusters": lambda k=k: kmeans(k, 1) for k in (16, 256)},
    **{f"k-means, float16, {k} clusters, rows of 4096": lambda k=k: kmeans(k, 512) for k in (4, 16)},
    "k-means, float32, 16 clusters": lambda: kmeans(16, 1, np.float32),
    **{f"k-means, float32, {k} clusters, bins": lambda k=k: kmeans(k, 1, np.float32, True) for k in (16, 256)},
    **{f"nearest of {k}, float16": lambda k=k: nearest(k, 1) for k in (16, 256)},
    **{f"nearest of {k}, float32, bins": lambda k=k: nearest(k, 1, np.float32) for k in (16, 256)},
    **{f"nearest of {k}, float32, rows of 1024": lambda k=k: nearest(k, 2048, np.float32) for k in (4, 16, 256)},
    **{
        f"vectors, {what}, {k} of {d}": lambda k=k, d=d, what=what: vectors(k, d, what)
        for what in ("k-means", "nearest", "distinct")
        for k, d in ((16, 2), (16, 4), (64, 8), (256, 2))
    },
    **{
        f"{'product' if tokens <= 64 else 'dense'}, {form}, {size}, {tokens}": partial(product, form, size, tokens)
        for size in ((256, 256), (1024, 1024), (4096, 1024))
        for form in FORMS
        for tokens in (1, 4, 16, 64, 65)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the folder `src` of another checkout")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    sources = {"now": HERE.parent.parent / "src"} | ({"before": options.before} if options.before else {})
    table = Table("kernel", *(f"{name}, {n} ms" for name in sources for n in ("1 thread", "2 threads")), "1", "2")
    for case in (name for name in CASES if options.only in name):
        taken = race(case, sources, options.rounds)
        cells = [f"{1000 * seconds:.3f}" for times in taken.values() for seconds in times]
        ratios = [f"{b / n:.2f}" for b, n in zip(taken["before"], taken["now"], strict=True)] if options.before else []
        print(case, *cells, *ratios, sep=" | ", file=sys.stderr)
        table.add_row(case, *cells, *ratios)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def race(case: str, sources: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """For each version the least seconds, with one thread and with two."""
    racers = {}
    for name, source in sources.items():
        environment = os.environ | KEPT_MEMORY | {"PYTHONPATH": str(source)}
        command = [sys.executable, str(HERE), "--serve"]
        racers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        ask(racers[name], case)
    best = {name: [float("inf")] * 2 for name in sources}
    for _ in range(rounds):
        for name, racer in racers.items():
            best[name] = [min(pair) for pair in zip(best[name], map(float, ask(racer, "go").split()), strict=True)]
    for racer in racers.values():
        racer.communicate()
    return best


def ask(racer: subprocess.Popen[str], line: str) -> str:
    assert racer.stdin and racer.stdout
    racer.stdin.write(line + "\n")
    racer.stdin.flush()
    return racer.stdout.readline()


def serve() -> None:
    """A racer: the first line names the case, each further one asks for a turn."""
    work = CASES[sys.stdin.readline().strip()]()
    work()
    start = time.perf_counter()
    work()
    repeats = max(1, round(AT_LEAST / (time.perf_counter() - start)))
    print("ready", flush=True)
    with ThreadPoolExecutor(2) as pool:
        for _ in sys.stdin:
            print(*(turn(work, repeats, threads, pool) for threads in (1, 2)), flush=True)


def turn(work: Work, repeats: int, threads: int, pool: ThreadPoolExecutor) -> float:
    start = time.perf_counter()
    list(pool.map(lambda _: [work() for _ in range(repeats)], range(threads)))
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    main()
