"""Numbers of many kinds, made of integers and powers of two alone: the same bits on every machine."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16 by its name)
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def bell(seed: int, shape: tuple[int, ...], scale: float = 2.0**-16) -> Array:
    """About normal, with a standard deviation of about 2**13 * `scale`; float64."""
    rng = np.random.default_rng(seed)
    return rng.integers(-4096, 4096, (12, *shape)).sum(0) * scale


def heavy(seed: int, shape: tuple[int, ...], scale: float = 2.0**-40) -> Array:
    """Heavy tails: cubes of a bell."""
    values = bell(seed, shape, 1.0)
    return values * values * values * scale


def wide(seed: int, shape: tuple[int, ...], low: int = -12, high: int = 6) -> Array:
    """Of both signs, over many powers of two."""
    rng = np.random.default_rng(seed)
    mantissas, exponents = rng.integers(-2048, 2049, shape), rng.integers(low, high, shape)
    return np.ldexp(mantissas.astype(np.float64), exponents - 11)


def of_kind(kind: str, seed: int, shape: tuple[int, ...], dtype: str) -> Array:
    rng = np.random.default_rng(seed)
    tiny = 2.0**-149 if dtype in ("float32", "float64") else 2.0**-24
    values: dict[str, Any] = {
        "bell": lambda: bell(seed, shape),
        "heavy": lambda: heavy(seed, shape),
        "wide": lambda: wide(seed, shape),
        "subnormal": lambda: rng.integers(-600, 600, shape) * tiny,
        "huge": lambda: (65504.0 - 32.0 * rng.integers(0, 64, shape)) * rng.choice([-1, 1], shape),
        "positive": lambda: np.abs(bell(seed, shape)) + 2.0**-8,
        "negative": lambda: -np.abs(bell(seed, shape)),
        "some zero rows": lambda: bell(seed, shape) * rng.integers(0, 2, (shape[0], *[1] * (len(shape) - 1))),
        "few": lambda: rng.integers(-3, 4, shape) * 0.25,
        "lattice": lambda: (np.arange(math.prod(shape)) - 100).reshape(shape) * 0.25,
        "outlier": lambda: np.where(np.arange(math.prod(shape)).reshape(shape) == 7, 1000.0, bell(seed, shape)),
        "constant": lambda: np.full(shape, 0.75),
        "zeros of both signs": lambda: np.copysign(rng.integers(0, 2, shape) * 0.5, rng.choice([-1, 1], shape)),
    }
    return np.asarray(values[kind]()).astype(dtype)


def integers(seed: int, low: int, high: int, shape: tuple[int, ...], dtype: str = "int64") -> Array:
    """From `low` to `high`, both included."""
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)


def powers(seed: int, low: int, high: int, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Powers of two of both signs: their products with anything are exact."""
    rng = np.random.default_rng(seed)
    return np.ldexp(rng.choice([-1.0, 1.0], shape), rng.integers(low, high + 1, shape)).astype(dtype)


def every_half() -> Array:
    """All 65,536 float16 numbers."""
    return np.arange(65536, dtype=np.uint16).view(np.float16)
