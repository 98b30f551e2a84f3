"""Seeded random inputs, from the numbers that a program takes where these are known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.formats.features import Feature, Interface
from corepress.runtime.domains import Domain, looks_like_picture
from corepress.sequences import Sample

# Steps of each sample where the model keeps a state: the later ones find it filled.
STEPS = 4
# Small enough for any vocabulary.
_INTEGERS = 10
# What is added to scores of attention that don't count: a number of float16.
_BLOCKED = -1e4


def random_inputs(
    interface: Interface, seed: int = 0, count: int = 1, domains: Mapping[str, Domain] | None = None
) -> Iterator[dict[str, Any]]:
    """`count` inputs in the default shapes. Optional inputs keep their default.

    `domains`: what `corepress.runtime.domains.domains` found. Without one, floats are normal, integers 0 to 9, pixels
    0 to 255. Raises ConfigError for an input that can't be an array.
    """
    rng = np.random.default_rng(seed)
    known = domains or {}
    for _ in range(count):
        yield {feature.name: _random(feature, known.get(feature.name), rng) for feature in needed(interface)}


def random_samples(
    interface: Interface, seed: int = 0, count: int = 1, domains: Mapping[str, Domain] | None = None
) -> Iterator[Sample]:
    """`count` samples of `random_inputs`: of a model with a state, sequences of `STEPS` steps."""
    if not interface.states:
        yield from random_inputs(interface, seed, count, domains)
        return
    steps = random_inputs(interface, seed, count * STEPS, domains)
    for _ in range(count):
        yield tuple(itertools.islice(steps, STEPS))


def needed(interface: Interface) -> list[Feature]:
    """The inputs that have no default."""
    return [feature for feature in interface.inputs if feature.default is None]


def guesses(interface: Interface, domains: Mapping[str, Domain]) -> Iterator[str]:
    """A sentence for each random input whose numbers had to be guessed."""
    for feature in needed(interface):
        if feature.name in domains or feature.kind not in ("array", "number"):
            continue
        if looks_like_picture(feature):
            yield f"input {feature.name!r} looks like a picture of unknown range; it got normal random numbers"
        elif np.issubdtype(feature.dtype, np.integer):
            yield f"input {feature.name!r} takes whole numbers of unknown range; it got 0 to {_INTEGERS - 1}"


def _random(feature: Feature, domain: Domain | None, rng: np.random.Generator) -> NDArray[Any]:
    if feature.kind not in ("array", "image", "number"):
        raise ConfigError(f"input {feature.name!r} is a {feature.kind}, which an ML program can't take")
    if feature.kind == "image" or (domain is not None and domain.kind == "pixels"):
        return _pixels(feature, domain, rng)
    if domain is not None and domain.kind == "index":
        return rng.integers(0, int(domain.high) + 1, feature.shape).astype(feature.dtype)
    if domain is not None:
        return _mask(feature, rng) if domain.kind == "mask" else _bias(feature)
    if np.issubdtype(feature.dtype, np.integer):
        return rng.integers(0, _INTEGERS, feature.shape).astype(feature.dtype)
    # An array even for the empty shape, where NumPy would give a bare float.
    return np.asarray(rng.standard_normal(feature.shape), feature.dtype)


def _pixels(feature: Feature, domain: Domain | None, rng: np.random.Generator) -> NDArray[Any]:
    """Whole numbers from 0 to 255 for an image, which only a half-precision one may lack."""
    halves = feature.color == "grayscale_float16"
    if (feature.kind == "image" and not halves) or (domain is not None and domain.high > 1):
        return rng.integers(0, 256, feature.shape).astype(feature.dtype)
    return rng.random(feature.shape).astype(feature.dtype)


def _mask(feature: Feature, rng: np.random.Generator) -> NDArray[Any]:
    """Ones along the last axis, and zeros at the end of it, where a shorter text would have nothing."""
    size = feature.shape[-1] if feature.shape else 1
    length = rng.integers(size // 2 + 1, size + 1, (*feature.shape[:-1], 1))
    ones = np.arange(size) < length
    return np.asarray(ones.reshape(feature.shape), feature.dtype)


def _bias(feature: Feature) -> NDArray[Any]:
    """Each query sees the keys up to its own place; the last query sees all."""
    if len(feature.shape) < 2:
        return np.zeros(feature.shape, feature.dtype)
    queries, keys = feature.shape[-2:]
    seen = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    return np.broadcast_to(np.where(seen, 0.0, _BLOCKED), feature.shape).astype(feature.dtype)
