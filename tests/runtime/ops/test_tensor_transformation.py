from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.runtime import load
from tests.runtime.oracle_ops import check, peer, run, same

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
DTYPES = st.sampled_from(["float16", "float32", "int32", "bool", "int8", "uint8", "int16", "uint16"])
FEW = settings(max_examples=40, deadline=None)


def counted(shape, dtype="float32"):
    """An array without two equal elements, but for the types that are too small for that."""
    return np.arange(np.prod(shape, dtype=int)).reshape(tuple(shape)).astype(dtype)


@st.composite
def slices(draw):
    """A shape, arguments of slice_by_index for it, and the index that means the same to NumPy."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    edges = st.integers(-6, 6)
    arguments = {
        "begin": [draw(edges) for _ in shape],
        "end": [draw(edges) for _ in shape],
        "stride": [draw(st.sampled_from([1, 1, 2, 3, -1, -2, -3])) for _ in shape],
        "begin_mask": [draw(st.booleans()) for _ in shape],
        "end_mask": [draw(st.booleans()) for _ in shape],
    }
    arguments["squeeze_mask"] = [
        draw(st.booleans()) and size > 0 and -size <= (0 if mask else first) < size
        for size, first, mask in zip(shape, arguments["begin"], arguments["begin_mask"], strict=True)
    ]
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
@given(slices(), DTYPES)
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


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("target", [[2, 12], [-1], [4, -1, 2], [0, 0, 0], [0, 4, 3], [-1, 3, 0], [0, -1, 0]])
def test_reshape(opset, target):
    check("reshape", opset=opset, x=counted([2, 3, 4]), shape=np.array(target, np.int32))


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ([2, 50], [1, 0, -1, 0], (1, 1, 2, 50)),
        ([2, 3, 4], [-1, 0], (6, 4)),
        ([3], [0, 0], (1, 3)),
        ([1], [], ()),
        ([], [1, 0], (1, 1)),
        ([0, 2], [0, 2], (0, 2)),
    ],
)
def test_zeros_of_reshape_count_from_the_right(shape, target, expected):
    same(run("reshape", x=counted(shape), shape=target), counted(expected))


@pytest.mark.parametrize("target", [[4, 2], [-1, -1], [-1, 4]])
def test_reshape_refuses_another_volume(target):
    with pytest.raises(RuntimeError):
        run("reshape", x=counted([2, 3]), shape=target)


def test_reshape_like():
    like = {"ref_tensors": [counted([2, 3, 4]), counted([1, 5, 6])], "end_masks": [False, True]}
    same(run("reshape_like", x=counted([6, 30]), begins=[0, 1], ends=[2, 0], **like), counted([2, 3, 5, 6]))
    same(run("reshape_like", x=counted([3, 6]), begins=[-2, -1], ends=[-1, 0], **like), counted([3, 6]))


def test_reshape_like_in_a_program(tmp_path):
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil import Builder as mb

    shapes = [(6, 30), (2, 3, 4), (1, 5, 6)]

    @mb.program(input_specs=[mb.TensorSpec(shape) for shape in shapes], opset_version=ct.target.iOS16)
    def program(x, a, b):
        return mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))

    path = tmp_path / "like.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True).save(str(path))
    (found,) = load(path).predict(dict(zip("xab", map(counted, shapes), strict=True))).values()
    assert found.shape == (2, 3, 5, 6)


@FEW
@given(SHAPES, DTYPES, st.data())
def test_expand_dims_and_squeeze(shape, dtype, data):
    x = counted(shape, dtype)
    rank = len(shape) + data.draw(st.integers(1, 2))
    axes = data.draw(
        st.lists(st.integers(0, rank - 1), min_size=rank - len(shape), max_size=rank - len(shape), unique=True)
    )
    axes = [axis - data.draw(st.sampled_from([0, rank])) for axis in axes]
    check("expand_dims", x=x, axes=np.array(axes, np.int32))
    wide = run("expand_dims", x=x, axes=axes)
    same(run("squeeze", x=wide, axes=axes), x)
    check("squeeze", x=wide, axes=np.array(axes, np.int32))
    if x.size > 1:  # coremltools can't squeeze to a scalar
        check("squeeze", x=wide)


def test_squeeze_ignores_longer_axes():
    same(run("squeeze", x=counted([1, 3, 1]), axes=[0, 1]), counted([3, 1]))
    same(run("squeeze", x=counted([1, 3, 1]), axes=[]), counted([1, 3, 1]))
    same(run("squeeze", x=counted([1, 1])), counted([]))


@FEW
@given(SHAPES, DTYPES, st.data())
def test_transpose_and_reverse(shape, dtype, data):
    x = counted(shape, dtype)
    perm = [
        axis - data.draw(st.sampled_from([0, len(shape)])) for axis in data.draw(st.permutations(range(len(shape))))
    ]
    check("transpose", x=x, perm=np.array(perm, np.int32))
    axes = data.draw(st.lists(st.sampled_from(perm), unique=True, min_size=1))
    check("reverse", x=x, axes=np.array(axes, np.int32))
    check("reverse", x=x)
    same(run("reverse", x=x, axes=[]), x)


@FEW
@given(SHAPES, DTYPES, st.data())
def test_reverse_sequence(shape, dtype, data):
    shape = [*shape, data.draw(st.integers(1, 4))]
    seq_axis, batch_axis = data.draw(st.permutations(range(len(shape))))[:2]
    lengths = [data.draw(st.integers(0, shape[seq_axis])) for _ in range(shape[batch_axis])]
    x = counted(shape, dtype)
    expected = x.copy()
    for item, length in enumerate(lengths):
        ours, theirs = (np.moveaxis(a, (batch_axis, seq_axis), (0, 1))[item] for a in (expected, x))
        ours[:length] = theirs[:length][::-1]
    arguments = {"x": x, "lengths": np.array(lengths, data.draw(st.sampled_from(["int8", "int16", "int32"])))}
    same(run("reverse_sequence", **arguments, seq_axis=seq_axis, batch_axis=batch_axis), expected)
    same(run("reverse_sequence", **arguments, seq_axis=seq_axis - len(shape), batch_axis=batch_axis), expected)


@FEW
@given(SHAPES, DTYPES, st.data())
def test_sliding_windows(shape, dtype, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size, stride = data.draw(st.integers(1, shape[axis])), data.draw(st.integers(1, 3))
    x = counted(shape, dtype)
    windows = [x.take(range(start, start + size), axis) for start in range(0, shape[axis] - size + 1, stride)]
    expected = np.stack(windows, axis % len(shape))
    same(run("sliding_windows", x=x, axis=axis, size=size, stride=stride), expected)


SPATIAL = given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 3))


@FEW
@SPATIAL
def test_depth_and_space(n, c, h, w, b):
    deep = counted([n, c * b * b, h, w])
    shuffled, spread = (np.zeros((n, c, h * b, w * b), np.float32) for _ in range(2))
    for i, j, k in itertools.product(range(b), range(b), range(c)):
        spread[:, k, i::b, j::b] = deep[:, (i * b + j) * c + k]
        shuffled[:, k, i::b, j::b] = deep[:, k * b * b + i * b + j]
    same(run("depth_to_space", x=deep, block_size=b), spread)
    same(run("space_to_depth", x=spread, block_size=b), deep)
    same(run("pixel_shuffle", x=deep, upscale_factor=b), shuffled)
    same(run("pixel_unshuffle", x=shuffled, downscale_factor=b), deep)


@FEW
@SPATIAL
def test_batch_and_space(n, c, h, w, b):
    high, wide = b, 5 - b
    full = counted([n, c, h * high, w * wide]) + 1
    batches = np.zeros((n * high * wide, c, h, w), np.float32)
    for i, j, k in itertools.product(range(high), range(wide), range(n)):
        batches[(i * wide + j) * n + k] = full[k, :, i::high, j::wide]
    same(run("space_to_batch", x=full, block_shape=[high, wide], paddings=[0] * 4), batches)
    same(run("batch_to_space", x=batches, block_shape=[high, wide], crops=[0] * 4), full)
    top, right = h * high // 2, w * wide // 2
    cropped = full[:, :, top:, : w * wide - right]
    same(run("batch_to_space", x=batches, block_shape=[high, wide], crops=[top, 0, 0, right]), cropped)
    padded = np.pad(cropped, [(0, 0), (0, 0), (top, 0), (0, right)])
    expected = run("space_to_batch", x=padded, block_shape=[high, wide], paddings=[0] * 4)
    same(run("space_to_batch", x=cropped, block_shape=[high, wide], paddings=[top, 0, 0, right]), expected)
