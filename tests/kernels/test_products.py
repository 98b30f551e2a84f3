"""Products with packed weights beside those in float64, within rounding, and the same bits at each level."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.library import levels
from corepress.kernels.packing import pack
from corepress.kernels.products import Described, describe, multiply, spread, together
from tests.kernels.guarded import guarded

Array = np.ndarray
F = np.float32
EPSILON = float(np.finfo(F).eps)
BITS = (1, 2, 3, 4, 6, 8, 0)  # 0: int8 numbers without a table
SIZES = (1, 5, 16, 32, 37, 48, 64, 96, 128, 160, 1024, 1100, 2112)  # columns


class Weight:
    """A weight, dense in float64, and the guarded arrays that a kernel is told of."""

    def __init__(self, seed: int, bits: int, rows: int, columns: int, blocks: int, kinds: tuple[str, str]):
        rng = np.random.default_rng(seed)
        low, high = (-128, 128) if bits == 0 else (0, 1 << bits)
        codes = rng.integers(low, high, (rows, columns))
        tables = rng.normal(size=(int(rng.choice([1, 2, rows])), 1 << bits)).astype(F)
        scale_kind, offset_kind = kinds
        groups = int(rng.choice([1, 2, rows]))
        scales = np.zeros((0, 0), F) if not scale_kind else rng.uniform(0.01, 1, (groups, blocks)).astype(scale_kind)
        offsets = rng.integers(0, 100, scales.shape).astype(offset_kind or "u1")
        offsets = offsets if offset_kind and scale_kind else np.zeros((0, 0), F)

        self.rows, self.columns = rows, columns
        row = np.arange(rows)
        numbers = codes.astype(F) if bits == 0 else tables[row * len(tables) // rows][row[:, None], codes]
        block = np.arange(columns) * blocks // columns
        if offsets.size:
            numbers = numbers - offsets[row * groups // rows][:, block].astype(F)
        if scales.size:
            numbers = numbers * scales[row * groups // rows][:, block].astype(F)
        self.dense = numbers
        stored = stored_codes(codes, bits)
        self.arrays = [guarded(array) for array in (stored, tables if bits else np.zeros((0, 0), F), scales, offsets)]
        self.described: Described = describe(columns, bits or 8, *self.arrays)


def stored_codes(codes: Array, bits: int) -> Array:
    """As `describe` says: each row filled up to 128s, and of these every sixteenth together."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 128) * 128), np.int64)
    padded[:, : codes.shape[1]] = codes
    if bits in (0, 8):
        return padded.astype(np.int8 if bits == 0 else np.uint8)
    together = padded.reshape(len(codes), -1, 8, 16).swapaxes(2, 3).astype(np.uint8)
    return pack(np.ascontiguousarray(together).reshape(-1), bits).reshape(len(codes), -1)


def multiplied(weight: Weight, x: Array, cut: int) -> Array:
    """By a kernel, the rows before `cut` and those after it apart."""
    padded = np.zeros((len(x), weight.described.padded), F)
    padded[:, : weight.columns] = x
    padded, y = guarded(padded), guarded(np.full((len(x), weight.rows), np.nan, F))
    many = together(padded)
    for first, last in ((0, cut), (cut, weight.rows)):
        multiply(weight.described, padded, None if many is None else guarded(many), y, first, last)
    return y


