"""Look-up tables fitted to the inputs of a layer: the steps that go row by row. See `c/lut.c`.

Rows are vectors of `dim` numbers for each column, (n, dim, columns), with codes (n, columns). `tables`: (groups,
entries, dim), at most 256 entries; row r has table r * groups // n. Matrices of inputs are one for all rows, or several
that serve equally many rows each, as those of a grouped convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

Array = NDArray[Any]
Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_feedback = kernel("feedback", *[Pointer] * 2, Int, Pointer, Int, Int, Pointer, Pointer, *[Int] * 7, Pointer)
_descend = kernel("descend", *[Pointer] * 2, Int, Pointer, Int, Int, Pointer, *[Int] * 5, Pointer)
_entries_of = kernel("entries_of", Pointer, Pointer, *[Int] * 7, Pointer)
_sum_by_code = kernel("sum_by_code", Pointer, Pointer, *[Int] * 5, Pointer)


def feedback(
    target: Floats, unit: Floats, tables: Floats, codes: Codes, errors: Floats, begin: int, first: int, last: int
) -> None:
    """Column by column, each takes the nearest entry, and those after it make up for the error.

    `target`: (n, dim, width), what is wanted of the columns from `begin` on, which is used up. `unit`: (width, width)
    or (matrices, width, width), how an error passes on. `codes`: (n, columns), written. `errors`: (n, dim, columns),
    the weight's own values at first, the errors made at last. Only the rows from `first` to `last`.
    """
    rows, dim, width = target.shape
    columns = codes.shape[1]
    if begin < 0 or begin + width > columns:
        raise ValueError(f"{width} columns from {begin} on are not within {columns}")
    table, wanted = _checked(tables, dim, rows, first, last), np.empty(dim, np.float32)
    _feedback(
        pointer(target, np.float32, out=True), *_matrices(unit, width),
        pointer(table), len(table), table.shape[2], pointer(codes, np.uint8, shape=(rows, columns), out=True),
        pointer(errors, np.float32, shape=(rows, dim, columns), out=True), begin, columns, width, dim, rows,
        first, last, pointer(wanted),
    )  # fmt: skip


def descend(pull: Floats, hessian: Floats, tables: Floats, codes: Codes, first: int, last: int) -> None:
    """One round of coordinate descent: each code in turn becomes the best while all others stay.

    `hessian`: (columns, columns) or (matrices, columns, columns). `pull`: (n, dim, columns), (w - q) hessian of the
    present codes, kept up to date.
    """
    rows, dim, columns = pull.shape
    table, wanted = _checked(tables, dim, rows, first, last), np.empty(dim, np.float32)
    _check_codes(codes, (rows, columns), tables.shape[1])
    _descend(
        pointer(pull, np.float32, out=True), *_matrices(hessian, columns), pointer(table),
        len(table), table.shape[2], pointer(codes, np.uint8, out=True), columns, dim, rows,
        first, last, pointer(wanted),
    )  # fmt: skip


def entries_of(found: Floats, tables: Floats, codes: Codes, first: int, last: int) -> None:
    """`found`: (n, dim, columns), the entries that codes name; the rows from `first` to `last` are written."""
    rows, dim, columns = found.shape
    table = _checked(tables, dim, rows, first, last)
    _check_codes(codes, (rows, columns), tables.shape[1])
    sizes = len(table), table.shape[2], columns, dim, rows, first, last
    _entries_of(pointer(codes, np.uint8), pointer(table), *sizes, pointer(found, np.float32, out=True))


def sum_by_code(values: Floats, codes: Codes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The sum of the values (n, dim, columns) under each entry of each table: (groups, entries, dim)."""
    (rows, dim, columns), (groups, entries, _) = values.shape, shape
    _check_codes(codes, (rows, columns), entries)
    if groups < 1:
        raise ValueError("there is no table to sum up for")
    sums, sizes = np.zeros((groups, dim, entries)), (groups, entries, columns, dim, rows)
    _sum_by_code(pointer(values, np.float32), pointer(codes, np.uint8), *sizes, pointer(sums, out=True))
    return np.ascontiguousarray(sums.swapaxes(1, 2))


def _matrices(given: Floats, columns: int) -> tuple[Any, int]:
    """Where matrices of inputs are, and how many."""
    shape = (columns, columns) if given.ndim == 2 else (len(given), columns, columns)
    if not len(given) and columns:
        raise ValueError("there is no matrix of the inputs")
    return pointer(given, np.float32, shape=shape), 1 if given.ndim == 2 else len(given)


def _checked(tables: Floats, dim: int, rows: int, first: int, last: int) -> Floats:
    """The tables as `c/lut.c` takes them: (groups, dim, entries), with infinities up to a multiple of eight entries."""
    if (
        tables.dtype != np.float32
        or tables.shape[2] != dim
        or dim < 1
        or not 1 <= tables.shape[1] <= 256
        or not len(tables)
    ):
        raise ValueError(f"tables are float32 of (groups, up to 256, {dim}), not {tables.dtype} of {tables.shape}")
    if not 0 <= first <= last <= rows:
        raise ValueError(f"there are no rows from {first} to {last} of {rows}")
    groups, entries, _ = tables.shape
    filled = np.full((groups, dim, -(-entries // 8) * 8), np.inf, np.float32)
    filled[:, :, :entries] = tables.swapaxes(1, 2)
    return filled


def _check_codes(codes: Codes, shape: tuple[int, int], entries: int) -> None:
    if codes.shape != shape or (entries < 256 and codes.size and int(codes.max()) >= entries):
        raise ValueError(f"codes are of shape {shape} here, and below {entries}")
