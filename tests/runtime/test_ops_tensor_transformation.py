from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.tensor_transformation  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, peer, run, same

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
DTYPES = st.sampled_from(["float16", "float32", "int32", "bool", "int8", "uint8", "int16", "uint16"])
FEW = settings(max_examples=40, deadline=None)


def counted(shape, dtype="float32"):
    """An array without two equal elements, but for the types that are too small for that."""
    return np.arange(np.prod(shape, dtype=int)).reshape(tuple(shape)).astype(dtype)


@st.composite
def slices(draw, low=1):
    """Arguments of slice_by_index, and what NumPy makes of them."""
    shape = draw(st.lists(st.integers(low, 4), max_size=4))
    axes = [
        (
            draw(st.integers(-6, 6)),
            draw(st.integers(-6, 6)),
            draw(st.sampled_from([1, 1, 2, 3, -1, -2, -3])),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.booleans()) and size > 0,
        )
        for size in shape
    ]
    axes = [
        (begin % size - draw(st.sampled_from([0, size])) if squeeze else begin, *rest, squeeze)
        for size, (begin, *rest, squeeze) in zip(shape, axes, strict=True)
    ]
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    arguments = dict(zip(names, map(list, zip(*axes, strict=True)), strict=True)) if axes else dict.fromkeys(names, [])
    return shape, arguments, numpy_slice(**arguments)


def numpy_slice(begin, end, stride, begin_mask, end_mask, squeeze_mask):
    index = []
    for first, last, step, from_start, to_end, single in zip(
        begin, end, stride, begin_mask, end_mask, squeeze_mask, strict=True
    ):
        first = None if from_start else first
        index.append((first or 0) if single else slice(first, None if to_end else last, step))
    return tuple(index)


@settings(max_examples=300, deadline=None)
@given(slices(low=0), DTYPES)
def test_slice_by_index_is_numpys(chosen, dtype):
    shape, arguments, index = chosen
    x = counted(shape, dtype)
    same(run("slice_by_index", x=x, **arguments), x[index])


def test_slice_by_index_on_one_axis_is_numpys():
    x = counted([4])
    for begin, end, stride, masks in itertools.product(
        range(-5, 6), range(-5, 6), (-5, -2, -1, 1, 2, 5), itertools.product((False, True), repeat=2)
    ):
        arguments = {"begin": [begin], "end": [end], "stride": [stride], "begin_mask": masks[:1], "end_mask": masks[1:]}
        expected = x[numpy_slice(**arguments, squeeze_mask=[False])]
        assert np.array_equal(run("slice_by_index", x=x, **arguments), expected), arguments


@pytest.mark.parametrize("begin_mask", [None, [True, False, False]])
@pytest.mark.parametrize("end_mask", [None, [False, True, True]])
@pytest.mark.parametrize("squeeze_mask", [None, [False, True, False], [True, False, True]])
@pytest.mark.parametrize("stride", [None, [1, 2, 3], [2, 1, 1]])
def test_slice_by_index_is_coremltools(begin_mask, end_mask, squeeze_mask, stride):
    arguments = {"begin_mask": begin_mask, "end_mask": end_mask, "squeeze_mask": squeeze_mask, "stride": stride}
    given_ones = {key: value for key, value in arguments.items() if value is not None}
    check("slice_by_index", x=counted([3, 4, 5]), begin=[1, -3, 0], end=[3, -1, 4], **given_ones)
    check("slice_by_index", opset="iOS15", x=counted([3, 4, 5]), begin=[1, -3, 0], end=[3, -1, 4], **given_ones)


def test_slice_by_index_backwards_is_coremltools():
    check("slice_by_index", x=counted([3, 4]), begin=[-1, 3], end=[0, 0], stride=[-1, -2], end_mask=[True, False])
    check("slice_by_index", x=counted([5]), begin=[0], end=[0], stride=[-1], begin_mask=[True], end_mask=[True])


def test_slice_by_index_takes_no_single_element_that_does_not_exist():
    with pytest.raises(IndexError):
        run("slice_by_index", x=counted([3]), begin=[3], end=[0], squeeze_mask=[True])


