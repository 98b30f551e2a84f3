"""What each input of a model of language is to hold of some tokens: they themselves, masks, places, kinds.

A further kind of input is a function beside these, and a line of `_fill`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.formats.features import Feature
from corepress.runtime import Runnable
from corepress.runtime.domains import Domain, domains
from corepress.runtime.language import words_of
from corepress.runtime.random_inputs import needed

Array = NDArray[Any]

# What is added to scores of attention that don't count: a number of float16.
_BLOCKED = -1e4
# Tables of kinds of tokens, as of a question and its answer, have fewer rows; those of places have more.
_KINDS = 16


class Piece(NamedTuple):
    """What a model reads in a step: `tokens`, of which the first so many are `words` and the others padding, after
    `start` of the same text in earlier steps."""

    start: int
    tokens: list[int]
    words: int


Fill = Callable[[Piece], Array]


@dataclass(frozen=True)
class Layout:
    """`tokens`: the input that holds them. `vocabulary`: how many different ones there may be. `masked`: whether the
    model can be told of padding. `longest`: tokens of a whole text that it has places for; None where that is unknown.
    `fills`: by its name, what an input holds of a piece."""

    tokens: Feature
    vocabulary: int
    masked: bool
    longest: int | None
    fills: Mapping[str, Fill]

    def step(self, piece: Piece) -> dict[str, Array]:
        """All inputs."""
        return {name: fill(piece) for name, fill in self.fills.items()}

    def size(self, count: int) -> int | None:
        """The least number of tokens that the model takes at once and that is not below `count`, if there is one."""
        shape = _shape(self.tokens, {_axis(self.tokens): count})
        return None if shape is None else shape[_axis(self.tokens)]


def layout_of(program: Runnable) -> Layout:
    """The layout of a model's inputs. ConfigError where none holds tokens, or it isn't known what another one holds."""
    known = domains(program)
    words = words_of(program.interface, known)
    if words is None or not words.vocabulary:
        names = ", ".join(feature.name for feature in program.interface.inputs) or "none"
        raise ConfigError(f"no input of the model holds tokens, rows of a table of words: its inputs are {names}")
    features = {feature.name: feature for feature in needed(program.interface)}
    tokens = next(feature for feature in program.interface.inputs if feature.name == words.tokens)
    others = [feature for name, feature in features.items() if name != words.tokens]
    for other in others:
        domain = known.get(other.name)
        if domain is not None and domain.kind == "index" and domain.high + 1 == words.vocabulary:
            raise ConfigError(f"two inputs of the model hold tokens, {words.tokens} and {other.name}: that isn't known")
    fills: dict[str, Fill] = {words.tokens: partial(_tokens, tokens)}
    longest: list[int | None] = [] if program.interface.states else [_most(tokens, _axis(tokens))]
    masked = False
    for other in others:
        fill, most = _fill(other, known.get(other.name))
        fills[other.name] = fill
        longest.append(most)
        masked |= fill.func is _mask
    return Layout(tokens, words.vocabulary, masked, min((n for n in longest if n is not None), default=None), fills)


def _fill(feature: Feature, domain: Domain | None) -> tuple[partial[Array], int | None]:
    """What fills an input beside the tokens, and for how many tokens of a text it has places."""
    kind, name = "" if domain is None else domain.kind, feature.name.lower()
    rows = int(domain.high) + 1 if domain is not None and kind == "index" else None
    if kind in ("mask", "bias") or ("mask" in name and np.issubdtype(feature.dtype, np.floating)):
        return partial(_mask, feature, 0.0 if kind == "mask" else _BLOCKED), _most(feature, len(feature.shape) - 1)
    if "type" in name or "segment" in name or (rows is not None and rows < _KINDS):
        return partial(_kinds, feature), None
    if np.issubdtype(feature.dtype, np.integer) and (rows is not None or "pos" in name):
        return partial(_places, feature), rows
    raise ConfigError(
        f"it isn't known what input {feature.name!r} ({feature.describe()}) holds beside the tokens: such samples must "
        "be made by hand"
    )


def _tokens(feature: Feature, piece: Piece) -> Array:
    return _laid(feature, piece.tokens)


def _kinds(feature: Feature, piece: Piece) -> Array:
    """All tokens are of the first kind."""
    return _laid(feature, [0] * len(piece.tokens))


def _places(feature: Feature, piece: Piece) -> Array:
    """The place of each token in the text; where there is room for one alone, that of the first."""
    places = range(piece.start, piece.start + len(piece.tokens))
    return _laid(feature, list(places[:1] if _most(feature, _axis(feature)) == 1 else places))


def _mask(feature: Feature, blocked: float, piece: Piece) -> Array:
    """Which tokens count. With a row for each token of the piece, it sees what comes before it and itself."""
    count, axes = len(piece.tokens), len(feature.shape)
    rows = axes > 2 or (axes == 2 and blocked != 0)
    sizes = {axes - 1: piece.start + count}
    if rows and _most(feature, axes - 2) != 1:
        sizes[axes - 2] = count
    shape = _fitting(feature, sizes)
    seen = np.arange(shape[-1]) < piece.start + piece.words
    if rows and shape[-2] > 1:
        seen = seen & (np.arange(shape[-1]) <= piece.start + np.arange(shape[-2])[:, None])
    numbers = np.where(seen, 0.0, blocked) if blocked else seen
    return np.broadcast_to(numbers, shape).astype(feature.dtype)


def _laid(feature: Feature, numbers: list[int]) -> Array:
    """Numbers along the only axis of an input that has more than one."""
    return np.array(numbers, feature.dtype).reshape(_fitting(feature, {_axis(feature): len(numbers)}))


def _axis(feature: Feature) -> int:
    """The axis along which tokens lie: the last one that may have more than one element; else the last."""
    axes = len(feature.shape)
    return next((axis for axis in reversed(range(axes)) if _most(feature, axis) != 1), axes - 1)


def _most(feature: Feature, axis: int) -> int | None:
    """The most elements along an axis; None for any number."""
    if axis < 0:
        return 1
    if feature.ranges:
        high = feature.ranges[axis][1]
        return None if high < 0 else high
    return max(shape[axis] for shape in (feature.shape, *feature.shapes))


def _fitting(feature: Feature, sizes: Mapping[int, int]) -> tuple[int, ...]:
    shape = _shape(feature, sizes)
    if shape is None:
        wanted = tuple(sizes.get(axis, size) for axis, size in enumerate(feature.shape))
        said = "x".join(map(str, wanted)) or "1"
        raise ConfigError(
            f"input {feature.name!r} can't be {said}, as it would be for these tokens, but is {feature.describe()}"
        )
    return shape


def _shape(feature: Feature, sizes: Mapping[int, int]) -> tuple[int, ...] | None:
    """The smallest shape that the model takes with no fewer elements than `sizes` along these axes, and along others
    one, or as few as there may be."""
    if not feature.shape:
        return ()
    if feature.ranges:
        found = tuple(max(low, sizes.get(axis, 1)) for axis, (low, _) in enumerate(feature.ranges))
        return found if feature.allows(found) else None
    shapes = sorted({feature.shape, *feature.shapes})
    return next((s for s in shapes if all(s[axis] >= size for axis, size in sizes.items() if axis >= 0)), None)
