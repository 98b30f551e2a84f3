"""What a calibrated method knows of a layer: sums over vectors, the regression on them, and how much each counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import _BULK, _DAMPENING, Shrinkage, Statistics, joined
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.runtime import load
from corepress.weights import Sparse
from tests.packages import saved

ROWS, COLUMNS, COUNT = 6, 8, 300


def vectors(seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(1, COUNT, COLUMNS, generator=random) @ torch.randn(COLUMNS, COLUMNS, generator=random)


def gathered(own: torch.Tensor, original: torch.Tensor | None, counting: torch.Tensor | None, part: int) -> Statistics:
    found = Statistics(Layout((ROWS, COLUMNS)))
    for i in range(0, own.shape[1], part):
        piece = slice(i, i + part)
        found.add(
            own[:, piece],
            None if original is None else original[:, piece],
            None if counting is None else counting[piece],
        )
    return found


@pytest.fixture
def seen() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Y, X and how much each vector counts."""
    original = vectors(0)
    return original + 0.3 * vectors(1), original, torch.rand(COUNT, generator=torch.Generator().manual_seed(2)) + 0.1


def test_sums_do_not_depend_on_how_the_vectors_come(seen) -> None:
    one, many = gathered(*seen, part=COUNT), gathered(*seen, part=37)
    own, original, counting = (part.double() for part in seen)
    weighed = own[0] * counting[:, None]
    for found in (one, many):
        assert found.hessian.count == COUNT
        torch.testing.assert_close(
            found.hessian.matrix[0].double(), 2 / COUNT * weighed.T @ own[0], rtol=1e-4, atol=1e-4
        )
        change = 2 / COUNT * (original - own)[0].T @ weighed
        torch.testing.assert_close(found.drift[0].double(), change, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 2 * _BULK), max_size=8), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_small_parts_are_joined_and_nothing_is_lost_or_moved(sizes: list[int], originals: bool, counted: bool) -> None:
    numbers = torch.arange(float(sum(sizes)))[None, :, None].expand(2, -1, 3)
    parts = [
        (own, own + 1 if originals else None, own[0, :, 0] + 2 if counted else None) for own in numbers.split(sizes, 1)
    ] if sizes else []  # fmt: skip
    found = [*joined(parts)]
    assert all(own.shape[1] >= _BULK for own, _, _ in found[:-1])
    assert torch.equal(torch.cat([numbers[:, :0], *(own for own, _, _ in found)], 1), numbers)
    assert all(
        (other is not None and torch.equal(other, own + 1)) if originals else other is None for own, other, _ in found
    )
    assert all(
        (count is not None and torch.equal(count, own[0, :, 0] + 2)) if counted else count is None
        for own, _, count in found
    )


def test_the_refitted_weight_solves_the_damped_regression(seen) -> None:
    """|Q Y - W X|^2 + damping |Q - W|^2, each vector weighed, by NumPy's least squares on the stacked system."""
    own, original, counting = (part.double().numpy() for part in seen)
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    root = np.sqrt(counting)[:, None]
    y, x = own[0] * root, original[0] * root
    damping = _DAMPENING * np.square(y).sum() / COLUMNS
    system = np.concatenate([y, np.sqrt(damping) * np.eye(COLUMNS)])
    wanted = np.concatenate([x @ weight.T, np.sqrt(damping) * weight.T])
    solution = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    found = gathered(*seen, part=50).refitted(weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, solution, rtol=1e-3, atol=1e-4)
    assert np.square(y @ found.T - x @ weight.T).sum() < 0.8 * np.square(y @ weight.T - x @ weight.T).sum()


def test_a_vector_that_counts_twice_is_one_that_comes_twice(seen) -> None:
    own, original, _ = seen
    counting = torch.ones(COUNT)
    counting[:100] = 2
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    once = gathered(own, original, counting, COUNT).refitted(weight)
    repeated = [torch.cat([part, part[:, :100]], dim=1) for part in (own, original)]
    np.testing.assert_allclose(once, gathered(*repeated, None, COUNT).refitted(weight), rtol=1e-4, atol=1e-5)


def test_groups_are_regressed_apart() -> None:
    layout = Layout((4, 3, 2), groups=2)
    statistics = Statistics(layout)
    random = torch.Generator().manual_seed(0)
    own = torch.randn(2, 50, 6, generator=random)
    original = own.clone()
    original[1] *= 1.5  # only the second group's inputs changed
    statistics.add(own, original)
    weight = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    found = statistics.refitted(weight)
    np.testing.assert_array_equal(found[:2], weight[:2])
    ratio = found[2:] / weight[2:]
    assert ((ratio > 1.0) & (ratio < 1.6)).mean() > 0.8


def test_unchanged_inputs_change_no_weight(seen) -> None:
    own = seen[0]
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float16)
    for original in (None, own):
        assert gathered(own, original, None, 50).refitted(weight) is weight


def test_pruned_places_stay_empty(seen) -> None:
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float16)
    mask = np.random.default_rng(4).random((ROWS, COLUMNS)) < 0.5
    found = gathered(*seen, part=50).refitted(Sparse(mask, np.where(mask, weight, 0)))
    assert np.array_equal(found.mask, mask) and found.values.dtype == np.float16
    assert (found.values[~mask] == 0).all() and (found.values[mask] != weight[mask]).any()


def build(path, function, shape):
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    program = mb.program(input_specs=[mb.TensorSpec(shape, types.fp32)], opset_version=ct.target.iOS18)(function)
    return saved(program, path)


