"""How far a student's outputs are from its teacher's, as a number that gradients can make smaller.

Of probabilities it is the Kullback-Leibler divergence, as in distillation (Hinton et al. 2015, arXiv 1503.02531); of
other numbers the energy of the difference over that of the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Rows are probabilities if they sum to 1 but for rounding; the least number of float16.
_ROUNDED, _LEAST = 1e-2, 2.0**-24
_ENERGY = 1e-12


def distance(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The mean over the outputs that are floating-point numbers, each over all samples of a batch."""
    pairs = [(one, two) for one, two in zip(outputs, wanted, strict=True) if two.is_floating_point()]
    if not pairs:
        return torch.zeros(())
    return torch.stack([_one(one.float(), two.float()) for one, two in pairs]).mean()


def _one(output: Tensor, wanted: Tensor) -> Tensor:
    if _are_probabilities(wanted):
        one, two = (rows.clamp_min(_LEAST) for rows in (output, wanted))
        one, two = one / one.sum(-1, keepdim=True), two / two.sum(-1, keepdim=True)
        return (two * (two / one).log()).sum(-1).mean()
    return relative_energy(output, wanted)


def relative_energy(output: Tensor, wanted: Tensor) -> Tensor:
    """The energy of the difference over that of what is wanted, where that is finite."""
    finite = wanted.isfinite()
    wanted = torch.where(finite, wanted, wanted.new_zeros(()))
    difference = torch.where(finite, output, wanted) - wanted
    return (difference * difference).sum() / (wanted * wanted).sum().clamp_min(_ENERGY)


def guide(inside: Sequence[Tensor], wanted: Sequence[Tensor], weight: float) -> None:
    """To what the loss tells each value at a cut, add what the value of the teacher there does: the gradient of
    `weight` times the mean of their relative energies.

    Numbers on which nothing that is minimised hangs have no derivative (`_counts`), so that it is added on the way
    back, where this is seen.
    """
    for value, target in zip(inside, wanted, strict=True):
        if value.requires_grad and target.is_floating_point():
            pull = _pull(value.detach(), target, weight / len(inside))
            value.register_hook(pull)  # type: ignore[no-untyped-call]


def _pull(value: Tensor, target: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
    value, target = value.float(), target.float()
    if not target.sum().isfinite():
        finite = target.isfinite()
        value, target = (torch.where(finite, numbers, 0.0) for numbers in (value, target))

    def pulled(gradient: Tensor) -> Tensor:
        # Products with a mask take a quarter of the time of `torch.where`.
        counts = _counts(gradient != 0, value, target)
        wanted, difference = target * counts, (value - target) * counts
        energy = (wanted * wanted).sum().clamp_min(_ENERGY)
        return gradient + (difference * (2 * weight / energy)).to(gradient.dtype)

    return pulled


def _counts(moving: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """Which numbers of the values of a batch count: those with a derivative, and of the others those that are cut off
    next, as by a relu, where the teacher's are not: that lie within those with one. (Where all channels of a place lack
    one, as in padding, which is masked later, none of them does.)

    `moving`: which have a derivative. The samples lie along the first axis.
    """
    if not moving.any() or moving.all():
        return moving
    axes = range(2 if value.dim() > 2 and value.shape[1] == 1 else 1, value.dim())
    channels = axes[0] if len(axes) == 3 else axes[-1]  # of pictures, (channels, height, width), and of all else
    # Not `value[moving]`, which takes ten times as long.
    far = moving.logical_not() * torch.finfo(value.dtype).max
    low, high = (value + far).amin(), (value - far).amax()
    return moving | (moving.any(channels, keepdim=True) & (target >= low) & (target <= high))


def _are_probabilities(rows: Tensor) -> bool:
    if rows.dim() == 0 or rows.shape[-1] < 2:
        return False
    return bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() <= _ROUNDED).all())
