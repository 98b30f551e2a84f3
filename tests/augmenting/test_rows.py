"""Words that are alike are those whose rows are; words that training never met are not put into texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corepress.augmenting.rows import Rows
from corepress.augmenting.tokens import Vocabulary

NONE = np.zeros(0, np.int64)


@given(words=st.integers(2, 40), numbers=st.integers(2, 8), count=st.integers(1, 50), seed=st.integers(0, 2**32 - 1))
def test_near_words_are_those_of_the_largest_cosines(words, numbers, count, seed) -> None:
    table = np.random.default_rng(seed).normal(size=(words, numbers)).astype(np.float32)
    centred = table - table.mean(0)
    lengths = np.linalg.norm(centred, axis=1)
    cosines = centred @ centred.T / np.outer(lengths, lengths)
    rows = Rows(table, NONE)
    for word, near in enumerate(rows.near(range(words), count)):
        others = np.setdiff1d(rows.met, [word])
        if not len(others):
            assert list(near) == [word]
            continue
        assert len(set(near)) == len(near) == min(count, len(others)) and word not in near
        left_out = np.setdiff1d(others, near)
        # Both sums have as many terms as there are numbers, each rounded to float32.
        assert not len(left_out) or cosines[word, near].min() >= cosines[word, left_out].max() - 1e-5


def test_rows_that_stayed_as_they_were_drawn_are_left_out_and_so_are_marks() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(2000, 128)).astype(np.float16)
    unmet = np.arange(100, 300)
    table[unmet] = 0.3 + 0.01 * random.normal(size=(len(unmet), 128))
    rows = Rows(table, np.array([7, 1999]))
    assert np.array_equal(rows.met, np.setdiff1d(np.arange(2000), [*unmet, 7, 1999]))
    assert all(np.isin(near, rows.met).all() for near in rows.near(range(0, 2000, 50), 5))
    alike = np.ones((50, 4), np.float32)
    assert len(Rows(alike, NONE).met) == 50  # where all are, nothing can be told


def test_long_rows_keep_who_is_near() -> None:
    random = np.random.default_rng(1)
    table = random.normal(size=(400, 2000)).astype(np.float32)
    table[1::2] = table[::2] + 0.5 * random.normal(size=(200, 2000))  # cosine 0.9, that of others 0 +- 0.04
    rows = Rows(table, NONE)
    assert all(near[0] == word ^ 1 for word, near in enumerate(rows.near(range(400), 1)))


def test_words_give_way_to_such_as_are_alike() -> None:
    random = np.random.default_rng(2)
    table = np.repeat(random.normal(size=(100, 16)), 30, axis=0) + 0.1 * random.normal(size=(3000, 16))
    values = [np.array([[1, *random.integers(40, 600, 10), 2]]) for _ in range(10)]
    vocabulary = Vocabulary(values, 2999, table)
    same, other = 0, 0
    for value in values * 20:
        found = vocabulary.varied(value, 0.0, random)
        assert found[0, 0] == 1 and found[0, -1] == 2 and found.shape == value.shape
        changed = found != value
        assert np.array_equal(found[changed] // 30, value[changed] // 30)  # of the thirty that are alike
        same, other = same + int((~changed).sum()) - 2, other + int(changed.sum())
    assert 0.4 < other / (same + other) < 0.6  # any share of the words, as likely
