"""The metrics beside PyTorch's and NumPy's own; what a value of zeros gives; what is no distribution has no KL."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest

from corepress.cli.options import Metric
from corepress.json_numbers import plain
from corepress.metrics import METRICS, Sums, decibels, energies

RANDOM = np.random.default_rng(5)


def row_of(before, now):
    sums = Sums()
    sums.add_output("y", np.asarray(before), np.asarray(now))
    return sums.row("y")


def test_the_command_line_knows_all_metrics() -> None:
    assert list(get_args(Metric)) == list(METRICS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_energies_are_those_of_numpy(dtype) -> None:
    exact, other = (RANDOM.standard_normal((3, 70_001)).astype(dtype) for _ in range(2))
    one, two = exact.astype(np.float64), other.astype(np.float64)
    # Sums of 65,536 float32 squares of one sign lose at most that many roundings, in practice their root.
    np.testing.assert_allclose(energies(exact, other), (np.sum(one**2), np.sum((one - two) ** 2)), rtol=1e-5)


def test_a_value_of_zeros_has_one_answer_everywhere() -> None:
    from corepress.torch.report import row
    from corepress.weights import Palettized

    zeros, ones = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    assert decibels(*energies(zeros, zeros)) == row_of(zeros, zeros).snr == math.inf
    assert decibels(*energies(zeros, ones)) == row_of(zeros, ones).snr == -math.inf
    lut = np.ones((1, 1, 2, 1), np.float32)
    form = Palettized(np.zeros((4, 4), np.uint8), lut)
    assert row(zeros, form)["snr"] == -math.inf and row(ones, form)["snr"] == math.inf
    assert math.isnan(decibels(1.0, math.nan)) and decibels(1.0, math.inf) == -math.inf


def test_kl_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    one, other = (torch.softmax(torch.tensor(RANDOM.standard_normal((6, 10))), -1) for _ in range(2))
    wanted = torch.nn.functional.kl_div(other.log(), one, reduction="batchmean")
    assert row_of(one, other).kl == pytest.approx(float(wanted), rel=1e-9)
    assert row_of(one, one).kl == 0
    labels = {"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}
    sums = Sums()
    sums.add_output("p", *labels)
    assert sums.row("p").kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_what_is_no_distribution_has_no_kl() -> None:
    half = np.full((2, 2), 0.5)
    assert row_of(half, half).kl == 0
    assert row_of([[0.5, 0.6]], [[0.5, 0.5]]).kl is None
    assert row_of([[1.5, -0.5]], [[0.5, 0.5]]).kl is None
    mixed = Sums()
    for rows in (half, half + 1):
        mixed.add(rows, rows)
    assert mixed.row("y").kl is None
    broken = row_of(half, [[np.nan, 0.5], [0.5, 0.5]]).kl
    assert math.isnan(broken) and not METRICS["kl"].meets(broken, math.inf)


def test_a_probability_that_becomes_zero_costs_much_but_not_infinitely_much() -> None:
    assert 5 < row_of([[0.5, 0.5]], [[1.0, 0.0]]).kl < 10


def test_json_has_words_for_what_is_not_finite() -> None:
    facts = {"snr": math.inf, "list": [-math.inf, np.float64("nan"), 1.5, None], 3: ("x", True)}
    assert plain(facts) == {"snr": "inf", "list": ["-inf", "nan", 1.5, None], "3": ["x", True]}
    json.dumps(plain(facts), allow_nan=False)
