"""Products with weights that stay packed: exact ones, of small integers, and others, whose last digits are free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from corepress.runtime.packed import Packed, cpu, pack
from corepress.weights import Palettized, Quantized
from tests.kernels.grid.cases import Array, Case
from tests.kernels.grid.numbers import bell, integers, powers

TOKENS = (1, 2, 4, 7, 64)
COLUMNS = (5, 64, 96, 1152)
Weight = Palettized | Quantized


def tables(bits: int, shape: tuple[int, int], exact: bool, kind: str) -> Palettized:
    lut = integers(bits, -8, 8, (4, 1, 1 << bits, 1)) if exact else bell(bits, (4, 1, 1 << bits, 1))
    return Palettized(integers(bits, 0, (1 << bits) - 1, shape, "uint8"), lut.astype(kind))


def scales(shape: tuple[int, int], exact: bool, kind: str) -> Array:
    return powers(1, -2, 1, shape, kind) if exact else (1 + bell(1, shape, 2.0**-18)).astype(kind)


def counts(columns: int) -> list[tuple[int, int]]:
    every = ((1, 1), (36, 1), (1, 4), (36, 2), (36, 3), (12, 8), (36, 18))
    return [(rows, blocks) for rows, blocks in every if columns % blocks == 0]


def weights(columns: int, exact: bool) -> Iterator[tuple[str, list[Weight]]]:
    shape = (36, columns)
    for bits in (1, 2, 3, 4, 6, 8):
        for kind in ("float16", "float32"):
            plain = tables(bits, shape, exact, kind)
            scaled: list[Weight] = [Quantized(plain, scales(count, exact, kind)) for count in counts(columns)]
            yield f"{bits} bits, {kind}", [plain, *scaled]
    for bits, kind, low in ((4, "int8", -8), (4, "uint8", 0), (8, "int8", -128), (8, "uint8", 0)):
        data = integers(2, low, low + (1 << bits) - 1, shape, kind)
        for scale_type in ("float16", "float32"):
            forms: list[Weight] = []
            for count in counts(columns):
                scale, offset = scales(count, exact, scale_type), integers(3, low, low + (1 << bits) - 1, count, kind)
                forms += [Quantized(data, scale, None, bits), Quantized(data, scale, offset, bits)]
            yield f"{bits} bits, {kind} under {scale_type}", forms


def packed(weight: Weight) -> Packed:
    found = pack(weight, torch.float32)
    assert found is not None
    return found


def dense(weight: Packed) -> torch.Tensor:
    """All rows, but the first and the last apart."""
    room = torch.zeros(weight.rows, weight.padded)
    parts = [(0, 1), (1, weight.rows - 1), (weight.rows - 1, weight.rows)]
    return torch.cat([cpu.tile(weight, first, last, room[: last - first]).clone() for first, last in parts])


def tiles() -> Iterator[Case]:
    for columns in COLUMNS:
        for name, forms in weights(columns, exact=False):
            yield Case(f"{columns} columns, {name}", tuple(dense(packed(form)).numpy() for form in forms))


def exact_products() -> Iterator[Case]:
    for columns in COLUMNS:
        for name, forms in weights(columns, exact=True):
            found = [
                packed(form)(torch.from_numpy(integers(tokens, -4, 4, (tokens, columns), "float32"))).numpy()
                for form in forms
                for tokens in TOKENS
            ]
            yield Case(f"{columns} columns, {name}", tuple(found))


def products() -> Iterator[Case]:
    for columns in (96, 1152):
        for name, forms in weights(columns, exact=False):
            found: list[Any] = []
            error = 0.0
            for form in forms:
                weight = packed(form)
                exact = dense(weight).double()
                for tokens in TOKENS:
                    x = torch.from_numpy(bell(tokens, (tokens, columns)).astype(np.float32))
                    y = weight(x)
                    found.append(y.numpy())
                    error += float((y.double() - x.double() @ exact.T).square().sum())
            yield Case(f"{columns} columns, {name}", tuple(found), error)


GROUPS = (tiles, exact_products, products)
