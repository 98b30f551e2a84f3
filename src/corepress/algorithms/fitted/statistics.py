"""What the inputs of a layer say about its weight, in the compressed program and in the original.

With X the layer's inputs in the original program and Y those behind the weights that are compressed already, a weight Q
is wanted for which Q Y is near W X. Where Q may be anything this is a linear regression: with H = Y Y^T + damping,
W + W (X - Y) Y^T H^-1. Rounding starts from there, with H, so that each layer also makes up for the errors of those
before it. (As GPTAQ, Li et al. 2025, arXiv 2504.02692, which spreads the same correction over the columns.)

Few vectors say little about most directions, and what is fitted to them alone does not carry to others: `Shrinkage`
says how far they are followed. Where the operation has a bias, that takes up the mean of what is left, so that a weight
need only be near for vectors less their mean (the intercept of a regression).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.hessian import Hessian, one_thread
from corepress.algorithms.fitted.layout import Layout
from corepress.weights import Sparse

# Of the mean of the Hessian's diagonal: a few thousand vectors say little about most directions.
_DAMPENING = 0.1


# What is added to sums at once: Y, (groups, vectors, columns), X, and how much each vector counts, if these are known.
Part = tuple[Tensor, Tensor | None, Tensor | None]
# So many vectors make one product of matrices at least: of fewer, most of the time goes into reading and writing sums.
_BULK = 512


class Shrinkage(NamedTuple):
    """How far vectors are followed.

    `dampening`: of the Hessian, with which methods round; None, their own. `share`: of the correction for errors of
    the layers before, 0 to 1. `intercept`: whether the bias takes up the mean.
    """

    dampening: float | None = None
    share: float = 1.0
    intercept: bool = False


class Statistics:
    """Sums over vectors, of which each counts as much as the model's outputs depend on what the layer makes of it.

    `hessian`: of Y. `dampening`: with which methods round; None, their own.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu"):
        self.layout = layout
        self.hessian = Hessian(layout.columns, layout.groups, device)
        self.dampening: float | None = None
        # The mean of 2 X Y^T, and, where that is asked for, what it differs by from that of 2 Y Y^T.
        self._cross: Tensor | None = None
        self._drift: Tensor | None = None
        # Means over the vectors: of Y and X - Y, (2, groups, columns), and of how much they count, and its square.
        self._means = torch.zeros(2, layout.groups, layout.columns, device=device)
        self._counting = torch.zeros(2, dtype=torch.float64)
        self._share, self._correction = 1.0, _Once()
        self._centred: Statistics | None = None

    def add(self, vectors: Tensor, original: Tensor | None = None, counting: Tensor | None = None) -> None:
        """Vectors (groups, vectors, columns) of Y and X; `counting`: (vectors,), 1 for all by default."""
        vectors = vectors.float()
        counts = torch.ones(vectors.shape[1], device=vectors.device) if counting is None else counting
        weighed = vectors if counting is None else vectors * counting[:, None]
        before = self.hessian.count
        self.hessian.add(vectors, weighed)
        count = self.hessian.count
        if count == before:
            return
        mean = weighed.sum(1).to(self._means)
        self._means[0] += (mean - (count - before) * self._means[0]) / count
        sizes = torch.stack([counts.double().sum(), counts.double().square().sum()]).cpu()
        self._counting += (sizes - (count - before) * self._counting) / count
        if original is not None:
            if self._cross is None:
                self._cross = torch.zeros_like(self.hessian.matrix)
            # Sums of X and Y are taken apart from each other, since differences of all vectors take longer than these.
            original = original.float()
            self._cross.baddbmm_(original.mT, weighed, beta=before / count, alpha=2 / count)
            change = (counts.to(original) @ original).to(self._means) - mean
            self._means[1] += (change - (count - before) * self._means[1]) / count
        self._correction, self._drift, self._centred = _Once(), None, None

    @property
    def drift(self) -> Tensor | None:
        """(groups, columns, columns), the mean of 2 (X - Y) Y^T; None where no X was given."""
        if self._drift is None and self._cross is not None:
            self._drift = self._cross - self.hessian.matrix
        return self._drift

    @property
    def vectors(self) -> int:
        """How many vectors that count alike say as much as these (Kish's effective size of a sample)."""
        total, squares = self._counting.tolist()
        return round(self.hessian.count * total**2 / squares) if squares else 0

    def shrunk(self, how: Shrinkage) -> Statistics:
        """The same, to be followed as far as `how` says; with an intercept those of vectors less their mean."""
        view = copy.copy(self._less_mean() if how.intercept else self)
        view.dampening, view._share = how.dampening, how.share
        return view

    def of_rows(self, count: int) -> Statistics:
        """The same for a weight of so many rows."""
        view, shape = copy.copy(self), list(self.layout.shape)
        shape[1 if self.layout.transposed else 0] = count
        view.layout, view._centred = replace(self.layout, shape=tuple(shape)), None
        return view

    def _less_mean(self) -> Statistics:
        if self._centred is None:
            found = copy.copy(self)
            total, (mean, change) = float(self._counting[0]) or 1.0, self._means
            found.hessian = Hessian(self.layout.columns, self.layout.groups, self.hessian.matrix.device)
            found.hessian.count = self.hessian.count
            found.hessian.matrix = self.hessian.matrix - 2 / total * mean[:, :, None] * mean[:, None, :]
            if self.drift is not None:
                found._drift = self.drift - 2 / total * change[:, :, None] * mean[:, None, :]
            found._correction = _Once()
            self._centred = found
        return self._centred

    def shift(self, weight: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
        """What to add to the bias, a number for each row of all groups, with `other` in place of `weight`, so that the
        mean of the outputs is that of the original program."""
        exact, difference = self._matrices(weight, other)
        total, (mean, change) = float(self._counting[0]) or 1.0, self._means.cpu()
        found: NDArray[np.float32] = ((exact @ change[..., None] - difference @ mean[..., None]) / total).numpy()
        return found.reshape(-1)

    def error(self, weight: NDArray[Any], other: NDArray[Any], shift: NDArray[Any] | None = None) -> float:
        """The squared error of the layer's outputs, for each vector, with `other` in place of `weight` and `shift`
        added to the bias, less what neither can change: to compare them by, on vectors that none was fitted to.

        |Q Y + b - W X|^2 = |D Y|^2 - 2 (D Y) (W (X - Y)) + 2 b (D Y - W (X - Y)) + b^2 + ..., with D = Q - W.
        """
        exact, difference = self._matrices(weight, other)
        found = (difference * (difference @ self.hessian.matrix.cpu())).sum(-1).double() / 2
        if self.drift is not None:
            found -= (difference * (exact @ self.drift.cpu())).sum(-1).double()
        if shift is not None:
            mean, change = self._means.cpu()
            own = torch.from_numpy(shift).reshape(found.shape)
            left = (difference @ mean[..., None] - exact @ change[..., None])[..., 0]
            found += 2 * (own * left).double() + self._counting[0] * own.double().square()
        return float(found.sum())

    def _matrices(self, weight: NDArray[Any], other: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """W and D = Q - W."""
        exact, changed = (torch.from_numpy(self.layout.matrices(w.astype(np.float32))) for w in (weight, other))
        return exact, changed - exact

    def correction(self) -> Tensor | None:
        """C, (groups, columns, columns) float32, for which W + W C is best behind compressed weights; None for zero."""
        if self.drift is None or not self._share or not self.drift.any():
            return None
        return self._share * self._correction(self._solved)

    def _solved(self) -> Tensor:
        assert self.drift is not None
        damped = self.hessian.matrix.double()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal += _DAMPENING * diagonal.mean(1, keepdim=True) + 1e-12
        with one_thread():
            solved: Tensor = torch.linalg.solve(damped, self.drift.double(), left=False)
        return solved.float()

    def refitted(self, weight: Any) -> Any:
        """The weight, a tensor, an array or sparse, that is best for the inputs behind compressed weights."""
        if isinstance(weight, Sparse):
            values = self.refitted(weight.values)
            return weight if values is weight.values else Sparse(weight.mask, np.where(weight.mask, values, 0))
        if isinstance(weight, np.ndarray):
            given = torch.from_numpy(np.array(weight))
            found = self.refitted(given)
            return weight if found is given else found.numpy()
        correction = self.correction() if isinstance(weight, Tensor) else None
        if correction is None:
            return weight
        matrices = self.layout.matrices(weight).float()
        return self.layout.weight((matrices + matrices @ correction.to(matrices.device)).to(weight.dtype))


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The same vectors in the same order, small parts put together."""
    waiting: list[Part] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part[0].shape[1]
        if count >= _BULK:
            yield _as_one(waiting)
            waiting, count = [], 0
    if waiting:
        yield _as_one(waiting)


def _as_one(parts: list[Part]) -> Part:
    """Of all parts the same is known."""
    if len(parts) == 1:
        return parts[0]
    vectors, originals, counts = zip(*parts, strict=True)
    return (
        torch.cat(vectors, 1),
        None if originals[0] is None else torch.cat(originals, 1),
        None if counts[0] is None else torch.cat(counts),
    )


class _Once:
    """What is computed once, for all views of the same sums."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        if self._found is None:
            self._found = compute()
        return self._found


class Sensitivity(NamedTuple):
    """How much the outputs of a model depend on each element of a weight: `importance`, float32 of its shape."""

    importance: NDArray[Any]

    def error(self, weight: NDArray[Any], other: NDArray[Any]) -> float:
        """The squared error of `other` in place of `weight`, each element by its importance."""
        difference = other - weight.astype(np.float32)
        return float((self.importance * np.square(difference)).sum(dtype=np.float64))
