"""Linear quantization against coremltools, whose error must never be less, and against a search of all integers."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from corepress.algorithms.linear import quantize
from corepress.errors import ConfigError, CorepressError
from corepress.weights import Quantized, Sparse

DTYPES = ("int4", "uint4", "int8", "uint8")
MODES = ("linear_symmetric", "linear")
RANGES = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}


def drawn(kind: str, shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.standard_normal(shape) * 0.02,
        "heavy": lambda: np.clip(rng.standard_t(2, shape), -200, 200),
        "positive": lambda: 0.5 + rng.random(shape),
        "negative": lambda: -0.5 - rng.random(shape),
        "offset": lambda: rng.standard_normal(shape) + 1.5,
        "tiny": lambda: rng.standard_normal(shape) * 3e-7,
        "denormal steps": lambda: rng.integers(-40, 41, shape) * 2.0**-24,
        "constant": lambda: np.full(shape, -0.3),
        "few": lambda: rng.choice([-1.0, 0.0, 0.25, 3.0], shape),
        "zero": lambda: np.zeros(shape),
        "large": lambda: rng.standard_normal(shape) * 60,
    }[kind]()
    return values.astype(dtype)


KINDS = (
    "normal", "heavy", "positive", "negative", "offset", "tiny", "denormal steps", "constant", "few", "zero", "large"
)  # fmt: skip


def squared_error(weight: np.ndarray, dense: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        error = float(np.sum((weight.astype(np.float64) - dense.astype(np.float64)) ** 2))
    return np.inf if np.isnan(error) else error


def cost_for_outputs(weight: np.ndarray, dense: np.ndarray, sizes: tuple[int, ...]) -> float:
    """What the search of scales makes small: of each block |e|^2 + (sum e)^2 / 10 + 5 (e w)^2 / |w|^2."""
    total = 0.0
    for place in itertools.product(*(range(0, n, s or n) for n, s in zip(weight.shape, sizes, strict=True))):
        box = tuple(slice(i, i + (s or n)) for i, s, n in zip(place, sizes, weight.shape, strict=True))
        exact = weight[box].astype(np.float64)
        error = dense[box].astype(np.float64) - exact
        energy = np.square(exact).sum() or 1.0
        total += np.square(error).sum() + error.sum() ** 2 / 10 + 5 * (error * exact).sum() ** 2 / energy
    return total


def peer_quantized(weight: np.ndarray, dtype: str, mode: str, block_sizes: tuple[int, ...]) -> Any:
    passes = pytest.importorskip("coremltools.optimize.coreml._quantization_passes")
    with np.errstate(all="ignore"):
        return passes.linear_quantize_weights.blockwise_compress_by_dtype(
            weight, dtype, mode.upper(), list(block_sizes)
        )


def peer_dense(params: Any) -> np.ndarray:
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_blockwise_shift_scale

    with np.errstate(all="ignore"):
        return constexpr_blockwise_shift_scale.decompress(params.data, params.scale, params.offset)


@pytest.mark.parametrize("weight_type", [np.float16, np.float32])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_error_is_never_larger_than_that_of_coremltools(dtype, mode, weight_type) -> None:
    for kind, sizes in itertools.product(KINDS, [(1, 32), (1, 0), (0, 0), (0, 1), (16, 1), (8, 16)]):
        weight = drawn(kind, (32, 96), weight_type)
        params = peer_quantized(weight, dtype, mode, sizes)
        ours = quantize(weight, dtype=dtype, mode=mode, block_sizes=sizes)
        dense = ours.decompress()
        assert dense.dtype == weight.dtype
        assert np.isfinite(dense).all()
        assert squared_error(weight, dense) <= squared_error(weight, peer_dense(params)), (kind, sizes)
        # The same form: the same scales and zero points wherever the peer's own are sound.
        assert ours.scale.dtype == params.scale.dtype and ours.data.dtype == params.data.dtype
        assert ours.scale.shape == params.scale.shape and ours.data.shape == params.data.shape
        assert (ours.offset is None) == (params.offset is None)
        assert ours.bits == params.nbits
        sound = np.isfinite(params.scale) & (params.scale > 0)
        np.testing.assert_array_equal(ours.scale[sound], params.scale[sound])
        if ours.offset is not None and kind != "large":
            assert ours.offset.dtype == params.offset.dtype
            np.testing.assert_array_equal(ours.offset[sound], params.offset[sound])


@pytest.mark.parametrize("weight_type", [np.float16, np.float32])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_integer_is_the_best_of_all(dtype, mode, weight_type) -> None:
    lowest, highest = RANGES[dtype]
    if mode == "linear_symmetric":
        lowest, highest = (lowest + 1, highest) if lowest else (0, highest - 1)
    for kind in KINDS:
        weight = drawn(kind, (6, 64), weight_type)
        ours = quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 32))
        assert lowest <= ours.data.min() and ours.data.max() <= highest
        levels = np.arange(lowest, highest + 1).astype(weight_type)[:, None, None]
        offset = 0 if ours.offset is None else np.repeat(ours.offset, 32, axis=1).astype(weight_type)
        candidates = (levels - offset) * np.repeat(ours.scale, 32, axis=1)
        best = np.abs(candidates.astype(np.float64) - weight).min(axis=0)
        np.testing.assert_array_equal(np.abs(ours.decompress().astype(np.float64) - weight), best)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("search", [False, True])
def test_the_largest_float16_survives(dtype, mode, search) -> None:
    weight = np.linspace(-65504, 65504, 64).astype(np.float16).reshape(1, 64)
    for values in (weight, np.abs(weight), -np.abs(weight), weight[:, :1], weight / np.float16(1.5)):
        sizes = (1, 0)
        dense = quantize(values, dtype=dtype, mode=mode, block_sizes=sizes, scale_search=search).decompress()
        assert np.isfinite(dense).all()
        steps = 7 if dtype.endswith("4") else 127
        assert np.abs(dense.astype(np.float64) - values).max() <= 65504 / steps


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zero_and_harmless(dtype, mode) -> None:
    weight = np.zeros((2, 64), np.float16)
    weight[1, 32:] = 0.5
    for search in (False, True):
        ours = quantize(weight, dtype=dtype, mode=mode, block_sizes=(1, 32), scale_search=search)
        assert (ours.scale > 0).all()
        np.testing.assert_array_equal(ours.decompress()[weight == 0], 0)
        mixed = np.where(np.arange(64) % 3 == 0, 0, drawn("offset", (1, 64), np.float16))
        dense = quantize(mixed, dtype=dtype, mode=mode, block_sizes=(1, 32), scale_search=search).decompress()
        np.testing.assert_array_equal(dense[mixed == 0], 0)


def test_steps_of_the_smallest_float16_are_exact() -> None:
    weight = (np.arange(-7, 8) * 2.0**-24).astype(np.float16)
    for dtype in DTYPES:
        np.testing.assert_array_equal(quantize(weight, dtype=dtype, block_sizes=(0,)).decompress(), weight)


@pytest.mark.parametrize("weight_type", [np.float16, np.float32])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_search_never_costs_outputs(dtype, mode, weight_type) -> None:
    for kind, sizes in itertools.product(KINDS, [(1, 32), (1, 0), (0, 0), (0, 1)]):
        weight = drawn(kind, (16, 96), weight_type, seed=3)
        plain = quantize(weight, dtype=dtype, mode=mode, block_sizes=sizes)
        found = quantize(weight, dtype=dtype, mode=mode, block_sizes=sizes, scale_search=True)
        again = quantize(weight, dtype=dtype, mode=mode, block_sizes=sizes, scale_search=True)
        costs = [cost_for_outputs(weight, form.decompress(), sizes) for form in (found, plain)]
        # Steps below the normal numbers of float16 are so coarse that the integer left out by the plain range matters.
        assert costs[0] <= costs[1] * (1 + 1e-6) or (kind == "tiny" and weight_type is np.float16), (kind, sizes)
        assert found.scale.dtype == weight.dtype
        np.testing.assert_array_equal(found.data, again.data)
        np.testing.assert_array_equal(found.scale, again.scale)


def test_the_search_gains_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    inputs = np.maximum(rng.standard_normal((1024, 512)), 0)  # as behind a relu

    def gain(weight: np.ndarray, mode: str, sizes: tuple[int, int]) -> tuple[float, float]:
        """By how many dB the squared error shrinks, of the weight and of outputs."""
        forms = (
            quantize(weight, dtype="int4", mode=mode, block_sizes=sizes, scale_search=own) for own in (False, True)
        )
        plain, found = (form.decompress() - weight.astype(np.float64) for form in forms)
        ratios = [
            np.square(one).sum() / np.square(two).sum()
            for one, two in ((plain, found), (plain @ inputs, found @ inputs))
        ]
        return tuple(10 * np.log10(ratios))

    normal = (rng.standard_normal((64, 1024)) * 0.02).astype(np.float16)
    heavy = (rng.standard_t(5, (64, 1024)) * 0.02).astype(np.float16)
    for weight, mode, sizes, least in (
        (normal, "linear_symmetric", (1, 32), (0.8, 1.2)),
        (normal, "linear_symmetric", (1, 0), (2, 2.5)),
        (heavy, "linear_symmetric", (1, 0), (2.5, 3.5)),
        (normal, "linear", (1, 32), (0.2, 0.9)),
        (heavy, "linear", (1, 0), (1.4, 2)),
    ):
        assert np.greater(gain(weight, mode, sizes), least).all(), (mode, sizes)


def test_the_search_keeps_the_size_of_what_rows_answer() -> None:
    """Clipping makes outputs smaller that follow a row: by the error's energy where the squared error is least."""
    weight = (np.random.default_rng(0).standard_t(3, (256, 64)) * 0.02).astype(np.float32)
    found = quantize(weight, dtype="int4", block_sizes=(1, 0), scale_search=True).decompress()
    lost = 1 - (found * weight).sum(1) / np.square(weight).sum(1)
    assert abs(lost.mean()) < 0.5 * (np.square(found - weight).sum(1) / np.square(weight).sum(1)).mean()


