from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.runtime import load
from corepress.runtime.ops.lists import list_gather, list_length, list_read, list_scatter, list_write, make_list


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 3), st.sampled_from([(), (2,), (1, 3)]))
def test_lists_are_pythons(data, grows, length, shape):
    """Against a Python list of arrays; whatever is written, lists that were made before stay as they were."""
    mine, model = make_list(shape, length, grows, "int32"), [np.zeros(shape)] * length
    history = [(mine, model)]
    for step in range(data.draw(st.integers(0, 5))):
        top = len(model) + 2 if grows else len(model)
        indices = data.draw(st.lists(st.integers(0, top - 1), max_size=3, unique=True)) if top else []
        model = model + [np.zeros(shape)] * (max([len(model), *(i + 1 for i in indices)]) - len(model))
        values = torch.full((len(indices), *shape), step + 1, dtype=torch.int32)
        if len(indices) == 1 and data.draw(st.booleans()):
            mine = list_write(mine, indices[0], values[0])
        else:
            mine = list_scatter(mine, indices, values)
        for index in indices:
            model[index] = np.full(shape, step + 1)
        history.append((mine, model))
    for ours, theirs in history:
        assert (int(list_length(ours)), list_length(ours).dtype) == (len(theirs), torch.int32)
        for index, item in enumerate(theirs):
            np.testing.assert_array_equal(list_read(ours, index), item)
        found = list_gather(ours, range(len(theirs)))
        assert (found.dtype, found.shape) == (torch.int32, (len(theirs), *shape))
        np.testing.assert_array_equal(found, np.array(theirs).reshape(found.shape))


@pytest.mark.parametrize("index", [-1, 2])
def test_bounds(index):
    fixed, one = make_list((1,), 2, False), torch.ones(1)
    for refused in (
        lambda: list_read(fixed, index),
        lambda: list_write(fixed, index, one),
        lambda: list_gather(fixed, [0, index]),
        lambda: list_scatter(fixed, [index], one[None]),
    ):
        with pytest.raises(IndexError, match="out of bounds for a list of 2"):
            refused()
    with pytest.raises(IndexError):
        list_write(make_list((1,)), -1, one)


def test_a_shape_known_late():
    late = make_list((2, "dim0"), 2, dtype="fp16")
    with pytest.raises(ValueError, match="not known"):
        list_read(late, 0)
    written = list_write(late, 1, torch.ones(2, 5, dtype=torch.float16))
    assert torch.equal(list_gather(written, [0, 1]).sum((1, 2)), torch.tensor([0.0, 10], dtype=torch.float16))


def test_a_list_may_be_longer_than_memory():
    assert int(list_length(list_write(make_list((1,)), 2**31 - 2, torch.ones(1)))) == 2**31 - 1


@pytest.mark.parametrize("elem_shape", [(3,), (1, 3), ("dim0",), (1, "dim0"), ()])
def test_in_a_program(elem_shape, tmp_path):
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil import Builder as mb

    shape = tuple(3 if isinstance(size, str) else size for size in elem_shape)

    @mb.program(input_specs=[mb.TensorSpec((4, *shape))])
    def running_sum(x):
        def body(i, total, kept):
            total = mb.add(x=total, y=mb.gather(x=x, indices=i, axis=0))
            return mb.add(x=i, y=1), total, mb.list_write(ls=kept, index=i, value=total)

        kept = mb.make_list(init_length=1, elem_shape=elem_shape)
        zeros = np.zeros(shape, np.float32)
        loop = mb.while_loop(
            _cond=lambda i, total, kept: mb.less(x=i, y=4), _body=body, loop_vars=(np.int32(0), zeros, kept)
        )
        return mb.list_gather(ls=loop[2], indices=mb.range_1d(start=0, end=mb.list_length(ls=loop[2]), step=1))

    path = tmp_path / "sums.mlpackage"
    model = ct.convert(running_sum, minimum_deployment_target=ct.target.iOS15, compute_precision=ct.precision.FLOAT32)
    model.save(str(path))
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    (found,) = load(path).predict({"x": x}).values()
    np.testing.assert_allclose(found, x.cumsum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("elem_shape", [(), (3,), (2, 3)])
def test_an_unwritten_list_in_a_program(elem_shape, tmp_path):
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1,))])
    def zeros(x):
        items = mb.list_gather(ls=mb.make_list(init_length=2, elem_shape=elem_shape), indices=[0, 1])
        return mb.add(x=items, y=x)

    path = tmp_path / "zeros.mlpackage"
    ct.convert(zeros, minimum_deployment_target=ct.target.iOS15, skip_model_load=True).save(str(path))
    (found,) = load(path).predict({"x": np.ones(1)}).values()
    np.testing.assert_array_equal(found, np.ones((2, *elem_shape)))
