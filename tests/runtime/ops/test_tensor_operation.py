from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.tensor_operation  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
DTYPES = st.sampled_from(["float16", "float32", "int32", "bool"])


@st.composite
def shape_and_axis(draw, extra: int = 0):
    """A shape and an axis of it, counted from either end; of a shape of `extra` more dimensions."""
    shape = draw(SHAPES)
    rank = len(shape) + extra
    return shape, draw(st.integers(-rank, rank - 1))


def distinct(seed: int, shape: list[int], dtype: str) -> np.ndarray:
    """Numbers without ties, whose order is not certain."""
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) - size // 2).reshape(shape).astype(dtype)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), case=shape_and_axis(), dtype=DTYPES, ascending=st.booleans())
def test_argsort(seed, case, dtype, ascending):
    shape, axis = case
    dtype = "int32" if dtype == "bool" else dtype
    x = distinct(seed, shape, dtype)
    check("argsort", x=x, axis=axis, ascending=ascending)
    check("argsort", x=x)


def test_equals_keep_their_order():
    x = np.array([1, 2, 2, 1, 2, 1] * 50, np.float16)
    down = np.argsort(-x, kind="stable").astype(np.int32)
    same(run("argsort", x=x), down)
    same(run("topk", x=x, k=9), (x[down[:9]], down[:9]))
    same(run("argsort", x=x, ascending=True), np.argsort(x, kind="stable").astype(np.int32))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), case=shape_and_axis(), data=st.data(), ascending=st.booleans())
def test_topk(seed, case, data, ascending):
    shape, axis = case
    x = distinct(seed, shape, data.draw(st.sampled_from(["float16", "float32", "int32", "int16"])))
    k = data.draw(st.integers(1, shape[axis]))
    check("topk", x=x, k=k, axis=axis, ascending=ascending)
    check("topk", x=x, k=k, axis=axis, ascending=ascending, output_indices_dtype="uint16")
    check("topk", x=x, k=k, axis=axis, ascending=ascending, return_indices=False)
    if x.dtype != np.int16:
        check("topk", opset="iOS15", x=x, k=k, axis=axis, ascending=ascending)
    values, indices = run("topk", x=x, k=k, axis=axis, sort=False)
    same(np.take_along_axis(x, indices.astype(np.int64), axis), values)


def test_topk_of_all():
    # coremltools drops the last for k = -1.
    x = np.array([[3, 1, 2]], np.float32)
    same(run("topk", x=x, k=-1), (np.array([[3, 2, 1]], np.float32), np.array([[0, 2, 1]], np.int32)))
    check("topk", x=x)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_topk_at_the_limits_of_a_type(dtype):
    # coremltools negates to sort, which fails for the lowest number of a type.
    limits = np.iinfo(dtype)
    x = np.array([limits.min, 1, limits.max - 1, limits.max], dtype)
    same(run("topk", x=x, k=2), (x[[3, 2]], np.array([3, 2], np.int32)))
    same(run("topk", x=x, k=2, ascending=True), (x[[0, 1]], np.array([0, 1], np.int32)))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    lower=st.integers(-1, 5),
    upper=st.integers(-1, 5),
    dtype=DTYPES,
)
def test_band_part(seed, shape, lower, upper, dtype):
    check("band_part", x=numbers(seed, shape, dtype), lower=lower, upper=upper)


def test_band_part_of_infinities():
    # Outside is zero, also in place of an infinity, which coremltools multiplies to NaN.
    x = np.full((2, 2), -np.inf, np.float32)
    same(run("band_part", x=x, lower=0), np.array([[-np.inf, -np.inf], [0, -np.inf]], np.float32))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), case=shape_and_axis(), dtype=DTYPES, count=st.integers(1, 3), data=st.data())
def test_concat_and_stack(seed, case, dtype, count, data):
    shape, axis = case
    values = [numbers(seed + i, shape, dtype) for i in range(count)]
    check("concat", values=values, axis=axis)
    woven = np.stack(values, axis % len(shape) + 1)
    expected = woven.reshape([n * count if i == axis % len(shape) else n for i, n in enumerate(shape)])
    same(run("concat", values=values, axis=axis, interleave=True), expected)  # coremltools does not interleave
    check("stack", values=values, axis=data.draw(st.integers(-len(shape) - 1, len(shape))))
    other = list(shape)
    other[axis] = data.draw(st.integers(1, 3))
    check("concat", values=[*values, numbers(seed, other, dtype)], axis=axis)


def test_concat_and_stack_of_scalars():
    values = [np.array(1, np.int32), np.array(2, np.int32)]
    check("concat", values=values, axis=0)
    check("stack", values=values, axis=0)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    case=shape_and_axis(),
    dtype=st.sampled_from(["float16", "float32", "int32"]),
    exclusive=st.booleans(),
    reverse=st.booleans(),
)
def test_cumsum(seed, case, dtype, exclusive, reverse):
    shape, axis = case
    x = numbers(seed, shape, dtype)
    expected = np.flip(x, axis) if reverse else x
    before = np.zeros_like(expected) if not exclusive else expected
    expected = (np.cumsum(expected.astype(np.float64), axis) - before).astype(dtype)
    same(
        run("cumsum", x=x, axis=axis, exclusive=exclusive, reverse=reverse),
        np.flip(expected, axis) if reverse else expected,
        atol=1e-5,
    )
    if axis >= -1 and not exclusive:  # coremltools takes no lower axis and fails on exclusive
        check("cumsum", x=x, axis=axis, reverse=reverse, atol=1e-5)


def test_exclusive_cumsum_after_an_infinity():
    x = np.array([1, np.inf, 2], np.float32)
    same(run("cumsum", x=x, exclusive=True), np.array([0, 1, np.inf], np.float32))


