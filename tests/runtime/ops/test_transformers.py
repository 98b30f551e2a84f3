from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import corepress.runtime.ops.transformers  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same
from tests.runtime.oracle_torch import converted

NAME = "scaled_dot_product_attention"


def inputs(batch, dtype, length=3, source=5, width=4, values=6):
    return {
        "query": numbers(1, (*batch, length, width), dtype),
        "key": numbers(2, (*batch, source, width), dtype),
        "value": numbers(3, (*batch, source, values), dtype),
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [(2,), (2, 3), (2, 1, 3)])
def test_without_mask(batch, dtype):
    check(NAME, **inputs(batch, dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (1, 5), (2, 1, 5), (2, 3, 3, 5)])
def test_mask(shape, dtype):
    given = inputs((2, 3), dtype) if len(shape) != 3 else inputs((2,), dtype)
    check(NAME, **given, attn_mask=numbers(4, shape, dtype), rtol=1e-4, atol=1e-5)
    mask = numbers(5, shape) > 0
    mask[..., 2] = True
    check(NAME, **given, attn_mask=mask, rtol=1e-4, atol=1e-5)


def test_a_row_that_may_look_at_nothing_is_zero():
    mask = np.array([[True] * 5, [False] * 5, [True] * 5])
    y = run(NAME, **inputs((2, 3), "float32"), attn_mask=mask)
    assert (y[..., 1, :] == 0).all() and (y[..., [0, 2], :] != 0).all()


def test_is_pytorchs():
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))

    def function(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, torch.ones(4, 4, dtype=torch.bool).tril())

    arguments = converted(NAME, function, query, key, value)
    assert list(arguments) == ["attn_mask"]
    ours = run(NAME, query=query.numpy(), key=key.numpy(), value=value.numpy(), **arguments)
    same(ours, function(query, key, value).numpy(), 1e-4, 1e-5)