def check(weight: Weight, tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = int(rng.integers(0, weight.rows + 1))
    room = guarded(np.full((weight.rows, weight.described.padded), np.nan, F))
    for first, last in ((0, cut), (cut, weight.rows)):
        spread(weight.described, room[first:last], first, last)
    np.testing.assert_array_equal(room[:, : weight.columns], weight.dense)

    x = rng.normal(size=(tokens, weight.columns)).astype(F)
    dense = weight.dense.astype(np.float64)
    found, exact = multiplied(weight, x, cut), x.astype(np.float64) @ dense.T
    # Each product goes through as many roundings as there are additions, and two of its own.
    bound = (weight.columns + 4) * EPSILON * (np.abs(x).astype(np.float64) @ np.abs(dense).T)
    assert (np.abs(found - exact) <= bound + 1e-30).all()


def blocks_of(columns: int) -> list[int]:
    return [blocks for blocks in (1, 2, 3, 4, 6, 10, columns) if columns % blocks == 0]


@pytest.mark.parametrize("bits", BITS)
def test_products(bits) -> None:
    kinds = st.tuples(st.sampled_from(["", "f2", "f4"]), st.sampled_from(["", "i1", "u1", "i2", "f2", "f4"]))
    rows = st.integers(1, 30)
    tokens = st.integers(0, 18) | st.sampled_from([31, 33, 64])

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1), rows, st.sampled_from(SIZES), st.integers(0, 6), tokens, kinds)
    def each(seed: int, rows: int, columns: int, choice: int, tokens: int, kinds: tuple[str, str]) -> None:
        possible = blocks_of(columns)
        weight = Weight(seed, bits, rows, columns, possible[choice % len(possible)], kinds)
        check(weight, tokens, seed)

    each()


@pytest.mark.parametrize("bits", [4, 8, 0])
def test_numbers_that_are_none_stay_in_their_places(bits) -> None:
    weight = Weight(1, bits, 14, 160, 5, ("f4", ""))
    x = np.random.default_rng(0).normal(size=(19, 160)).astype(F)
    x[3, 7], x[5, 0], x[18, 159] = np.nan, np.inf, -np.inf
    found = multiplied(weight, x, 5)
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float64) @ weight.dense.T.astype(np.float64)
    assert (np.isnan(found) == np.isnan(expected)).all()
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(found[infinite], expected[infinite])
    assert np.isfinite(found[~infinite & ~np.isnan(expected)]).all()


def digest() -> str:
    """Of products of all forms, for several numbers of tokens, with scales for all that sixteen columns may do."""
    found = hashlib.sha256()
    for bits, (columns, blocks) in product(BITS, ((1100, 1), (160, 5), (1152, 36), (96, 2), (36, 4), (2048, 2))):
        for kinds in (("", ""), ("f2", ""), ("f4", "i2")):
            weight = Weight(columns, bits, 14, columns, blocks, kinds)
            for tokens in (1, 3, 4, 14, 18):
                x = np.random.default_rng(tokens).normal(size=(tokens, columns)).astype(F)
                found.update(multiplied(weight, x, 7).tobytes())
    return found.hexdigest()


@pytest.mark.skipif(len(levels()) == 1, reason="this machine has one level")
def test_each_level_gives_the_same_bits() -> None:
    code = "from tests.kernels.test_products import digest; print(digest())"
    found = set()
    for level in levels():
        environment = os.environ | {"COREPRESS_CPU": level}
        root = Path(__file__).parent.parent.parent
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
        found.add(done.stdout.strip())
    assert len(found) == 1 and all(found)


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    weight = Weight(0, 4, 6, 64, 2, ("f2", "i1"))
    codes, tables, scales, offsets = weight.arrays
    with pytest.raises(ValueError, match="don't fill"):
        describe(200, 4, codes, tables, scales, offsets)
    with pytest.raises(ValueError, match="no tables of shape"):
        describe(64, 4, codes, tables[:, :8], scales, offsets)
    with pytest.raises(ValueError, match="no tables of shape"):
        describe(64, 4, codes, np.zeros((0, 0), F), scales, offsets)
    with pytest.raises(ValueError, match="blocks"):
        describe(64, 4, codes, tables, scales, offsets[:, :1])
    with pytest.raises(ValueError, match="not of float64"):
        describe(64, 4, codes, tables, scales.astype(np.float64), offsets)
    x, y = np.zeros((2, 128), F), np.zeros((2, 6), F)
    with pytest.raises(ValueError, match="no rows from 0 to 7"):
        multiply(weight.described, x, None, y, 0, 7)
    with pytest.raises(ValueError, match="shape"):
        multiply(weight.described, x[:, :64].copy(), None, y, 0, 6)
