"""Each form against a literal reading of the MIL operation that stores it, and against coremltools."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from corepress.errors import FormatError
from corepress.weights import Palettized, Quantized, Sparse, decompress, pack_bits, stored_bytes
from corepress.weights.blocks import from_rows, to_rows

RNG = np.random.default_rng(0)
FLOATS = (np.float16, np.float32)


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert ours.flags.c_contiguous
    bits = f"u{ours.dtype.itemsize}"
    np.testing.assert_array_equal(ours.view(bits), np.ascontiguousarray(theirs).view(bits))


def slow_shift_scale(data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    dense = np.empty(data.shape, scale.dtype)
    for place in np.ndindex(data.shape):
        block = tuple(i * count // size for i, count, size in zip(place, scale.shape, data.shape, strict=True))
        value = scale.dtype.type(data[place])
        if offset is not None:
            value = value - scale.dtype.type(offset[block])
        dense[place] = scale[block] * value
    return dense


def slow_lut(indices: np.ndarray, lut: np.ndarray, vector_axis: int | None) -> np.ndarray:
    dim = lut.shape[-1]
    shape = list(indices.shape)
    if dim > 1:
        shape[vector_axis] *= dim
    dense = np.empty(shape, lut.dtype)
    for place in np.ndindex(indices.shape):
        group = tuple(i * count // size for i, count, size in zip(place, lut.shape[:-2], indices.shape, strict=True))
        for j in range(dim):
            target = list(place)
            if dim > 1:
                target[vector_axis] = place[vector_axis] * dim + j
            dense[tuple(target)] = lut[(*group, indices[place], j)]
    return dense


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((6,), (1,)), ((6,), (3,)),
    ((4, 6), (1, 1)), ((4, 6), (4, 1)), ((4, 6), (1, 6)), ((4, 6), (2, 3)), ((4, 6), (4, 2)), ((4, 6), (2, 6)),
    ((4, 6, 3, 3), (4, 1, 1, 1)), ((4, 6, 3, 3), (1, 6, 1, 1)), ((4, 6, 3, 3), (4, 2, 1, 1)),
    ((4, 6, 2, 3), (2, 3, 2, 1)), ((2, 4, 3, 2, 2), (2, 2, 1, 1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("shape, counts", SHAPES)
def test_blocks_become_rows_and_back(shape, counts) -> None:
    for order in "CF":
        array = np.asarray(RNG.integers(0, 1 << 16, shape).astype(np.uint16), order=order)
        rows = to_rows(array, counts)
        assert rows.shape == (np.prod(counts), array.size // np.prod(counts)) and rows.flags.c_contiguous
        for row, where in zip(rows, np.ndindex(counts), strict=True):
            box = tuple(slice(i * (n // c), (i + 1) * (n // c)) for i, n, c in zip(where, shape, counts, strict=True))
            np.testing.assert_array_equal(row, array[box].reshape(-1))
        same_bits(from_rows(rows, shape, counts), np.ascontiguousarray(array))


@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize("shape, counts", SHAPES)
def test_quantized(shape, counts, float_type) -> None:
    op = pytest.importorskip("coremltools.converters.mil.mil.ops.defs.iOS18.compression")
    scale = (RNG.standard_normal(counts) * RNG.choice([1e-7, 0.01, 400.0], counts)).astype(float_type)
    for (low, high, kind, bits), offsets in itertools.product(
        [(-8, 8, np.int8, 4), (0, 16, np.uint8, 4), (-128, 128, np.int8, 8), (0, 256, np.uint8, 8)],
        ["none", "integer", "float"],
    ):
        data = RNG.integers(low, high, shape).astype(kind)
        offset = None if offsets == "none" else RNG.integers(low, high, counts).astype(kind)
        if offsets == "float":
            offset = (RNG.standard_normal(counts) * 3).astype(float_type)
        ours = Quantized(data, scale, offset, bits)
        with np.errstate(over="ignore"):
            same_bits(ours.decompress(), slow_shift_scale(data, scale, offset))
            same_bits(ours.decompress(), op.constexpr_blockwise_shift_scale.decompress(data, scale, offset))
        offset_bytes = 0 if offset is None else offset.nbytes
        if offsets == "integer":
            offset_bytes = pack_bits(offset, bits).nbytes
        assert stored_bytes(ours) == ours.nbytes == pack_bits(data, bits).nbytes + scale.nbytes + offset_bytes
        assert ours.shape == shape and ours.dtype == float_type


@pytest.mark.parametrize("lut_type", [*FLOATS, np.int8, np.uint8])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettized(bits, lut_type) -> None:
    peer = pytest.importorskip("coremltools.optimize._utils")
    for (shape, counts), dim in itertools.product(SHAPES, [1, 2, 3]):
        indices = RNG.integers(0, 1 << bits, shape).astype(np.uint8)
        lut = (RNG.standard_normal((*counts, 1 << bits, dim)) * 40).astype(lut_type)
        for axis in [None] if dim == 1 else range(-1, len(shape)):
            ours = Palettized(indices, lut, axis)
            dense = ours.decompress()
            same_bits(dense, slow_lut(indices, lut, axis))
            same_bits(dense, np.ascontiguousarray(peer.lut_to_dense(indices, lut, axis)))
            assert ours.shape == dense.shape and ours.dtype == lut_type
            assert ours.bits == bits and ours.cluster_dim == dim
            assert ours.nbytes == pack_bits(indices, bits).nbytes + lut.nbytes


def test_an_index_beyond_the_table_is_refused() -> None:
    indices = np.array([[0, 1, 4]], np.uint8)
    with pytest.raises(FormatError, match="an index is 4"):
        Palettized(indices, np.zeros((1, 1, 4, 1), np.float16)).decompress()


def sparse_values(mask: np.ndarray) -> list[tuple[Any, int]]:
    """Values of each kind, with the bytes of what is kept."""
    kept = int(mask.sum())
    indices = RNG.integers(0, 8, mask.shape).astype(np.uint8)
    lut = RNG.standard_normal((1, 1, 8, 1)).astype(np.float16)
    data = RNG.integers(-8, 8, mask.shape).astype(np.int8)
    scale = RNG.standard_normal((mask.shape[0], 1)).astype(np.float16)
    dense = RNG.standard_normal(mask.shape).astype(np.float16)
    dense[~mask] = np.nan
    integers = RNG.integers(-128, 128, (1, 1, 8, 1)).astype(np.int8)
    small = np.array(0.1, np.float16).reshape(1, 1, 1, 1)
    three, four = (kept * 3 + 7) // 8, (kept * 4 + 7) // 8
    return [
        (dense, kept * 2),
        (dense.astype(np.float32), kept * 4),
        (Palettized(indices, lut), three + 16),
        (Palettized(indices, Quantized(integers, small)), three + 8 + 2),
        (Quantized(data, scale, None, 4), four + scale.nbytes),
        (Quantized(data, scale, np.full(scale.shape, -3, np.int8), 4), four + scale.nbytes + (scale.size + 1) // 2),
        (Quantized(Palettized(indices, lut), scale), three + 16 + scale.nbytes),
        (Quantized(Palettized(indices, integers), scale), three + 8 + scale.nbytes),
    ]


def test_sparse_with_values_of_each_kind() -> None:
    peer = pytest.importorskip("coremltools.optimize._utils")
    for share in (0.0, 0.4, 1.0):
        mask = RNG.random((6, 13)) < share
        for values, kept_bytes in sparse_values(mask):
            ours = Sparse(mask, values)
            dense = decompress(values)
            expected = np.zeros(mask.shape, dense.dtype)
            for place in zip(*np.nonzero(mask), strict=True):
                expected[place] = dense[place]
            same_bits(ours.decompress(), expected)
            same_bits(ours.decompress(), peer.sparse_to_dense(dense[mask], mask).astype(dense.dtype))
            assert ours.nbytes == pack_bits(mask, 1).nbytes + kept_bytes
            assert ours.shape == mask.shape and ours.dtype == dense.dtype


def test_a_quantized_lut_and_a_scaled_palette_are_the_chain_of_their_operations() -> None:
    indices = RNG.integers(0, 16, (4, 6)).astype(np.uint8)
    lut = Quantized(
        RNG.integers(-128, 128, (2, 1, 16, 1)).astype(np.int8),
        RNG.standard_normal((2, 1, 1, 1)).astype(np.float16),
        RNG.integers(-9, 9, (2, 1, 1, 1)).astype(np.int8),
    )
    dense_lut = slow_shift_scale(lut.data, lut.scale, lut.offset)
    ours = Palettized(indices, lut)
    same_bits(ours.decompress(), slow_lut(indices, dense_lut, None))
    assert ours.nbytes == 4 * 6 // 2 + 32 + 4 + 2

    scale = RNG.standard_normal((4, 1)).astype(np.float16)
    for table in (dense_lut, lut.data, dense_lut.astype(np.float32)):
        inner = Palettized(indices, table)
        ours = Quantized(inner, scale)
        same_bits(ours.decompress(), slow_shift_scale(slow_lut(indices, table, None), scale, None))
        assert ours.nbytes == inner.nbytes + scale.nbytes and ours.shape == (4, 6)


def test_arrays_are_their_own_value() -> None:
    array = np.ones((2, 3), np.float16)
    assert decompress(array) is array and stored_bytes(array) == 12
