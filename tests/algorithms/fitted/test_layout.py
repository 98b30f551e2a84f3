"""What a convolution reads in its input, beside the windows of PyTorch's `unfold`."""

from __future__ import annotations

from unittest import mock

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.algorithms.fitted import layout as place
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import Statistics


def two(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), two(1, 3), two(1, 3), two(1, 2), two(0, 2), two(0, 4),
    st.sampled_from([1, 60, 1 << 20]), st.booleans(),
)  # fmt: skip
def test_the_gram_matrix_of_a_convolution_is_that_of_all_its_windows(
    batch, groups, channels, kernel, strides, dilations, pads, more, part, counted
) -> None:
    size = [(k - 1) * d + 1 + extra for k, d, extra in zip(kernel, dilations, more, strict=True)]
    random = torch.Generator().manual_seed(sum(size) + batch)
    x = torch.randn(batch, groups * channels, *size, generator=random)
    padded = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
    unfolded = F.unfold(x, kernel, dilation=dilations, padding=pads, stride=strides)
    wanted = unfolded.reshape(batch, groups, channels * kernel[0] * kernel[1], -1)
    wanted = wanted.permute(1, 0, 3, 2).flatten(1, 2)

    layout = Layout((groups * 2, channels, *kernel), groups)
    counting = torch.rand(wanted.shape[1], generator=random) + 0.5 if counted else None
    statistics, seen, first = Statistics(layout), [], 0
    with mock.patch.object(place, "_LARGEST_UNFOLDED", part):
        for vectors in layout.windows(padded, strides, dilations):
            last = first + vectors.shape[1]
            statistics.add(vectors, 2 * vectors, None if counting is None else counting[first:last])
            seen.append(vectors)
            first = last
    assert torch.equal(torch.cat(seen, 1), wanted)
    weighed = wanted if counting is None else wanted * counting[:, None]
    gram = 2 / wanted.shape[1] * (wanted.double().mT @ weighed.double())
    torch.testing.assert_close(statistics.hessian.matrix.double(), gram, rtol=1e-4, atol=1e-5)
    assert statistics.drift is not None  # the original's inputs are twice as large
    torch.testing.assert_close(statistics.drift.double(), gram, rtol=1e-4, atol=1e-5)


def test_a_kernel_of_one_place_reads_an_image_without_a_copy() -> None:
    x = torch.randn(1, 6, 5, 4)
    (vectors,) = Layout((8, 6, 1, 1)).windows(x, (1, 1), (1, 1))
    assert vectors.data_ptr() == x.data_ptr() and torch.equal(vectors[0], x.flatten(2)[0].T)


def test_parts_are_bounded() -> None:
    """Windows of one line at a time, where no more fit."""
    layout = Layout((4, 8, 5, 5))
    with mock.patch.object(place, "_LARGEST_UNFOLDED", 10_000):
        parts = list(layout.windows(torch.randn(2, 8, 44, 54), (1, 1), (1, 1)))
    assert {part.numel() for part in parts} == {50 * 200} and len(parts) == 2 * 40
