"""What is measured. Both libraries have the same names, so one description of a job serves both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """`apply(cto, model, **extra)` with `cto` either `coremltools.optimize.coreml` or `corepress.coreml`.

    `quick`: the peer takes seconds, not minutes. `on_palettized`: starts from the model with 8-bit look-up tables.
    """

    apply: Callable[..., Any]
    quick: bool = False
    on_palettized: bool = False


def palettize(**arguments: Any) -> Callable[..., Any]:
    def apply(cto: Any, model: Any, **extra: Any) -> Any:
        return cto.palettize_weights(model, cto.OptimizationConfig(cto.OpPalettizerConfig(**arguments)), **extra)

    return apply


def quantize(**arguments: Any) -> Callable[..., Any]:
    def apply(cto: Any, model: Any, **extra: Any) -> Any:
        config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**arguments))
        return cto.linear_quantize_weights(model, config, **extra)

    return apply


def prune(**arguments: Any) -> Callable[..., Any]:
    def apply(cto: Any, model: Any, **extra: Any) -> Any:
        return cto.prune_weights(model, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(**arguments)), **extra)

    return apply


def decompress(cto: Any, model: Any, **extra: Any) -> Any:
    return cto.decompress_weights(model, **extra)


JOBS = {
    "k-means 4 bits": Job(palettize(nbits=4)),
    "k-means 6 bits": Job(palettize(nbits=6)),
    "k-means 8 bits": Job(palettize(nbits=8)),
    "k-means 4 bits, groups of 16": Job(palettize(nbits=4, granularity="per_grouped_channel", group_size=16)),
    "int4 blocks of 32": Job(quantize(dtype="int4", granularity="per_block", block_size=32), quick=True),
    "int8 per channel": Job(quantize(dtype="int8"), quick=True),
    "prune 50 %": Job(prune(target_sparsity=0.5), quick=True),
    "decompress 8 bits": Job(decompress, on_palettized=True),
}
