"""Products with packed weights on a CPU, by our kernels, in as many threads as PyTorch uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.kernels import products
from corepress.runtime.packed.stored import Stored, multiply_tiles, tile_rows
from corepress.threads import CORES, over_rows

# Batches of up to so many are multiplied by our kernels, which keep them in the cache; larger ones by PyTorch.
_BATCH = 64
# Multiplications that are worth a thread, and the turns that each thread takes.
_WORTH, _TURNS = 1 << 17, 4
# The kernels take up to so many rows at a time.
_ROWS = 12


def multiply(weight: Stored, x: Tensor) -> Tensor:
    """x (batch, columns) @ weight.T, both in float32."""
    if len(x) <= _BATCH:
        return _few(weight, x)
    # One room for all tiles: fresh memory costs more than what is written to it.
    room = torch.zeros(tile_rows(weight), weight.padded)
    return multiply_tiles(weight, x, lambda first, last: tile(weight, first, last, room))


def _few(weight: Stored, x: Tensor) -> Tensor:
    if weight.padded > weight.columns:
        x = F.pad(x, (0, weight.padded - weight.columns))
    given = x.contiguous().numpy()
    y = np.empty((len(given), weight.rows), np.float32)
    parts = weight.described(), given, products.together(given), y
    _share(weight.rows, given.size, lambda first, last: products.multiply(*parts, first, last))
    return torch.from_numpy(y)


def tile(weight: Stored, first: int, last: int, room: Tensor) -> Tensor:
    """Some rows, dense, in `room`: (rows, padded columns) in float32."""
    dense, described = room.numpy(), weight.described()
    _share(last - first, weight.padded, lambda a, b: products.spread(described, dense[a:b], first + a, first + b))
    return room[: last - first, : weight.columns]


def _share(rows: int, cost: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` on all rows; `cost`: multiplications for each of them."""
    threads = min(torch.get_num_threads(), CORES, rows * cost // _WORTH)
    over_rows(rows, threads, work, _ROWS, _TURNS)
