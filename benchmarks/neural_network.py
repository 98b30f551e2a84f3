"""Compression of a neural network (iOS 15 and older), coremltools and corepress side by side.

    python benchmarks/neural_network.py [MILLIONS]

The network is made with coremltools' `NeuralNetworkBuilder`: convolutions and inner products of MILLIONS (25) of
parameters, float32. Seconds are those of the call, `MLModel` in, `MLModel` out. The `kmeans_lut` of coremltools raises
TypeError with current numpy, so its own k-means goes through its `custom_lut`, with the table flattened for it; with 25
million parameters that takes it half an hour.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.neural_network import quantization_utils as peer
from rich.console import Console
from rich.table import Table

from corepress.formats.neural_network.layers import find_weights
from corepress.formats.schema import Model as ModelProto
from corepress.neural_network import quantization_utils as ours

JOBS = (
    ("linear, 8 bits", 8, "linear"),
    ("k-means, 4 bits", 4, "kmeans"),
    ("k-means, 6 bits", 6, "kmeans"),
    ("k-means, 8 bits", 8, "kmeans"),
)


def main() -> None:
    logging.disable(logging.WARNING)
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 25
    spec, tiny = network(millions), network(0.01, channels=16)
    original = dense(spec)
    console = Console(width=100)
    title = f"{sum(weight.size for weight in original) / 1e6:.1f}M parameters, float32"
    table = Table("", "coremltools s", "corepress s", "faster", "coremltools error", "corepress error", title=title)
    for name, nbits, mode in JOBS:
        rows = []
        for quantize in (by_peer, by_corepress):
            quantize(mlmodel(tiny), nbits, mode)
            seconds, result = timed(quantize, mlmodel(spec), nbits, mode)
            rows.append((seconds, squared_error(original, dense(result.get_spec()))))
            print(f"{quantize.__name__}, {name}: {seconds:.2f} s, error {rows[-1][1]:.6g}", file=sys.stderr)
        (their_seconds, their_error), (our_seconds, our_error) = rows
        times = f"{their_seconds:.2f}", f"{our_seconds:.2f}", f"{their_seconds / our_seconds:.1f}x"
        table.add_row(name, *times, f"{their_error:.6g}", f"{our_error:.6g}")
    console.print(table)


def network(millions: float, channels: int = 256) -> Any:
    """A quarter of the parameters in 3x3 convolutions, the rest in inner products of four times as many channels."""
    wide = 4 * channels
    rng = np.random.default_rng(0)
    builder = NeuralNetworkBuilder([("data", datatypes.Array(channels, 8, 8))], [("out", None)])
    for number in range(max(1, round(millions * 0.25e6 / (9 * channels**2)))):
        weight = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
        name = f"conv{number}"
        builder.add_convolution(
            name, channels, channels, 3, 3, 1, 1, "same", 1, weight, None, False, input_name="data", output_name=name
        )
    for number in range(max(1, round(millions * 0.75e6 / wide**2))):
        weight = rng.standard_t(5, size=(wide, wide)).astype(np.float32)
        builder.add_inner_product(f"ip{number}", weight, None, wide, wide, False, "data", f"ip{number}")
    return builder.spec


def mlmodel(spec: Any) -> Any:
    """An `MLModel` of its own, since coremltools may change what it is given."""
    copy = type(spec)()
    copy.CopyFrom(spec)
    return ct.models.MLModel(copy, skip_model_load=True)


def by_corepress(model: Any, nbits: int, mode: str) -> Any:
    return ours.quantize_weights(model, nbits, mode)


def by_peer(model: Any, nbits: int, mode: str) -> Any:
    mode, arguments = ("custom_lut", {"lut_function": kmeans}) if mode == "kmeans" else (mode, {})
    with contextlib.redirect_stdout(io.StringIO()):
        return peer.quantize_weights(model, nbits, mode, **arguments)


def kmeans(nbits: int, weight: Any) -> Any:
    lut, indices = peer._get_kmeans_lookup_table_and_weight(nbits, weight)
    return np.asarray(lut).reshape(-1), indices


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def dense(spec: Any) -> list[Any]:
    own = ModelProto()
    own.ParseFromString(spec.SerializeToString())
    return [weight.dense() for weight in find_weights(own)]


def squared_error(before: list[Any], after: list[Any]) -> float:
    return sum(float(np.sum((a - b) ** 2, dtype=np.float64)) for a, b in zip(before, after, strict=True))


if __name__ == "__main__":
    main()
