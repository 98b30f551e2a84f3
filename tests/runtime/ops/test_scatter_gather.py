from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from corepress.runtime.ops.scatter_gather import gather
from tests.runtime.oracle_ops import check, numbers, run, same

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
INDEX_DTYPES = st.sampled_from(["int32", "int16", "uint16", "int8", "uint8"])
MODES = st.sampled_from(["update", "add", "sub", "mul", "div", "min", "max"])
SOME = settings(max_examples=80, deadline=None)


def places(data, shape, size, dtype="int32"):
    """Random indices into an axis, negative ones among them where the type has such."""
    low = 0 if dtype.startswith("u") else -size
    return numbers(data.draw(st.integers(0, 999)), shape, dtype, low, size - 1)


def fold(mode, old, new):
    """An element after one update, as the documentation has it; division of integers drops the fraction."""
    if mode == "div":
        return old / new if old.dtype.kind == "f" else np.trunc(old / new).astype(old.dtype)
    return {"update": new, "add": old + new, "sub": old - new, "mul": old * new}.get(
        mode, np.minimum(old, new) if mode == "min" else np.maximum(old, new)
    )


@SOME
@given(st.data(), SHAPES, st.lists(st.integers(1, 3), max_size=2), INDEX_DTYPES)
def test_gather(data, shape, more, dtype):
    x = numbers(0, shape, data.draw(st.sampled_from(["float16", "float32", "int32"])), -99, 99)
    batch_dims = data.draw(st.integers(0, len(shape) - 1))
    axis = data.draw(st.integers(batch_dims, len(shape) - 1))
    indices = places(data, [*shape[:batch_dims], *more], shape[axis], dtype)
    axis -= data.draw(st.sampled_from([0, len(shape)])) if batch_dims == 0 else 0
    check("gather", x=x, indices=indices, axis=np.int32(axis), batch_dims=np.int32(batch_dims))


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS17"])
def test_gather_defaults(opset):
    check("gather", opset=opset, x=numbers(0, [4, 3]), indices=np.array([[3, -1], [0, -4]], np.int32))
    check("gather", opset=opset, x=numbers(0, [4]), indices=np.int32(2))
    check("gather_along_axis", opset=opset, x=numbers(0, [4, 3]), indices=np.array([[3, -1, 0]], np.int32).repeat(2, 0))


