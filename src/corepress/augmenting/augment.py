"""`augment`: more samples for a model, made of those that there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.augmenting.arrays import Ends, cropped, ends_of, mixed, relit
from corepress.augmenting.texts import Texts
from corepress.augmenting.tokens import Vocabulary, token_inputs
from corepress.augmenting.written import logits_of, written
from corepress.errors import ConfigError
from corepress.formats.features import Feature
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.runtime import Runnable, load
from corepress.runtime.domains import Domain, domains, looks_like_picture
from corepress.runtime.language import words_of
from corepress.runtime.load import interface
from corepress.runtime.samples import checked
from corepress.runtime.values import to_tensors
from corepress.sequences import Sample, Step, each_step, like, only_single_steps, steps_of

Array = NDArray[Any]
# Makes the value of an input in a new sample: of its values in two samples, and how much shall be new.
Vary = Callable[[Array, Array, float, np.random.Generator], Array]


def augment(
    sample_data: Iterable[Sample],
    model: str | Path | Model | Networks,
    count: int,
    *,
    seed: int = 0,
    function: str | None = None,
) -> list[Any]:
    """More samples for a model, made of those that there are, for methods that learn from samples.

    What an input holds is read off the program. Of tokens, rows of a table of words, some or all are replaced by such
    as the model takes for alike, whose rows are near; then some or all by any others, half of them tokens of the
    samples, as often as these have them, half any of the vocabulary that training met. Where a text ends in padding,
    parts of other texts go on in some or all of its place, and masks follow. What begins and ends a text stays.
    Pictures are cropped, turned into their mirror image, made brighter or darker, with more or less contrast and
    colour, and mixed with others; other numbers are mixed. All else, such as positions and whole numbers of unknown
    meaning, stays as it is in the sample that a new one is made of.

    New ones of sequences are sequences. A language model with a state writes their texts itself: a sample begins them,
    or other words do, and each further token is drawn as the model predicts it; steps of several tokens, and other
    inputs, stay. Of other models with a state all steps of a sequence are varied alike.

    Such samples resemble no real ones, so that they are good to learn from beside real ones, and not to judge by.

    Args:
        sample_data: Inputs, {input name: array of the input's shape and type}, or sequences of such steps; only what
            is to be learnt from.
        model: A path, a `corepress.Model` or a `corepress.neural_network.Model`.
        count: How many new samples.
        seed: The same one gives the same samples.
        function: Of a model with several, the one that the samples are for.

    Returns:
        The new samples, {input name: array} or sequences of such, without those that were given.

    Raises:
        ConfigError: For samples that do not fit the model, and for inputs of which nothing can be varied.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> more = cto.augment(samples, "model.mlpackage", 100)
        >>> len(more), more[0]["image"].shape
        (100, (1, 1, 8, 8))
    """
    if count < 0:
        raise ConfigError(f"count, of new samples, must not be below 0: {count}")
    samples = list(checked(sample_data, interface(model, function), finite=True))
    found = endless(samples, load(model, precision="float32", function=function), seed)
    return [next(found) for _ in range(count)]


def endless(samples: Sequence[Sample], program: Runnable, seed: int = 0) -> Iterator[Any]:
    """The new samples that `augment` gives, one after the other without end; `samples` are checked already.

    Raises ConfigError at once where no input can be varied.
    """
    inputs = program.interface.inputs
    sequences = [like(sample, [_arrays(inputs, step) for step in steps_of(sample)]) for sample in samples]
    given, random = list(each_step(sequences)), np.random.default_rng(seed)
    write = None if only_single_steps(sequences) else _writer(program, sequences)
    if write is not None:
        return (write(sequences[int(random.integers(len(sequences)))], random) for _ in itertools.count())
    varied, texts = _varied(inputs, domains(program), given)
    if only_single_steps(sequences):
        return (_new(given, varied, texts, random) for _ in itertools.count())
    return (_new_sequence(sequences, varied, random) for _ in itertools.count())


def _arrays(inputs: tuple[Feature, ...], step: Step) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in to_tensors(inputs, step).items()}


def _writer(
    program: Runnable, sequences: Sequence[Sample]
) -> Callable[[Sample, np.random.Generator], tuple[Step, ...]] | None:
    """What makes texts that the model writes itself; None if it is none of language."""
    words = words_of(program.interface, domains(program))
    logits = None if words is None else logits_of(program, words, sequences[0])
    if words is None or logits is None:
        return None
    first = [steps_of(sequence)[0][words.tokens] for sequence in sequences]
    return partial(written, program, words._replace(logits=logits), Vocabulary(first, words.vocabulary - 1))


def _new(
    given: Sequence[Mapping[str, Array]], varied: Mapping[str, Vary], texts: Texts | None, random: np.random.Generator
) -> dict[str, Array]:
    one, other = (given[int(random.integers(len(given)))] for _ in range(2))
    if texts is not None:
        one = texts.longer(one, random)
    return _between(one, other, varied, random)


def _new_sequence(given: Sequence[Sample], varied: Mapping[str, Vary], random: np.random.Generator) -> Any:
    """One of the sequences, with each step varied by a step of another in the same way, as one scene goes on."""
    one, other = (given[int(random.integers(len(given)))] for _ in range(2))
    seed = int(random.integers(2**32))
    pairs = zip(steps_of(one), itertools.cycle(steps_of(other)), strict=False)
    return like(one, [_between(step, beside, varied, np.random.default_rng(seed)) for step, beside in pairs])


def _between(
    one: Mapping[str, Array], other: Mapping[str, Array], varied: Mapping[str, Vary], random: np.random.Generator
) -> dict[str, Array]:
    share = float(random.random()) ** 2  # mostly few: then more of a text stays
    return {
        name: varied[name](value, other[name], share, random) if name in varied else value.copy()
        for name, value in one.items()
    }


def _varied(
    features: Sequence[Feature], known: Mapping[str, Domain], given: Sequence[Mapping[str, Array]]
) -> tuple[dict[str, Vary], Texts | None]:
    """How each input that can be varied is, and the texts, if one input holds such; ConfigError where none can."""
    tokens = token_inputs(known, given)
    found: dict[str, Vary] = {}
    texts = None
    for feature in features:
        domain = known.get(feature.name)
        if feature.name in tokens:
            token = tokens[feature.name]
            rows = None if token.rows is None else token.rows()
            vocabulary = Vocabulary((sample[feature.name] for sample in given), int(token.high), rows)
            found[feature.name] = partial(_tokens, vocabulary)
            texts = Texts(given, feature.name, vocabulary) if len(tokens) == 1 else None
        elif feature.kind == "image" or looks_like_picture(feature):
            last = feature.kind != "image" and feature.shape[1] not in (1, 3)
            ends = ends_of([sample[feature.name] for sample in given], channels_last=last)
            found[feature.name] = partial(_picture, last, ends)
        elif len(given) > 1 and domain is None and np.issubdtype(feature.dtype, np.floating):
            found[feature.name] = _numbers
    if not found:
        names = ", ".join(feature.name for feature in features) or "none"
        raise ConfigError(
            f"no input can be varied ({names}): it takes tokens, pictures, or two samples of other numbers"
        )
    return found, texts


def _tokens(vocabulary: Vocabulary, one: Array, other: Array, share: float, random: np.random.Generator) -> Array:
    return vocabulary.varied(one, share, random)


def _picture(last: bool, ends: Ends, one: Array, other: Array, share: float, random: np.random.Generator) -> Array:
    """`last`: the channels are the last axis."""
    parts = [cropped(value, random, channels_last=last) for value in (one, other)]
    one, other = (relit(part, ends, random, channels_last=last) for part in parts)
    return mixed(one, other, random)


def _numbers(one: Array, other: Array, share: float, random: np.random.Generator) -> Array:
    return mixed(one, other, random).copy()
