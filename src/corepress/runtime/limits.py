"""How large a tensor may become: a program from elsewhere must not get all the memory there is.

Operations whose result can be far larger than what they are given check its size before they make it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from itertools import zip_longest

from torch import SymInt, Tensor

# Elements of one tensor; the activations of real models stay far below.
LIMIT = 1 << 31

Binary = Callable[[Tensor, Tensor], Tensor]


def check(*sizes: int) -> None:
    """A ValueError where no tensor can have these sizes, or is too large. An empty one does not hide the others.

    Sizes that are symbols, as in a program that is exported, are not known yet.
    """
    if any(isinstance(size, SymInt) for size in sizes):
        return
    if any([size < 0 for size in sizes]):  # noqa: C419  torch.compile takes neither generators nor a default of `min`
        raise ValueError(f"a dimension can't have {min(sizes)} elements")
    count = math.prod([max(1, size) for size in sizes])
    if count > LIMIT:
        raise ValueError(f"{count:.3g} elements are more than the {LIMIT:.3g} that one tensor may have")


def check_broadcast(*tensors: Tensor) -> None:
    """The same for what these tensors broadcast to."""
    if math.prod([tensor.numel() for tensor in tensors]) > LIMIT:
        # From the right. Whether they do broadcast PyTorch will see.
        check(*map(max, zip_longest(*(reversed(tensor.shape) for tensor in tensors), fillvalue=1)))


def broadcasts(function: Binary) -> Binary:
    """Let a function of two tensors check the shape that they broadcast to."""

    @wraps(function)
    def checked(x: Tensor, y: Tensor) -> Tensor:
        if x.numel() * y.numel() > LIMIT:  # nearly never: the full check takes longer than a small operation
            check_broadcast(x, y)
        return function(x, y)

    return checked
