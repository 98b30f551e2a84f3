"""What the inputs of a layer say about its weight, in the compressed program and in the original.

With X the layer's inputs in the original program and Y those behind the weights that are compressed already, a weight Q
is wanted for which Q Y is near W X. Where Q may be anything this is a linear regression: with H = Y Y^T + damping,
W + W (X - Y) Y^T H^-1. Rounding starts from there, with H, so that each layer also makes up for the errors of those
before it. (As GPTAQ, Li et al. 2025, arXiv 2504.02692, which spreads the same correction over the columns.)
"""

from __future__ import annotations

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


class Statistics:
    """Sums over vectors, of which each counts as much as the model's outputs depend on what the layer makes of it.

    `hessian`: of Y. `drift`: (groups, columns, columns), the mean of 2 (X - Y) Y^T; None where no X was given. `rows`:
    (rows of all groups,), how much what each row of the weight makes counts, 1 on average; None, all the same.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu"):
        self.layout = layout
        self.hessian = Hessian(layout.columns, layout.groups, device)
        self.drift: Tensor | None = None
        self.rows: Tensor | None = None

    def add(self, vectors: Tensor, original: Tensor | None = None, counting: Tensor | None = None) -> None:
        """Vectors (groups, vectors, columns) of Y and X; `counting`: (vectors,), 1 for all by default."""
        vectors = vectors.float()
        weighed = vectors if counting is None else vectors * counting[:, None]
        before = self.hessian.count
        self.hessian.add(vectors, weighed)
        count = self.hessian.count
        if original is not None and count > before:
            change = original.float() - vectors
            if self.drift is None:
                self.drift = torch.zeros_like(self.hessian.matrix)
            self.drift.baddbmm_(change.mT, weighed, beta=before / count, alpha=2 / count)

    def error(self, weight: NDArray[Any], other: NDArray[Any]) -> float:
        """The squared error of the layer's outputs, for each vector, with `other` in place of `weight`, less what no
        weight can change: to compare weights by, on vectors that none of them was fitted to.

        |Q Y - W X|^2 = |D Y|^2 - 2 (D Y) (W (X - Y)) + ..., with D = Q - W.
        """
        exact, changed = (torch.from_numpy(self.layout.matrices(w.astype(np.float32))) for w in (weight, other))
        difference, matrix = changed - exact, self.hessian.matrix.cpu()
        found = (difference * (difference @ matrix)).sum(-1).double() / 2
        if self.drift is not None:
            found -= (difference * (exact @ self.drift.cpu())).sum(-1).double()
        return float((found if self.rows is None else found * self.rows.cpu().reshape(found.shape)).sum())

    def correction(self) -> Tensor | None:
        """C, (groups, columns, columns) float32, for which W + W C is best behind compressed weights; None for zero."""
        if self.drift is None or not self.drift.any():
            return None
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


class Sensitivity(NamedTuple):
    """How much the outputs of a model depend on each element of a weight: `importance`, float32 of its shape."""

    importance: NDArray[Any]

    def error(self, weight: NDArray[Any], other: NDArray[Any]) -> float:
        """The squared error of `other` in place of `weight`, each element by its importance."""
        difference = other - weight.astype(np.float32)
        return float((self.importance * np.square(difference)).sum(dtype=np.float64))
