"""Labels go where the numbers go, and stop where numbers of several channels come together."""

from __future__ import annotations

import pytest
import torch

from corepress.coreml.activations.labels import Stuck, along, check_reshape, compact, spread, spread_over

CHANNELS = torch.arange(1, 7)


def test_channels_of_an_axis() -> None:
    labels = spread(CHANNELS, 1, (2, 6, 3))
    assert along(labels, 1).tolist() == CHANNELS.tolist()
    assert compact(labels).shape == (1, 6, 1)
    padded = torch.nn.functional.pad(labels, (1, 1))  # zeros belong to any channel
    assert along(padded, 1).tolist() == CHANNELS.tolist() and compact(padded).shape == (1, 6, 1)
    with pytest.raises(Stuck):
        along(labels, 2)
    heads = labels.movedim(1, 2).reshape(2, 3, 2, 3).transpose(1, 2)
    assert compact(heads)[0, :, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert spread_over(heads, -2, (2, 2, 5, 3)).shape == (2, 2, 5, 3)
    with pytest.raises(Stuck):
        spread_over(heads, -1, heads.shape)


def test_a_reshape_that_depends_on_the_size_of_inputs_stops() -> None:
    rows = spread(CHANNELS, 2, (1, 4, 6))
    check_reshape(rows, 6, (1, -1, 2, 3))
    check_reshape(rows, 6, (1, 4, 6))
    for labels, shape in ((rows, (1, 6, 4)), (rows, (1, 2, -1)), (rows.transpose(1, 2), (1, 4, 6))):
        with pytest.raises(Stuck):
            check_reshape(labels, 6, shape)
