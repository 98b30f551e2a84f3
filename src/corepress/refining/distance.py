"""How far a student's outputs are from its teacher's, as a number that gradients can make smaller.

Of probabilities it is the Kullback-Leibler divergence, as in distillation (Hinton et al. 2015, arXiv 1503.02531); of
other numbers the energy of the difference over that of the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def relative_energy(output: Tensor, wanted: Tensor, counts: Tensor | None = None) -> Tensor:
    """The energy of the difference over that of what is wanted, where that is finite. `counts`: which numbers count."""
    finite = wanted.isfinite() if counts is None else wanted.isfinite() & counts
    wanted = torch.where(finite, wanted, wanted.new_zeros(()))
    difference = torch.where(finite, output, wanted) - wanted
    return (difference * difference).sum() / (wanted * wanted).sum().clamp_min(_ENERGY)


def inner_distance(inside: Sequence[Tensor], wanted: Sequence[Tensor], counts: Sequence[Tensor | None]) -> Tensor:
    """The mean over the values at cuts."""
    pairs = [
        relative_energy(one.float(), two.float(), own)
        for one, two, own in zip(inside, wanted, counts, strict=True)
        if two.is_floating_point()
    ]
    return torch.stack(pairs).mean() if pairs else torch.zeros(())


def counting(outputs: Sequence[Tensor], inside: Sequence[Tensor], random: torch.Generator) -> list[Tensor | None]:
    """Which numbers of the values at cuts some output hangs on: not those of padding, which is masked later. None for a
    value of which all count, or nothing is known.

    They are told by the derivative of a random sum of the outputs, which is exactly zero where there is no way.
    """
    floats = [output for output in outputs if output.requires_grad]
    if not floats or not inside:
        return [None] * len(inside)
    signs = [torch.randn(output.shape, generator=random).to(output) for output in floats]
    total = torch.stack([(output * sign).sum() for output, sign in zip(floats, signs, strict=True)]).sum()
    found = torch.autograd.grad(total, [*inside], retain_graph=True, allow_unused=True)
    return [None if gradient is None or gradient.all() else gradient != 0 for gradient in found]


def _are_probabilities(rows: Tensor) -> bool:
    if rows.dim() == 0 or rows.shape[-1] < 2:
        return False
    return bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() <= _ROUNDED).all())
