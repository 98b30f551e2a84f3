from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import corepress.runtime.ops.select  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, peer, run, same

DTYPES = st.sampled_from(["float16", "float32", "int32", "bool"])


@settings(max_examples=60, deadline=None)
@given(mutually_broadcastable_shapes(num_shapes=3, min_side=1, max_side=3, max_dims=3), DTYPES)
def test_select(shapes, dtype):
    cond, *values = (numbers(i, shape, "int32", 0, 1) for i, shape in enumerate(shapes.input_shapes))
    a, b = (value.astype(dtype) for value in values)
    expected = np.where(cond.astype(bool), a, b)
    same(run("select", cond=cond.astype(bool), a=a, b=b), expected)
    # coremltools forgets the condition's shape.
    if np.broadcast_shapes(a.shape, b.shape) == expected.shape != ():
        same(peer("select", cond=cond.astype(bool), a=a, b=b), expected)


def test_select_without_values_gives_places():
    same(run("select", cond=np.array([[True, False], [False, True]])), np.array([[0, 0], [1, 1]], np.int32))
