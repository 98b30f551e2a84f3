"""Look-up, nearest entries and swapped axes beside NumPy's own, each array against a page that can't be touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.layout import swap_inner
from corepress.kernels.lookup import look_up_rows, take_entries
from tests.kernels.guarded import guarded

TYPES = ("u1", "f2", "f4", "f8")


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 4), st.integers(0, 70), st.integers(1, 256), st.integers(1, 9), st.sampled_from(TYPES),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_looked_up(rows, count, entries, dim, dtype, before, seed) -> None:
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, entries, (rows, count)).astype(np.uint8)
    tables = rng.integers(0, 256, (rows, entries, dim)).astype(dtype)
    expected = np.take_along_axis(tables, indices[..., None].astype(np.intp), axis=1)
    dense = look_up_rows(guarded(indices, before=before), guarded(tables, before=before))
    assert dense.dtype == tables.dtype
    np.testing.assert_array_equal(dense, expected.reshape(rows, count * dim))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 4), st.integers(0, 600), st.integers(1, 256), st.booleans(), st.integers(0, 2**32 - 1))
def test_taken(rows, count, entries, before, seed) -> None:
    rng = np.random.default_rng(seed)
    tables = np.sort(rng.integers(-9, 9, (rows, entries)).astype("f4"))  # some entries are equal
    edges = (tables[:, 1:] + tables[:, :-1]) / 2
    points = rng.normal(size=(rows, count)).astype("f4") * 9
    points[:, : entries - 1] = edges[:, : points.shape[1]]  # what lies on an edge stays below
    expected = (points[:, :, None] > edges[:, None]).sum(-1)
    codes, dense = take_entries(*(guarded(array, before=before) for array in (points, edges, tables)))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(dense, np.take_along_axis(tables, expected, axis=1))


def test_tables_of_no_entry_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 256 entries, not 0"):
        take_entries(np.zeros((1, 2), "f4"), np.zeros((1, 0), "f4"), np.zeros((1, 0), "f4"))


def test_entries_keep_their_bits() -> None:
    bits = np.arange(256, dtype=np.uint16) + 0x7C00  # infinity and NaN with every payload
    dense = look_up_rows(np.arange(256, dtype=np.uint8)[None], bits.view(np.float16).reshape(1, 256, 1))
    np.testing.assert_array_equal(dense.view(np.uint16)[0], bits)


def test_tables_with_strides_are_copied() -> None:
    tables = np.arange(24, dtype=np.float32).reshape(1, 8, 3)[:, ::2]
    np.testing.assert_array_equal(look_up_rows(np.array([[3, 0]], np.uint8), tables), [[18, 19, 20, 0, 1, 2]])


def test_a_table_for_each_row() -> None:
    with pytest.raises(ValueError, match="shape"):
        look_up_rows(np.zeros((3, 4), np.uint8), np.zeros((2, 4, 1), np.float16))
    with pytest.raises(ValueError, match="uint8, not int16"):
        look_up_rows(np.zeros((2, 4), np.int16), np.zeros((2, 4, 1), np.float16))


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 3), st.integers(0, 70), st.integers(0, 70), st.sampled_from(TYPES), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_inner_axes_swapped(outer, rows, columns, dtype, before, seed) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (outer, rows, columns)).astype(dtype)
    swapped = swap_inner(guarded(array, before=before))
    assert swapped.flags.c_contiguous
    np.testing.assert_array_equal(swapped, array.swapaxes(1, 2))


def test_elements_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes"):
        swap_inner(np.zeros((1, 2, 2), np.complex128))