@settings(max_examples=200, deadline=None)
@given(slices(), DTYPES)
def test_slice_update_is_numpys(chosen, dtype):
    shape, arguments, index = chosen
    x = np.zeros(shape, dtype)
    expected = x.copy()
    update = counted(x[index].shape, dtype)
    expected[index] = update
    same(run("slice_update", x=x, update=update, **arguments), expected)
    assert not x.any()


def test_slice_update_is_coremltools():
    arguments = {"begin": [0, 1, 3], "end": [2, 4, 0], "stride": [1, 2, -2], "squeeze_mask": [True, False, False]}
    check("slice_update", x=-counted([2, 4, 4]), update=counted([2, 2]), **arguments)


@FEW
@given(st.data(), DTYPES, st.sampled_from(["iOS17", "iOS18"]))
def test_slice_by_size(data, dtype, opset):
    shape = data.draw(SHAPES)
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    size = [data.draw(st.sampled_from([-1, *range(1, n - b + 1)])) for n, b in zip(shape, begin, strict=True)]
    begin = [b - data.draw(st.sampled_from([0, n])) for n, b in zip(shape, begin, strict=True)]
    x = counted(shape, dtype)
    ends = [n if s == -1 else b % n + s for n, b, s in zip(shape, begin, size, strict=True)]
    expected = x[tuple(slice(b % n, e) for n, b, e in zip(shape, begin, ends, strict=True))]
    same(run("slice_by_size", x=x, begin=begin, size=size), expected)
    # coremltools' type of a slice is wrong where size is -1 and begin is negative.
    if not any(b < 0 and s == -1 for b, s in zip(begin, size, strict=True)):
        same(peer("slice_by_size", opset, x=x, begin=begin, size=size), expected)


def test_slice_by_size_stays_inside():
    same(run("slice_by_size", x=counted([3]), begin=[3], size=[0]), np.zeros(0, np.float32))
    with pytest.raises(RuntimeError, match="exceeds"):
        run("slice_by_size", x=counted([3]), begin=[2], size=[2])


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ([2, 50], [1, 0, -1, 0], (1, 1, 2, 50)),
        ([2, 3, 4], [0, -1], (6, 4)),
        ([2, 3, 4], [-1, 0, 0], (2, 3, 4)),
        ([3], [0, 0], (1, 3)),
        ([2, 3], [-1], (6,)),
        ([1], [], ()),
        ([], [1, 1], (1, 1)),
        ([0, 2], [0, 2], (0, 2)),
    ],
)
def test_reshape(shape, target, expected):
    x = counted(shape)
    same(run("reshape", x=x, shape=target), x.reshape(expected))
    if 0 not in shape and target and ((-1 in target) + (0 in target) < 2 or len(shape) != 3):
        check("reshape", x=x, shape=np.array(target, np.int32))


def test_reshape_of_older_programs():
    check("reshape", opset="iOS15", x=counted([2, 3, 4]), shape=np.array([0, -1, 2], np.int32))
    check("reshape", opset="iOS15", x=counted([2, 3, 4]), shape=np.array([0, 4, 0, 1][:3], np.int32)[[0, 1, 1]] // [1, 1, 2] + [0, 2, 0])


@pytest.mark.parametrize("target", [[4, 2], [-1, -1], [-1, 4]])
def test_reshape_refuses_another_volume(target):
    with pytest.raises(RuntimeError):
        run("reshape", x=counted([2, 3]), shape=target)


def test_reshape_like():
    references = [counted([2, 3, 4]), counted([1, 5, 6])]
    x = counted([6, 30])
    result = run("reshape_like", x=x, ref_tensors=references, begins=[0, 1], ends=[2, 0], end_masks=[False, True])
    same(result, x.reshape(2, 3, 5, 6))
    result = run("reshape_like", x=x, ref_tensors=references[:1], begins=[-2], ends=[-1], end_masks=[False])
    same(run("reshape_like", x=counted([3]), ref_tensors=references[:1], begins=[-2], ends=[-1], end_masks=[False]), counted([3]))
