"""Differentiable k-means over distinct values, against the plain formula over all elements and its float64 gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from corepress.algorithms.kmeans1d import quantize_values
from corepress.algorithms.learned import dkm
from corepress.algorithms.learned.dkm import Options, first_centroids, nearest, rounded, separate, soft_kmeans
from corepress.errors import CorepressError


@pytest.fixture(autouse=True, params=["distinct", "each"])
def road(request, monkeypatch):
    """Scalars over their distinct values, or each for itself, as few are."""
    if request.param == "distinct":
        monkeypatch.setattr(dkm, "_FEW", 0)


SOFT = Options(tau=0.05, epsilon=0.0)


def plain(x: Tensor, centroids: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """The formula of the paper for x (n, d), with an n x k attention and every iteration on the tape."""
    before = None
    for _ in range(o.iterations):
        distances = (x[:, None] - centroids[None]).square().sum(dim=-1)
        if o.pull:
            distances = distances - o.pull * torch.eye(len(centroids), dtype=x.dtype)[0]
        elif o.fixed_zero:
            distances = torch.where(
                (x != 0).any(dim=1, keepdim=True) & (torch.arange(len(centroids)) == 0), 1e7, distances
            )
        if o.mode == "hard":
            attention = torch.nn.functional.one_hot(distances.argmin(dim=1), len(centroids)).to(x.dtype)
        else:
            attention = torch.softmax(-distances / o.tau, dim=1).clamp(min=o.floor)
        centroids = attention.T @ x / attention.sum(dim=0)[:, None]
        if o.fixed_zero:
            centroids = centroids * (torch.arange(len(centroids)) > 0)[:, None]
        energy = distances.min(dim=1).values.sum()
        if before is not None and abs(before - energy) <= o.epsilon:
            break
        before = energy
    return attention @ centroids, centroids


def weight(n: int, d: int = 1, seed: int = 0) -> Tensor:
    """(1, n, d) float64, of values that float16 has, many of them more than once."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.normal(size=(1, n, d)) * 64).round() / 64)


def compare(rows: Tensor, options: Options, k: int = 8, tolerance: float = 1e-10) -> None:
    starts = first_centroids(rows, k, options)
    upstream = torch.from_numpy(np.random.default_rng(1).normal(size=rows.shape))
    ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    dense, ends = soft_kmeans(ours, starts, options)
    for group in range(len(rows)):
        expected, centroids = plain(theirs[group], starts[group].double(), options)
        torch.testing.assert_close(dense[group], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ends[group].double(), centroids, rtol=1e-6, atol=1e-6)
        (expected * upstream[group]).sum().backward()
    (dense * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        SOFT,
        SOFT._replace(tau=0.5, iterations=5),
        SOFT._replace(iterations=1),
        SOFT._replace(floor=1e-2),
        SOFT._replace(epsilon=1e9),
        SOFT._replace(fixed_zero=True, pull=1e-2),
        SOFT._replace(fixed_zero=True),
        SOFT._replace(mode="hard"),
    ],
    ids=str,
)
def test_value_and_gradient_are_those_of_the_plain_formula(options: Options, d: int) -> None:
    compare(weight(600, d), options)


@pytest.mark.parametrize("d", [1, 2])
def test_groups_and_blocks(d: int, monkeypatch) -> None:
    monkeypatch.setattr(dkm, "_BLOCK", 8 * 37)
    compare(torch.cat([weight(300, d, seed) for seed in range(3)]), SOFT)


def test_float32_is_close_to_float64() -> None:
    rows = torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(0)) * 0.05
    options = Options(tau=1e-4)
    starts = first_centroids(rows, 16, options)
    ours, theirs = rows.clone().requires_grad_(), rows.double().requires_grad_()
    dense, _ = soft_kmeans(ours, starts, options)
    expected, _ = plain(theirs[0], starts[0].double(), options)
    torch.testing.assert_close(dense[0].double(), expected, rtol=0, atol=5e-4)
    dense.square().sum().backward()
    expected.square().sum().backward()
    assert (ours.grad.double() - theirs.grad).norm() < 0.01 * theirs.grad.norm()


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e12])
def test_weights_of_any_magnitude_keep_11_bits(scale: float) -> None:
    rows = torch.randn(1, 1000, 1) * scale
    centroids = first_centroids(rows, 256, Options())
    near = centroids[0].flatten()[nearest(rows, centroids, Options())[0].long()]
    assert (near - rows[0, :, 0]).abs().max() < 0.3 * scale
    codes, points = dkm._points(rows[0], Options())
    if codes is None:
        assert torch.equal(points.values[0], rows[0, :, 0])
        return
    values = torch.zeros(1 << 16).index_copy_(0, points.places, points.values[0])[codes.long()]
    assert ((values - rows[0, :, 0]).abs() <= rows[0, :, 0].abs() * 2**-11 + scale * 2**-37).all()
    assert points.counts.sum() == 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    rows = (torch.randn(2, 500, 1) * 0.1).to(dtype).requires_grad_()
    dense, ends = soft_kmeans(rows, first_centroids(rows, 4, Options()), Options())
    dense.float().sum().backward()
    assert dense.dtype == rows.grad.dtype == dtype and ends.dtype == torch.float32
    assert rows.grad.isfinite().all()


