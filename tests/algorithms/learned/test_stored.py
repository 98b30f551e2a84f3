"""Stored weights as modules: the value at the start, gradients by plain loops, and the form of what is stored again."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes  # noqa: F401 - NumPy knows its types by name
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.algorithms.learned.stored import learned
from corepress.algorithms.learned.straight import assigned, rounded, taken
from corepress.weights import Palettized, Quantized, Sparse, decompress

RNG = np.random.default_rng(0)


def tables(counts=(2, 1), entries=4, dim=1, axis=None, dtype="f2"):
    shape = [32, 48]
    if axis is not None:
        shape[axis] //= dim
    indices = RNG.integers(0, entries, shape).astype("u1")
    return Palettized(indices, RNG.normal(size=(*counts, entries, dim)).astype(dtype), axis)


def integers(scales=(32, 3), bits=4, dtype="i1", offset=None):
    low, high = (-(1 << bits - 1), 1 << bits - 1) if dtype == "i1" else (0, 1 << bits)
    scale = (RNG.random(scales) + 0.1).astype("f2")
    return Quantized(RNG.integers(low, high, (32, 48)).astype(dtype), scale, offset, bits)


def floating(kind: str, exponents=False):
    bits = int(kind[5])
    found = RNG.normal(size=(32, 48)).clip(-3, 3).astype(kind)
    scale = 2.0 ** RNG.integers(-3, 3, (32, 3)) if exponents else RNG.random((32, 3)) + 0.1
    return Quantized(found, scale.astype("f2"), None, bits, exponents)


MASK = np.random.default_rng(1).random((32, 48)) > 0.5
PAIRS = np.repeat(MASK[:, ::2], 2, 1)
FORMS = {
    "tables of groups of rows": tables(),
    "tables of groups of columns": tables((1, 3)),
    "one table of 256": tables((1, 1), 256),
    "float32": tables(dtype="f4"),
    "vectors along columns": tables((2, 1), 16, 2, 1),
    "vectors along rows": tables((2, 3), 16, 2, 0),
    "int8 tables": Palettized(
        tables().indices,
        Quantized(RNG.integers(-127, 127, (2, 1, 4, 1)).astype("i1"), np.full((1, 1, 1, 1), 0.01, "f2")),
    ),
    "a scale over tables of integers": Quantized(
        Palettized(tables((1, 1)).indices, RNG.integers(-127, 127, (1, 1, 4, 1)).astype("i1")),
        (RNG.random((32, 1)) + 0.1).astype("f2"),
    ),
    "blocks": integers(),
    "per channel": integers((1, 48), 8, "u1", RNG.integers(0, 255, (1, 48)).astype("u1")),
    "a float offset": integers((32, 3), 4, "u1", RNG.random((32, 3)).astype("f2")),
    "fp8": floating("float8_e4m3fn"),
    "fp8 with a wide range": floating("float8_e5m2"),
    "fp4": floating("float4_e2m1fn"),
    "microscaling": floating("float4_e2m1fn", exponents=True),
    "int8 under powers of two": replace(integers(bits=8), scale=np.full((32, 3), 0.25, "f2"), exponents=True),
    "sparse": Sparse(MASK, RNG.normal(size=(32, 48)).astype("f2")),
    "sparse tables": Sparse(MASK, tables()),
    "sparse vectors": Sparse(PAIRS, tables((2, 1), 16, 2, 1)),
    "sparse integers": Sparse(MASK, integers()),
}  # fmt: skip


@pytest.mark.parametrize("toward", [False, True], ids=["alone", "with the original"])
@pytest.mark.parametrize("name", FORMS)
def test_the_start_is_what_was_stored(name, toward):
    form = FORMS[name]
    original = np.random.default_rng(2).normal(size=form.shape).astype("f2") if toward else None
    module = learned(form, original)
    np.testing.assert_array_equal(module().detach().numpy(), decompress(form).astype("f4"))
    stored = module.stored()
    assert type(stored) is type(form)
    assert (stored.shape, stored.dtype, stored.nbytes) == (form.shape, form.dtype, form.nbytes)
    assert getattr(stored, "exponents", False) == getattr(form, "exponents", False)
    np.testing.assert_array_equal(decompress(stored), decompress(form))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_stored_after_steps_is_what_the_module_gave(name):
    form = FORMS[name]
    module = learned(form, None)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        (module() - 0.5).square().sum().backward()
        optimizer.step()
    stored = module.stored()
    np.testing.assert_array_equal(decompress(stored).astype("f4"), module().detach().numpy())
    assert (stored.shape, stored.dtype, stored.nbytes) == (form.shape, form.dtype, form.nbytes)
    exact = decompress(form).astype("f8")
    before, after = (np.square(value - 0.5)[exact != 0].sum() for value in (exact, decompress(stored).astype("f8")))
    assert after < before
    if isinstance(form, Sparse):
        assert not decompress(stored)[~form.mask].any()


def test_the_gradient_goes_to_latent_numbers_and_to_entries_by_members():
    """d loss / d entry is the sum over the elements that take it; of a latent number it is that of its element."""
    points = torch.randn(2, 7, 1, requires_grad=True)
    table = torch.randn(2, 3, 1, requires_grad=True)
    weight = torch.randn(2, 7, 1)
    (assigned(points, torch.full((2, 1, 1), 2.0), table) * weight).sum().backward()
    for group in range(2):
        sums = [0.0, 0.0, 0.0]
        for i in range(7):
            distances = [abs(2 * float(points.detach()[group, i]) - float(entry)) for entry in table.detach()[group]]
            sums[distances.index(min(distances))] += float(weight[group, i])
        np.testing.assert_allclose(table.grad[group, :, 0].numpy(), sums, rtol=1e-6)
    torch.testing.assert_close(points.grad, 2 * weight)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_the_nearest_entry_is_that_of_all_distances(groups, entries, dim, seed):
    random = torch.Generator().manual_seed(seed)
    points, table = torch.randn(groups, 11, dim, generator=random), torch.randn(groups, entries, dim, generator=random)
    step = torch.rand(groups, 1, 1, generator=random) + 0.5
    distances = ((points * step)[:, :, None] - table[:, None]).square().sum(-1)
    codes, dense = taken(points, step, table)
    torch.testing.assert_close(distances.gather(-1, codes[..., None])[..., 0], distances.amin(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dense, table.gather(1, codes[..., None].expand_as(points)))


def test_integers_that_are_cut_off_have_no_gradient():
    numbers = torch.tensor([-9.0, -8.2, 0.4, 7.4, 8.0], requires_grad=True)
    whole = rounded(numbers, -8, 7)
    assert whole.tolist() == [-8, -8, 0, 7, 7]
    whole.sum().backward()
    assert numbers.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_step_on_a_layer_is_that_of_plain_formulas():
    """y = W x with a table: one step of gradient descent on its entries and latent numbers, by loops."""
    form = tables((2, 1))
    exact = np.random.default_rng(3).normal(size=(32, 48)).astype("f4")
    x = np.random.default_rng(4).normal(size=(48, 5)).astype("f4")
    module = learned(form)
    loss = ((module() - torch.from_numpy(exact)) @ torch.from_numpy(x)).square().sum()
    loss.backward()
    gradient = 2 * (decompress(form).astype("f4") - exact) @ x @ x.T
    entries = np.zeros((2, 4))
    for i in range(32):
        for j in range(48):
            entries[i // 16, form.indices[i, j]] += gradient[i, j]
    step = module.step[:, 0, 0].numpy()
    found = module.table.steps.grad[:, 0, :, 0].numpy()
    np.testing.assert_allclose(found, entries * step[:, None], rtol=1e-4, atol=1e-3)
    latent = module.points.grad.reshape(32, 48).numpy()
    np.testing.assert_allclose(latent, gradient * np.repeat(step, 16)[:, None], rtol=1e-4, atol=1e-3)


def test_a_number_near_its_neighbour_changes_first():
    """With the original at hand, latent numbers start between their entry and what they stand for."""
    form = Palettized(np.array([[0, 0, 1, 1]], "u1"), np.array([0.0, 1.0], "f4").reshape(1, 1, 2, 1))
    module = learned(form, np.array([[0.45, 0.0, 0.2, 1.3]], "f4"))
    latent = (module.points * module.step).detach().ravel().tolist()
    np.testing.assert_allclose(latent, [0.25, 0.0, 0.75, 1.3], rtol=1e-6)  # at most half of the way to the edge, 0.5
