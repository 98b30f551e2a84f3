"""Linear quantization, and pruning by magnitude."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from corepress.algorithms.linear import quantize
from corepress.algorithms.magnitude import prune_n_m, prune_sparsity, prune_threshold, sparsity
from tests.kernels.grid.cases import Case, squared_error
from tests.kernels.grid.numbers import integers, of_kind

TYPES: tuple[Any, ...] = ("int4", "uint4", "int8", "uint8")
MODES: tuple[Any, ...] = ("linear_symmetric", "linear")
KINDS = ("bell", "heavy", "wide", "subnormal", "huge", "positive", "negative", "some zero rows", "few", "outlier")
BLOCKS = ((0, 0), (1, 0), (0, 1), (1, 16), (1, 3), (1, 1), (8, 12))
SHAPE = (24, 48)


def rounding() -> Iterator[Case]:
    for kind in KINDS:
        for weight_type in ("float16", "float32"):
            weight = of_kind(kind, len(kind), SHAPE, weight_type)
            for scale_type in ("float16", "float32"):
                for dtype in TYPES:
                    found = [
                        quantize(weight, dtype=dtype, mode=mode, block_sizes=blocks, scale_dtype=scale_type)
                        for mode in MODES
                        for blocks in BLOCKS
                    ]
                    yield Case(f"{kind} {weight_type}, {scale_type} scales, {dtype}", tuple(found))


def rounding_others() -> Iterator[Case]:
    """Other types of weights, masks, one value, and rows longer than what is taken at a time."""
    for weight_type in ("float64", "bfloat16"):
        weight = of_kind("bell", 1, SHAPE, weight_type)
        yield Case(weight_type, tuple(quantize(weight, dtype=dtype, block_sizes=(1, 16)) for dtype in TYPES))
    for weight_type in ("float16", "float32"):
        weight, mask = of_kind("bell", 2, SHAPE, weight_type), integers(3, 0, 1, SHAPE, "bool")
        weight[~mask] = np.nan
        masked = [
            quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 16), mask=mask)
            for dtype in TYPES
            for mode in MODES
        ]
        yield Case(f"{weight_type}, under a mask", tuple(masked))
        for shape in ((1, 1), (2, 4095), (2, 4097), (3, 5000)):
            weight = of_kind("heavy", 4, shape, weight_type)
            found = [quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 0)) for dtype in TYPES for mode in MODES]
            yield Case(f"{weight_type} {shape}", tuple(found))


def search() -> Iterator[Case]:
    """Scales that are searched: sums of many terms, in any order."""
    for kind in ("bell", "heavy", "wide", "subnormal", "huge", "positive", "outlier"):
        for weight_type in ("float16", "float32"):
            weight = of_kind(kind, len(kind), (16, 1024), weight_type)
            for dtype in TYPES:
                for mode in MODES:
                    found = quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 256), scale_search=True)
                    yield Case(f"{kind} {weight_type}, {dtype}, {mode}", (found,), squared_error(weight, found))


def search_exactly() -> Iterator[Case]:
    """Scales that are searched in blocks whose sums are exact in any order: small integers, plain scales of 2**k."""
    for weight_type in ("float16", "float32"):
        for dtype in TYPES:
            top = 7 if dtype.endswith("4") else 127
            weight = integers(5, -32, 32, (200, 16)) * (top / 32)
            weight[:, 0] = top * 2
            found = [
                quantize(
                    weight.astype(weight_type), dtype=dtype, block_sizes=(1, 0), scale_search=True, scale_dtype=kind
                )
                for kind in ("float16", "float32")
            ]
            error = sum(squared_error(weight.astype(weight_type), form) for form in found)
            yield Case(f"{weight_type}, {dtype}", tuple(found), error)


def magnitude() -> Iterator[Case]:
    for kind in ("bell", "wide", "subnormal", "huge", "some zero rows", "few", "zeros of both signs"):
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            weight = of_kind(kind, len(kind), (24, 50), dtype)
            found: list[Any] = [prune_threshold(weight, limit).mask for limit in (0.0, 2.0**-20, 0.25, 0.3, 1e9)]
            found += [prune_sparsity(weight, share).mask for share in (0, 0.1, 0.5, 0.501, 0.75, 0.999, 1)]
            found += [prune_sparsity(weight, 0.5, size, dim).mask for size, dim in ((2, 0), (5, 0), (3, 1), (25, 1))]
            ratios = ((0, 4), (2, 4), (1, 2), (3, 4), (4, 4), (5, 7), (9, 12))
            found += [prune_n_m(weight, n, m, dim).mask for n, m in ratios for dim in (0, 1)]
            found.append(np.float64(sparsity(weight)))
            yield Case(f"{kind} {dtype}", tuple(found))


def magnitude_shapes() -> Iterator[Case]:
    """Convolutions, many groups, one element, and columns beyond what is taken at a time."""
    for dtype in ("float16", "float32"):
        weight = of_kind("bell", 3, (12, 10, 3, 3), dtype)
        found = [prune_n_m(weight, n, m, dim).mask for n, m in ((2, 4), (1, 3)) for dim in (0, 1)]
        found += [prune_sparsity(weight, 0.4, 3, dim).mask for dim in (0, 1)]
        yield Case(f"convolution {dtype}", tuple(found))
        weight = of_kind("few", 4, (8, 2500), dtype)
        yield Case(f"columns {dtype}", tuple(prune_n_m(weight, 2, 4, dim).mask for dim in (0, 1)))
        weight = of_kind("bell", 5, (1,), dtype)
        yield Case(f"one {dtype}", tuple(prune_sparsity(weight, share).mask for share in (0.3, 0.9)))


GROUPS = (rounding, rounding_others, search, search_exactly, magnitude, magnitude_shapes)