@pytest.fixture
def masked(tmp_path):
    """Two linear layers; of five positions, the last two are masked at the end."""
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)

    def function(x):
        hidden = mb.linear(x=x, weight=rng.normal(size=(32, 16)).astype(np.float32), name="first")
        outputs = mb.linear(x=hidden, weight=rng.normal(size=(24, 32)).astype(np.float32), name="second")
        return mb.mul(x=outputs, y=np.float32([1, 4, 2, 0, 0])[:, None])

    return build(tmp_path / "masked.mlpackage", function, (1, 5, 16))


def test_vectors_count_as_the_outputs_depend_on_them(masked) -> None:
    """The output of a position is its scale times the layer's: gradients go with the scale, their squares with its
    square, and behind the mask there are none."""
    program = load(masked, precision="float32")
    samples = [{"x": np.random.default_rng(i).normal(size=(1, 5, 16)).astype(np.float32)} for i in range(64)]
    weights = {program.constants[weight.output] for weight in corepress.load(masked).weights() if weight.size > 10}
    found = of_vectors(program, weights, samples)
    assert len(found) == 2
    for parts in found.values():
        counts = torch.stack(list(parts)).mean(0)
        assert (counts[3:] < 0.01).all()
        np.testing.assert_allclose(counts[1:3] / counts[0], [16, 4], rtol=0.2)
        assert abs(float(counts.mean()) - 1) < 0.05


def test_what_is_masked_does_not_spoil_the_fit(masked) -> None:
    """With huge inputs in the masked positions the fit is as good as without."""
    plain = [{"x": np.random.default_rng(i).normal(size=(1, 5, 16)).astype(np.float32)} for i in range(32)]
    spoiled = [{"x": sample["x"] * np.float32([1, 1, 1, 50, 50])[:, None]} for sample in plain]
    config = OptimizationConfig(OpPalettizerConfig(mode="kmeans", nbits=2, weight_threshold=10))
    tests = [{"x": np.random.default_rng(100 + i).normal(size=(1, 5, 16)).astype(np.float32)} for i in range(16)]
    exact = load(masked, precision="float32")
    (output,) = exact.interface.outputs
    errors = []
    for samples in (plain, spoiled):
        fitted = load(calibrated.palettize_weights(corepress.load(masked), config, samples), precision="float32")
        differences = [fitted.predict(test)[output.name] - exact.predict(test)[output.name] for test in tests]
        errors.append(float(np.square(differences).mean()))
    assert errors[1] < 1.2 * errors[0]


def test_an_intercept_is_a_regression_on_vectors_less_their_mean(seen) -> None:
    """Against NumPy on the vectors themselves, less their weighed means; half of the correction is half of it."""
    own, original, counting = (part.double().numpy() for part in seen)
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    means = [np.average(part[0], axis=0, weights=counting) for part in (own, original)]
    y, x = own[0] - means[0], original[0] - means[1]
    hessian = 2 / COUNT * (y * counting[:, None]).T @ y
    damped = hessian + _DAMPENING * np.diag(hessian).mean() * np.eye(COLUMNS)
    whole = 2 / COUNT * weight @ ((x - y) * counting[:, None]).T @ y @ np.linalg.inv(damped)
    statistics = gathered(*seen, part=37)
    for share in (1.0, 0.5, 0.0):
        view = statistics.shrunk(Shrinkage(0.3, share, intercept=True))
        assert view.dampening == 0.3
        np.testing.assert_allclose(view.hessian.matrix[0].numpy(), hessian, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(view.refitted(weight), weight + share * whole, rtol=1e-3, atol=1e-3)
    # The sums themselves stay as they are.
    np.testing.assert_array_equal(statistics.hessian.matrix, gathered(*seen, part=37).hessian.matrix)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_mean_in_the_bias_never_makes_the_outputs_worse(seed: int) -> None:
    """The error of outputs with a bias against NumPy; the shift is the best bias on the vectors that it comes from."""
    rng = np.random.default_rng(seed)
    own, original = (rng.normal(size=(1, 30, COLUMNS)) + rng.normal(size=COLUMNS) for _ in range(2))
    counting = rng.uniform(0.1, 2, 30)
    weight, other = (rng.normal(size=(ROWS, COLUMNS)).astype(np.float32) for _ in range(2))
    statistics = gathered(*(torch.from_numpy(part).float() for part in (own, original, counting)), part=7)

    def exact(changed: np.ndarray, bias: np.ndarray) -> float:
        difference = own[0] @ changed.T + bias - original[0] @ weight.T
        return float((counting[:, None] * difference**2).sum() / 30)

    shift = statistics.shift(weight, other)
    mean = np.average(original[0] @ weight.T - own[0] @ other.T, axis=0, weights=counting)
    np.testing.assert_allclose(shift, mean, rtol=1e-3, atol=1e-3)
    found = [statistics.error(weight, other, bias) for bias in (None, shift, shift + 0.1)]
    expected = [exact(other, bias) for bias in (np.zeros(ROWS), shift, shift + 0.1)]
    assert found[1] <= found[0] + 1e-4 * expected[0] and found[1] <= found[2]
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-3, atol=1e-3 * expected[0])


def test_vectors_that_hardly_count_are_no_evidence() -> None:
    statistics = Statistics(Layout((ROWS, COLUMNS)))
    assert statistics.vectors == 0
    statistics.add(vectors(0), None, torch.cat([torch.ones(50), torch.full((COUNT - 50,), 1e-3)]))
    assert 50 <= statistics.vectors <= 51
