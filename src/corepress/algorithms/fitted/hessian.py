"""The Hessian of a linear layer's squared output error, and the triangular factor that GPTQ and SparseGPT work with.

A layer of weight W (rows, columns) answers W X. Changing W by D changes its answer by a squared error that is the sum
of d H d^T / 2 over the rows d of D, with H = 2 X X^T. Both methods go through the columns in order; the error of one is
made up for by those that follow, as the upper Cholesky factor U of H^-1 says (arXiv 2210.17323, Algorithm 1).

U as a whole is not needed. H^-1 = U^T U means H = V V^T with V = U^-1, also upper triangular, and d H d^T = |d V|^2.
Once the columns before c are settled with changes d, those from c on are best changed by -d V[:c, c:] U[c:, c:]. Of the
latter a group of columns only takes its own block on the diagonal, the inverse of V's block there. (The column c itself
is Babai's nearest plane, as Chen et al. 2025, arXiv 2507.18553, found.) With J the matrix that reverses the order,
J H J = L L^T gives V = J L J: one Cholesky factorization, where U takes an inversion besides, and loses digits by it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from corepress.errors import DataError

# Times the mean of the diagonal, as the authors of GPTQ have it.
DAMPENING = 0.01
_ALONE = threading.RLock()  # the number of threads is one for the whole process


class Factor(NamedTuple):
    """H + dampening = V V^T for one order of the columns; of a grouped convolution for each group, in a first axis.

    `upper`: V, (n, n) float32. `order`: the columns in the order in which they are settled; None for their own.
    """

    upper: Tensor
    order: Tensor | None = None

    @property
    def diagonal(self) -> Tensor:
        return self.upper.diagonal(dim1=-2, dim2=-1)

    @property
    def unit(self) -> Tensor:
        """V with each column divided by its diagonal element."""
        return self.upper / self.diagonal[..., None, :]


class Hessian:
    """2/n X X^T, summed up batch by batch in float32; one for each group of a grouped convolution.

    `matrix`: (groups, columns, columns). `count`: the vectors seen.
    """

    def __init__(self, columns: int, groups: int = 1, device: torch.device | str = "cpu"):
        self.matrix = torch.zeros(groups, columns, columns, device=device)
        self.count = 0
        self._factors: dict[tuple[float, bool], Factor] = {}

    def add(self, inputs: Tensor, weighed: Tensor | None = None) -> None:
        """Add vectors: (vectors, columns), or (groups, vectors, columns), of any floating-point type.

        `weighed`: each of them times how much it counts.
        """
        inputs = inputs.detach().to(self.matrix.device, torch.float32)
        inputs = inputs.reshape(len(self.matrix), -1, self.matrix.shape[-1])
        other = inputs if weighed is None else weighed.to(inputs).reshape(inputs.shape)
        added = inputs.shape[1]
        if added == 0:
            return
        before, self.count = self.count, self.count + added
        torch.baddbmm(self.matrix, inputs.mT, other, beta=before / self.count, alpha=2 / self.count, out=self.matrix)
        self._factors.clear()

    def factor(self, dampening: float = DAMPENING, by_activation: bool = False) -> Factor:
        """`factorize` of all groups, computed once for all weights that read these inputs."""
        key = dampening, by_activation
        if key not in self._factors:
            self._factors[key] = factorize(self.matrix, dampening, by_activation)
        return self._factors[key]


@contextmanager
def one_thread() -> Iterator[None]:
    """LAPACK cuts a matrix up by the number of threads, so that the last digits of a factor depend on it; not here.

    It costs little beside the products of matrices, which come out the same.
    """
    with _ALONE:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def factorize(hessian: Tensor, dampening: float = DAMPENING, by_activation: bool = False) -> Factor:
    """The triangular factor of a Hessian, (n, n) float32, or of those of groups, (groups, n, n). They stay unchanged.

    `dampening`: times the mean of the diagonal, is added to the diagonal; ten times as much, again and again, where the
    matrix is not positive definite in float32. `by_activation`: the columns of the largest diagonal elements first.
    A dead column, whose input was always zero, gets 1 on the diagonal: it has no part in the others' business.
    Raises CorepressError if the Hessian holds infinities or NaN, or if no dampening up to 10 times the mean helps.
    """
    if not torch.isfinite(hessian.sum()):
        raise DataError("its inputs hold infinities or NaN, or are too large to be squared")
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.where(diagonal == 0, 1, diagonal)
    if by_activation:
        order = torch.argsort(diagonal, dim=-1, descending=True)
        reverse = order.flip(-1)
        matrix = hessian.gather(-2, reverse[..., :, None].expand_as(hessian))
        matrix = matrix.gather(-1, reverse[..., None, :].expand_as(hessian))
        lower = _cholesky(matrix, diagonal.gather(-1, reverse), dampening)
        return Factor(lower.flip(-2, -1), order)
    lower = _cholesky(hessian.flip(-2, -1), diagonal.flip(-1), dampening)
    return Factor(lower.flip(-2, -1), None)


def _cholesky(matrix: Tensor, diagonal: Tensor, dampening: float) -> Tensor:
    """The lower factor of a matrix, or of each of several; `matrix` is used up."""
    damped = matrix.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    share = torch.full_like(mean, dampening)
    while float(share.max()) <= 10:
        damped.copy_(diagonal + share * mean)
        lower: Tensor
        with one_thread():
            lower, info = torch.linalg.cholesky_ex(matrix)
        failed = (info != 0) | ~torch.isfinite(lower.diagonal(dim1=-2, dim2=-1).sum(-1))
        if not failed.any():
            return lower
        share = torch.where(failed[..., None], (10 * share).clamp(min=1e-6), share)
    raise DataError("its Hessian has no Cholesky factor even if dampened: use more, or more varied, samples")
