"""What the loss tells values at cuts: plain formulas, and which numbers count."""

from __future__ import annotations

import torch

from corepress.refining.distance import guide, relative_energy


def told(value, target, loss, weight=1.0):
    """The gradient of a value at a cut."""
    leaf = value.clone().requires_grad_()
    inside = leaf * 1
    guide([inside], [target], weight)
    loss(inside).backward()
    return leaf.grad


def test_the_gradient_is_that_of_the_relative_energy_beside_the_loss():
    value, target = torch.randn(3, 1, 5, 4), torch.randn(3, 1, 5, 4)
    leaf = value.clone().requires_grad_()
    (leaf.square().sum() + 0.7 * relative_energy(leaf, target)).backward()
    torch.testing.assert_close(told(value, target, lambda x: x.square().sum(), 0.7), leaf.grad)


def test_padding_does_not_count():
    """Of places that are masked later, by no channel."""
    value, target = torch.randn(2, 1, 5, 4), torch.randn(2, 1, 5, 4)
    mask = torch.ones(2, 1, 5, 1)
    mask[0, :, 3:] = 0
    found = told(value, target, lambda x: (x * mask).square().sum())
    leaf = value.clone().requires_grad_()
    kept = mask.expand_as(leaf) != 0
    ((leaf * mask).square().sum() + relative_energy(leaf[kept], target[kept])).backward()
    torch.testing.assert_close(found, leaf.grad)
    assert not found[0, 0, 3:].any()


def test_what_is_cut_off_next_counts_where_the_teachers_is_not():
    """Behind a relu, a number below zero has no derivative, but is to rise where the teacher's is above."""
    value = torch.tensor([2.0, -1.0, -1.0, 1.0]).reshape(1, 4, 1, 1).repeat(1, 1, 2, 2)
    target = torch.tensor([2.0, 1.5, -3.0, 1.5]).reshape(1, 4, 1, 1).repeat(1, 1, 2, 2)
    found = told(value, target, lambda x: 1e-6 * x.relu().sum())[0, :, 0, 0]
    assert found[1] < -1e-3 and found[3] < -1e-3
    assert found[2] == 0 and abs(found[0]) < 1e-5


def test_what_is_not_finite_does_not_count():
    value, target = torch.randn(2, 3), torch.tensor([[1.0, torch.inf, 2.0], [torch.nan, 1.0, 0.0]])
    assert told(value, target, lambda x: x.sum()).isfinite().all()