def test_zeros_stay_out_of_it() -> None:
    rows = torch.randn(1, 1000, 1).masked_fill(torch.rand(1, 1000, 1) < 0.7, 0.0)
    rows[0, (rows[0, :, 0] == 0).nonzero()[:9, 0]] = -0.0
    options = Options(keep_zeros=True, tau=0.01)
    kept = rows[:, rows[0, :, 0] != 0]
    starts = first_centroids(rows, 4, options)
    torch.testing.assert_close(starts, first_centroids(kept, 4, Options(tau=0.01)))
    dense, ends = soft_kmeans(rows, starts, options)
    alone, expected = soft_kmeans(kept, starts, Options(tau=0.01))
    assert ((dense == 0) == (rows == 0)).all()
    torch.testing.assert_close(dense[rows != 0], alone[0, :, 0])
    torch.testing.assert_close(ends, expected)

    vectors = torch.randn(1, 40, 2) * (torch.rand(1, 40, 1) < 0.5)
    dense, _ = soft_kmeans(vectors, first_centroids(vectors, 4, options), options)
    assert (dense.any(dim=-1) == vectors.any(dim=-1)).all()


@pytest.mark.parametrize("d", [1, 2])
def test_a_group_of_zeros_stays_zero(d: int) -> None:
    options = Options(keep_zeros=True)
    rows = torch.zeros(1, 50, d, requires_grad=True)
    dense, ends = soft_kmeans(rows, first_centroids(rows, 4, options), options)
    dense.sum().backward()
    assert not dense.any() and not rows.grad.any() and ends.isfinite().all()
    assert not nearest(rows, ends, options).any()


def test_the_first_centroids_are_the_best() -> None:
    rows = torch.randn(1, 3000, 1).half().float()
    lut, _ = quantize_values(rows[0].numpy(), 8)
    found = first_centroids(rows, 8, Options())[0, :, 0]
    np.testing.assert_allclose(found.sort().values, lut, atol=1e-3)
    assert found[0].abs() == found.abs().min()
    assert first_centroids(rows, 8, Options(fixed_zero=True))[0, 0, 0] == 0


def test_equal_centroids_are_separated() -> None:
    table = torch.tensor([[0.0, 1.0, 1.0, 1.0, 4.0, 5.0]])[..., None]
    assert separate(table)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert separate(table, tolerance=0.5) is table
    same = separate(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [9.0, 9.0]]]))
    assert len(same[0].unique(dim=0)) == 4


@pytest.mark.parametrize("lut", ["int8", "uint8"])
def test_tables_of_8_bits(lut: str) -> None:
    options = SOFT._replace(lut=lut)
    rows = weight(400).requires_grad_()
    dense, ends = soft_kmeans(rows, first_centroids(rows, 8, options), options)
    dense.sum().backward()
    table = rounded(ends[0], lut)
    assert (table - ends[0]).abs().max() <= ends.abs().max() / 127
    exact, _ = soft_kmeans(rows, first_centroids(rows, 8, options), SOFT)
    torch.testing.assert_close(dense, exact, rtol=0, atol=0.03)
    assert rows.grad.isfinite().all()


def test_gumbel_noise_is_the_same_in_both_directions() -> None:
    """The gradient is that of the function with its noise: against differences."""
    rows, options = weight(50), SOFT._replace(mode="gsm", tau=0.5)
    starts = first_centroids(rows, 4, options)

    def value(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return soft_kmeans(x, starts, options)[0].square().sum()

    x = rows.clone().requires_grad_()
    value(x).backward()
    step, change = 1e-6, torch.zeros_like(rows)
    one = int(rows[0, :, 0].unique(return_counts=True)[1].argmax())
    alike = rows[0, :, 0] == rows[0, :, 0].unique()[one]
    # All elements of one value move together, as the codes are those of float16.
    step = 2.0**-10
    change[0, alike] = step
    difference = (value(rows + change) - value(rows - change)) / (2 * step)
    torch.testing.assert_close(x.grad[0, alike].sum(), difference, rtol=1e-3, atol=1e-3)


def test_bad_rows_are_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CorepressError, match="infinities or NaN"):
            soft_kmeans(torch.tensor([[[1.0], [bad]]]), torch.zeros(1, 2, 1), Options())
    with pytest.raises(CorepressError, match="nothing to cluster"):
        soft_kmeans(torch.zeros(1, 0, 1), torch.zeros(1, 2, 1), Options())