@pytest.mark.parametrize(
    "shape, sizes",
    [
        ((96,), (32,)),
        ((8, 96), (1, 32)),
        ((64, 24), (32, 1)),
        ((64, 24), (0, 1)),
        ((6, 8, 3, 3), (1, 4, 0, 0)),
        ((6, 8, 3, 3), (0, 1, 0, 0)),
        ((6, 8, 3, 3), (3, 2, 1, 3)),
        ((2, 6, 4, 2, 3), (1, 3, 2, 0, 1)),
        ((5, 7), (1, 1)),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_on_any_axes(shape, sizes, order) -> None:
    weight = np.asarray(drawn("normal", shape, np.float16), order=order)
    ours = quantize(weight, dtype="int8", mode="linear", block_sizes=sizes)
    counts = tuple(size // block if block else 1 for size, block in zip(shape, sizes, strict=True))
    assert ours.scale.shape == counts and ours.data.flags.c_contiguous
    for where in np.ndindex(counts):
        box = tuple(
            slice(i * (size // count), (i + 1) * (size // count))
            for i, size, count in zip(where, shape, counts, strict=True)
        )
        alone = quantize(weight[box], dtype="int8", mode="linear", block_sizes=(0,) * len(shape))
        np.testing.assert_array_equal(ours.data[box], alone.data)
        assert ours.scale[where] == alone.scale.item() and ours.offset[where] == alone.offset.item()


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_leaves_values_out(mode) -> None:
    weight = drawn("offset", (8, 64), np.float16)
    mask = np.random.default_rng(1).random(weight.shape) < 0.5
    mask[3, :32] = False
    ours = quantize(weight, dtype="uint8", mode=mode, block_sizes=(1, 32), mask=mask)
    assert (ours.data[~mask] == 0).all()
    same = quantize(np.where(mask, weight, np.float16(0)), dtype="uint8", mode=mode, block_sizes=(1, 32))
    np.testing.assert_array_equal(ours.scale, same.scale)
    np.testing.assert_array_equal(ours.data[mask], same.data[mask])
    np.testing.assert_array_equal(Sparse(mask, ours).decompress(), np.where(mask, ours.decompress(), np.float16(0)))


def test_other_types() -> None:
    import ml_dtypes

    weight = drawn("normal", (4, 64), np.float32)
    wide = quantize(weight.astype(np.float64), block_sizes=(1, 0))
    np.testing.assert_array_equal(wide.data, quantize(weight, block_sizes=(1, 0)).data)
    assert wide.scale.dtype == np.float32
    brain = quantize(weight.astype(ml_dtypes.bfloat16), block_sizes=(1, 0), scale_dtype=np.float16)
    assert brain.scale.dtype == np.float16
    mixed = quantize(weight.astype(np.float16), block_sizes=(1, 0), scale_dtype=np.float32)
    assert mixed.dtype == np.float32
    beyond = quantize(np.array([[1e9, -2.0, 60000.0]], np.float32), block_sizes=(1, 0), scale_dtype=np.float16)
    assert np.isfinite(beyond.decompress()).all()


@pytest.mark.parametrize("weight_type", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("search", [False, True])
def test_infinities_and_nan_are_refused(weight_type, bad, search) -> None:
    weight = drawn("normal", (3, 64), weight_type)
    weight[2, 41] = bad
    with pytest.raises(CorepressError, match="infinities or NaN"):
        quantize(weight, block_sizes=(1, 32), scale_search=search)


def test_blocks_that_do_not_fit_are_refused() -> None:
    weight = np.ones((4, 100), np.float16)
    with pytest.raises(ConfigError, match="blocks of 32 don't divide axis 1"):
        quantize(weight, block_sizes=(1, 32))
    with pytest.raises(ConfigError, match="block size"):
        quantize(weight, block_sizes=(1,))
    with pytest.raises(ConfigError, match="block size"):
        quantize(weight, block_sizes=(1, -1))
    with pytest.raises(ConfigError, match="holds nothing"):
        quantize(weight[:0], block_sizes=(1, 0))
    with pytest.raises(ConfigError, match="float16 or float32"):
        quantize(weight, block_sizes=(1, 0), scale_dtype=np.float64)


def test_the_input_is_not_written_and_threads_agree() -> None:
    weight = drawn("normal", (256, 256), np.float16)
    weight.flags.writeable = False
    results: list[Quantized] = []
    threads = [
        threading.Thread(target=lambda: results.append(quantize(weight, dtype="int4", block_sizes=(1, 32))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].data, other.data)
