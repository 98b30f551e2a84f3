"""Masks and places, beside what attention of PyTorch and brute force say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress.errors import ConfigError
from corepress.formats.features import Feature
from corepress.runtime.domains import Domain
from corepress.tokenizing.layout import Piece, _fill

PADDED = Piece(0, [5, 6, 7, 8, 9, 0, 0, 0], 5)


def test_a_mask_with_a_row_for_each_token_is_causal() -> None:
    """Added to scores it gives what PyTorch's causal attention gives, for all words."""
    fill, places = _fill(Feature("causalMask", "array", (1, 1, 8, 8), np.float16), None)
    mask = torch.from_numpy(fill(PADDED).astype(np.float32))
    q, k, v = torch.randn(3, 1, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    attention = torch.nn.functional.scaled_dot_product_attention
    ours = attention(q, k, v, attn_mask=mask)[:, :, :5]
    theirs = attention(*(x[:, :, :5] for x in (q, k, v)), is_causal=True)
    assert places == 8 and torch.allclose(ours, theirs, atol=1e-6)


def test_a_mask_of_words_alone_hides_padding() -> None:
    added, _ = _fill(Feature("mask", "array", (1, 1, 1, 8), np.float32), Domain("bias"))
    counted, _ = _fill(Feature("attention_mask", "array", (1, 8), np.int32), Domain("mask"))
    assert counted(PADDED).tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]] and counted(PADDED).dtype == np.int32
    assert (added(PADDED)[0, 0, 0] < 0).tolist() == (counted(PADDED)[0] == 0).tolist()


def test_a_cache_of_fixed_size_shows_what_was_read() -> None:
    """Of a step of two tokens behind six others, a model with places for sixteen."""
    fill, places = _fill(
        Feature("mask", "array", (1, 1, 2, 16), np.float16, ranges=((1, 1), (1, 1), (1, 4), (16, 16))), None
    )
    found = fill(Piece(6, [1, 2], 2))
    expected = [[key <= query for key in range(16)] for query in (6, 7)]
    assert places == 16 and (found[0, 0] == 0).tolist() == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 8), [[3, 4, 5, 6, 7, 8, 9, 10]]), ((8,), [*range(3, 11)]), ((1,), [3]), ((), 3)]
)
def test_places_count_up(shape: tuple[int, ...], expected: object) -> None:
    fill, rows = _fill(Feature("place", "array", shape, np.int32), Domain("index", 127))
    assert rows == 128 and fill(Piece(3, [0] * 8, 8)).tolist() == expected


def test_kinds_of_tokens_are_zero_and_the_unknown_is_refused() -> None:
    for feature, domain in (
        (Feature("token_type_ids", "array", (1, 8), np.int32), None),
        (Feature("kind", "array", (1, 8), np.int32), Domain("index", 1)),
    ):
        fill, places = _fill(feature, domain)
        assert places is None and not fill(PADDED).any() and fill(PADDED).shape == (1, 8)
    with pytest.raises(ConfigError, match=r"'pixels' \(1x3x8x8\) holds"):
        _fill(Feature("pixels", "array", (1, 3, 8, 8), np.float32), None)
