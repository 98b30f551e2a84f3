"""Look-up tables fitted to the inputs of a layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian
from corepress.algorithms.palettize import palettize
from corepress.errors import ConfigError, CorepressError
from corepress.weights import Palettized


def layer(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and the Hessian of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, max(2, columns // 2)))
    inputs = mixing @ rng.normal(size=(mixing.shape[1], 500)) + 0.3 * rng.normal(size=(columns, 500))
    return rng.normal(size=(rows, columns)).astype(np.float32), (inputs @ inputs.T / 500).astype(np.float32)


def error(weight: np.ndarray, form: Palettized | np.ndarray, hessian: np.ndarray) -> float:
    dense = form if isinstance(form, np.ndarray) else form.decompress()
    difference = weight.astype(np.float64) - dense
    return float(np.vdot(difference, difference @ hessian.astype(np.float64)))


CASES = [
    {"bits": 2},
    {"bits": 4},
    {"bits": 3, "group_size": 8},
    {"bits": 4, "cluster_dim": 2},
    {"bits": 4, "group_size": 16, "cluster_dim": 4},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_far_nearer_than_with_k_means(case: dict[str, int]) -> None:
    weight, hessian = layer(64, 48)
    bits, rest = case["bits"], {key: value for key, value in case.items() if key != "bits"}
    plain = palettize(weight, bits, **rest)
    fitted = palettize_by_hessian(weight, hessian, **case)
    assert fitted.lut.shape == plain.lut.shape and fitted.indices.shape == plain.indices.shape
    assert error(weight, fitted, hessian) < 0.6 * error(weight, plain, hessian)


def test_each_round_is_at_least_as_good() -> None:
    weight, hessian = layer(32, 40)
    # The damped Hessian is what the rounds descend on.
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(40, dtype=np.float32)
    errors = [error(weight, palettize_by_hessian(weight, hessian, 2, rounds=n), damped) for n in range(6)]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("dim", [1, 2])
def test_no_single_index_can_be_bettered(dim: int) -> None:
    weight, hessian = layer(8, 12)
    form = palettize_by_hessian(weight, hessian, 2, cluster_dim=dim, rounds=60, dampening=0.0)
    best = error(weight, form, hessian)
    for place in np.ndindex(form.indices.shape):
        for entry in range(4):
            indices = form.indices.copy()
            indices[place] = entry
            changed = error(weight, Palettized(indices, form.lut, form.vector_axis), hessian)
            # The last step of the tables comes before the last sweep: only their small change may be left.
            assert changed > best * (1 - 5e-3)


def test_inputs_of_equal_weight_make_plain_k_means() -> None:
    weight, _ = layer(48, 32)
    form = palettize_by_hessian(weight, np.eye(32, dtype=np.float32), 3)
    exact = palettize(weight, 3)
    assert error(weight, form, np.eye(32)) == pytest.approx(error(weight, exact, np.eye(32)), rel=1e-4)


def test_columns_without_input_are_rounded_and_the_rest_is_fitted() -> None:
    weight, hessian = layer(16, 24)
    hessian[5] = hessian[:, 5] = 0
    form = palettize_by_hessian(weight, hessian, 4)
    assert np.isfinite(form.decompress()).all()
    assert error(weight, form, hessian) < error(weight, palettize(weight, 4), hessian)


def test_half_weights_get_half_tables() -> None:
    weight, hessian = layer(16, 24)
    form = palettize_by_hessian(weight.astype(np.float16), hessian, 4)
    assert form.lut.dtype == np.float16


def test_it_does_not_depend_on_the_scale_of_the_samples() -> None:
    weight, hessian = layer(16, 24)
    one, other = (palettize_by_hessian(weight, hessian * factor, 3) for factor in (1.0, 1024.0))
    np.testing.assert_array_equal(one.indices, other.indices)


def test_bad_input_is_refused() -> None:
    weight, hessian = layer(12, 8)
    with pytest.raises(ConfigError, match="don't divide the 12 rows"):
        palettize_by_hessian(weight, hessian, 2, group_size=5)
    with pytest.raises(CorepressError, match="8 x 8"):
        palettize_by_hessian(weight, hessian[:4, :4], 2)
    with pytest.raises(CorepressError, match="finite"):
        palettize_by_hessian(weight, np.full_like(hessian, np.nan), 2)
    weight[3, 3] = np.inf
    with pytest.raises(CorepressError, match="infinities or NaN"):
        palettize_by_hessian(weight, hessian, 2)