@pytest.mark.parametrize("name", ["gather", "gather_along_axis"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16"])
def test_gather_takes_every_type(name, dtype):
    x = np.arange(5).astype(dtype)
    same(run(name, x=x, indices=np.array([4, 0, 4], np.int32)), x[[4, 0, 4]])
    same(run("gather_nd", x=x, indices=np.array([[4], [0]], np.int32)), x[[4, 0]])


@SOME
@given(st.data(), SHAPES, INDEX_DTYPES)
def test_gather_along_axis(data, shape, dtype):
    x = numbers(0, shape, "float32", -99, 99)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size, shape[axis] = shape[axis], data.draw(st.integers(1, 4))
    check("gather_along_axis", x=x, indices=places(data, shape, size, dtype), axis=np.int32(axis))


@SOME
@given(st.data(), SHAPES, INDEX_DTYPES)
def test_gather_nd(data, shape, dtype):
    batch_dims = data.draw(st.integers(0, len(shape)))
    depth = data.draw(st.integers(0, len(shape) - batch_dims))
    rows = [*shape[:batch_dims], *data.draw(st.lists(st.integers(1, 3), max_size=2))]
    sizes = shape[batch_dims : batch_dims + depth]
    indices = (
        np.stack([places(data, rows, size, dtype) for size in sizes], -1) if sizes else np.zeros([*rows, 0], dtype)
    )
    x = numbers(0, shape, "float32", -99, 99)
    expected = np.zeros([*rows, *shape[batch_dims + depth :]], np.float32)
    for row in np.ndindex(*rows):
        expected[row] = x[(*row[:batch_dims], *indices[row].tolist())]
    same(run("gather_nd", x=x, indices=indices, batch_dims=batch_dims), expected)


def updates_for(data, shape, dtype):
    low, high = data.draw(st.sampled_from([(1, 4), (-4, -1)]))
    return numbers(data.draw(st.integers(0, 999)), shape, dtype, low, high)


@SOME
@given(st.data(), SHAPES, MODES, st.sampled_from(["float16", "float32", "int32"]))
def test_scatter(data, shape, mode, dtype):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = places(data, [data.draw(st.integers(0, 4))], shape[axis])
    if mode == "update":  # which of several updates wins is left open
        indices = np.unique(indices % shape[axis])
    x = numbers(1, shape, dtype, -9, 9)
    updates = updates_for(data, [*shape[: axis % len(shape)], len(indices), *shape[axis % len(shape) + 1 :]], dtype)
    expected = x.copy()
    rows, sources = np.moveaxis(expected, axis, 0), np.moveaxis(updates, axis, 0)
    for index, source in zip(indices, sources, strict=True):
        rows[index] = fold(mode, rows[index], source)
    same(run("scatter", data=x, indices=indices.astype("int32"), updates=updates, axis=axis, mode=mode), expected)


@SOME
@given(st.data(), SHAPES, MODES, st.sampled_from(["float16", "float32", "int32"]))
def test_scatter_along_axis(data, shape, mode, dtype):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = numbers(1, shape, dtype, -9, 9)
    count = data.draw(st.integers(1, shape[axis]))
    indices = np.random.default_rng(count).permuted(np.indices(shape)[axis], axis=axis).take(range(count), axis)
    if mode != "update":
        indices //= 2
    updates = updates_for(data, indices.shape, dtype)
    expected = x.copy()
    for source in np.ndindex(*indices.shape):
        place = list(source)
        place[axis] = indices[source]
        expected[tuple(place)] = fold(mode, expected[tuple(place)], updates[source])
    indices = (indices - shape[axis] * data.draw(st.integers(0, 1))).astype("int32")
    same(run("scatter_along_axis", data=x, indices=indices, updates=updates, axis=axis, mode=mode), expected)
    if mode == "update":
        check("scatter_along_axis", data=x, indices=indices, updates=updates, axis=np.int32(axis), mode=mode)


@SOME
@given(st.data(), SHAPES, MODES, st.sampled_from(["float16", "float32", "int32"]))
def test_scatter_nd(data, shape, mode, dtype):
    depth = data.draw(st.integers(1, len(shape)))
    rows = data.draw(st.lists(st.integers(1, 3), max_size=2))
    indices = np.stack([places(data, rows, size) for size in shape[:depth]], -1)
    if mode == "update":
        unique = np.unique(indices.reshape(-1, depth) % shape[:depth], axis=0).astype("int32")
        rows, indices = [len(unique)], unique
    x = numbers(1, shape, dtype, -9, 9)
    updates = updates_for(data, [*rows, *shape[depth:]], dtype)
    expected = x.copy()
    for row in np.ndindex(*rows):
        place = tuple(indices[row].tolist())
        expected[place] = fold(mode, expected[place], updates[row])
    same(run("scatter_nd", data=x, indices=indices, updates=updates, mode=mode), expected)


def test_several_divisors_of_one_element_do_not_overflow():
    half = {"data": np.array([60000], np.float16), "updates": np.array([300, 300], np.float16)}
    whole = {"data": np.array([2**31 - 1], np.int32), "updates": np.array([2**17, 2**17], np.int32)}
    indices = np.zeros(2, np.int32)
    same(run("scatter", **half, indices=indices, mode="div"), np.array([60000 / 90000], np.float16))
    same(run("scatter", **whole, indices=indices, mode="div"), np.zeros(1, np.int32))


def test_modes():
    x, indices, updates = numbers(1, [3]), np.array([2, 0], np.int32), numbers(2, [2])
    # What coremltools takes for an absent mode, against its own words on scatter.
    expected = run("scatter", data=x, indices=indices, updates=updates, mode="add")
    same(run("scatter", data=x, indices=indices, updates=updates), expected)
    with pytest.raises(ValueError, match="not 'mean'"):
        run("scatter", data=x, indices=indices, updates=updates, mode="mean")


@pytest.mark.parametrize("bad", [-1, 3])
def test_validated_indices_are_in_bounds(bad):
    x, matrix = numbers(1, [3]), numbers(1, [3, 3])
    indices = np.array([0, bad], np.int32)
    cases = [
        ("gather", {"x": x, "indices": indices}),
        ("gather_along_axis", {"x": x, "indices": indices}),
        ("gather_nd", {"x": matrix, "indices": indices}),
        ("scatter", {"data": x, "indices": indices, "updates": x[:2]}),
        ("scatter_along_axis", {"data": x, "indices": indices, "updates": x[:2]}),
        ("scatter_nd", {"data": matrix, "indices": indices, "updates": np.float32(1)}),
    ]
    for name, arguments in cases:
        run(name, **arguments)  # left open, but it does no harm
        with pytest.raises(ValueError, match=f"index {bad} is out of bounds"):
            run(name, **arguments, validate_indices=True)
        run(name, **{**arguments, "indices": np.array([0, 2], np.int32)}, validate_indices=True)


class Sizes(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = function(*arguments, **(keywords or {}))
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(given) if isinstance(t, torch.Tensor))])
        return given


def test_samples_that_are_taken_together_share_a_table() -> None:
    # As refinement does: a table of a language model is most of its weights, and a batch had a copy for each sample.
    table, indices = torch.randn(1000, 4, requires_grad=True), torch.randint(1000, (8, 16))
    with Sizes() as sizes:
        rows = torch.vmap(lambda given: gather(table, given))(indices)
        rows.sum().backward()
    assert torch.equal(rows, table[indices])
    assert sizes.largest == table.numel()
    assert torch.equal(table.grad[:, 0], torch.bincount(indices.flatten(), minlength=1000).float())