@pytest.mark.parametrize("value", [None, np.float16(2.5), np.float32(-1), np.int32(2**30 + 1), np.bool_(True)])
def test_fill(value):
    optional = {} if value is None else {"value": value}
    check("fill", shape=np.array([2, 3], np.int32), **optional)
    check("fill_like", ref_tensor=numbers(1, (2, 3), "int32"), **optional)


def test_fill_of_rank_zero():
    same(run("fill", shape=np.array([], np.int32), value=np.int32(3)), np.array(3, np.int32))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), case=shape_and_axis(), dtype=DTYPES)
def test_flatten2d(seed, case, dtype):
    shape, axis = case
    x = numbers(seed, shape, dtype)
    if axis % len(shape):  # coremltools fails on an empty product
        check("flatten2d", x=x, axis=axis)
    same(run("flatten2d", x=x, axis=axis), x.reshape(int(np.prod(shape[:axis], dtype=int)), -1))


def test_flatten2d_as_documented():
    for shape, axis, expected in [
        ((3,), -1, (1, 3)),
        ((3,), 1, (3, 1)),
        ((2, 3, 2), -1, (6, 2)),
        ((5, 5, 2), 1, (5, 10)),
    ]:
        assert run("flatten2d", x=np.zeros(shape, np.float32), axis=axis).shape == expected
    assert run("flatten2d", x=np.zeros((2, 0, 3), np.float32)).shape == (2, 0)


def test_identity_and_shape():
    x = numbers(1, (2, 0, 3), "float16")
    check("identity", x=numbers(1, (2, 3), "float16"))
    check("shape", x=x)
    check("shape", x=np.array(1, np.int32))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shape=st.lists(st.integers(0, 4), min_size=1, max_size=4), dtype=DTYPES)
def test_non_zero(seed, shape, dtype):
    check("non_zero", x=np.round(numbers(seed, shape, dtype, -1, 1)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), case=shape_and_axis(extra=1), size=st.integers(1, 5), dtype=DTYPES)
def test_one_hot(seed, case, size, dtype):
    shape, axis = case
    indices = numbers(seed, shape, "int32", -1, size)  # at both ends, out of range: nothing is hot
    on, off = np.array(1, dtype), np.array(0, dtype)
    hot = np.moveaxis(indices[..., None] == np.arange(size), -1, axis)
    same(
        run("one_hot", indices=indices, one_hot_vector_size=size, axis=axis, on_value=on, off_value=off),
        np.where(hot, on, off),
    )


def test_one_hot_defaults():
    indices = np.array([1, 0], np.int32)
    same(run("one_hot", indices=indices, one_hot_vector_size=2), np.array([[0, 1], [1, 0]], np.int32))
    expected = np.array([[0, 3], [3, 0]], np.float16)
    same(run("one_hot", indices=indices, one_hot_vector_size=2, on_value=np.float16(3)), expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=SHAPES,
    dtype=st.sampled_from(["float16", "float32"]),
    mode=st.sampled_from(["constant", "reflect", "replicate"]),
    data=st.data(),
)
def test_pad(seed, shape, dtype, mode, data):
    count = data.draw(st.integers(1, len(shape)))
    sides = [st.integers(0, n - 1 if mode == "reflect" else 3) for n in shape[-count:] for _ in range(2)]
    x, pads = numbers(seed, shape, dtype), np.array(data.draw(st.tuples(*sides)), np.int32)
    check("pad", x=x, pad=pads, mode=mode, constant_val=np.dtype(dtype).type(1.5))
    check("pad", x=x, pad=pads)


def test_pad_of_other_types():
    same(run("pad", x=np.array([1, 2], np.int32), pad=[1, 0], constant_val=7.0), np.array([7, 1, 2], np.int32))
    same(run("pad", x=np.array([True]), pad=[1, 1]), np.array([False, True, False]))
    with pytest.raises(ValueError, match="circular"):
        run("pad", x=np.zeros(3, np.float32), pad=[1, 1], mode="circular")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
@pytest.mark.parametrize("ends", [(0, 5, 1), (1, 8, 3), (5, 0, -2), (3, 3, 1), (5, 0, 1), (-4, 9, 4)])
def test_range(dtype, ends):
    start, end, step = np.array(ends, dtype)
    if (end - start) / step >= 0:  # coremltools wants a shape even of an empty one
        check("range_1d", start=start, end=end, step=step)
    same(run("range_1d", start=start, end=end, step=step), np.arange(*ends).astype(dtype))


def test_range_of_fractions():
    start, end, step = np.float32([0.5, 2.1, 0.25])
    check("range_1d", start=start, end=end, step=step)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    case=shape_and_axis(),
    dtype=DTYPES,
    parts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_split(seed, case, dtype, parts):
    shape, axis = case
    shape[axis] = sum(parts)
    x = numbers(seed, shape, dtype)
    sizes = np.array(parts, np.int32)
    check("split", x=x, axis=axis, split_sizes=sizes)
    check("split", x=x, axis=axis, split_sizes=sizes, num_splits=len(parts))
    even = np.concatenate([x] * len(parts), axis)
    same(run("split", x=even, axis=axis, num_splits=len(parts)), (x,) * len(parts) if len(parts) > 1 else x)
    check("split", x=even, axis=axis, num_splits=len(parts))


def test_split_that_does_not_divide():
    with pytest.raises(ValueError, match="3 elements"):
        run("split", x=np.zeros(3, np.float32), axis=0, num_splits=2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES, data=st.data())
def test_tile(seed, shape, dtype, data):
    reps = data.draw(st.tuples(*[st.integers(1, 3)] * len(shape)))
    check("tile", x=numbers(seed, shape, dtype), reps=np.array(reps, np.int32))
