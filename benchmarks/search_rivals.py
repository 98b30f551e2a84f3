"""How others decide which weight gets how many bits, each as a small function, over the same forms as the search.

Each gives a `Ranking`: the weights that need precision most come first. All of them begin with few bits everywhere,
and raise weights in that order as long as there is room, so that only the order differs. (`walked` has its own way.)
Of all pairs of bits, and of several criteria, the one counts that served best on the samples to learn from: more than
these tools do for their users. Losses are the squared error of the outputs, which is also what the table measures.

- `rules_of_mlx`, `gradients_of_mlx`: mlx-lm 0.28, `convert.py` (recipes such as mixed_2_6, after llama.cpp's Q4_K_M)
  and `quant/dynamic_quant.py`: https://github.com/ml-explore/mlx-lm
- `criteria_of_nncf`: NNCF 2.17, `SensitivityMetric`:
  https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/weight-compression.html
- `measured_alone`: AIMET 2, automatic mixed precision:
  https://quic.github.io/aimet-pages/releases/latest/techniques/mixed_precision/amp.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress.coreml.calibrated.layers import layout_of, vectors_of
from corepress.engine import Skip
from corepress.runtime.walk import walk
from corepress.searching.packages import PackageSubject
from corepress.searching.subject import Choice, Sample

Ranking = Sequence[int]
Chooser = Callable[[float], Choice | None]
BITS = (1, 2, 3, 4, 6, 8)
_LAYER = re.compile(r"(?:layers?|blocks?|h)[._](\d+)[._]")


class Ground:
    """What rivals share: a package with its forms, their sizes, and samples to learn from.

    `group`: channels that share a look-up table; 0 for all of them. `forms`, `sizes`: for each number of bits, for each
    weight, the candidate and its stored bytes.
    """

    def __init__(self, subject: PackageSubject, samples: Sequence[Sample], group: int = 0):
        self.subject, self.samples, self.group = subject, samples, group
        self.count = len(subject.items)
        (self.part,) = subject.parts(samples)
        self.exact = self._outputs()
        found = {bits: [self._form(item, bits) for item in range(self.count)] for bits in BITS}
        self.forms = {bits: [form for form, _ in row] for bits, row in found.items()}
        self.sizes = {bits: [size for _, size in row] for bits, row in found.items()}

    def _form(self, item: int, bits: int) -> tuple[int, int]:
        """The candidate of so many bits, with groups where they divide the channels; dense if there is none."""
        candidates = self.subject.items[item].candidates
        for group in (self.group, 0):
            grouped = {"granularity": "per_grouped_channel", "group_size": group} if group else {}
            wanted = (("palettize", {"nbits": bits, **grouped}),)
            for number, candidate in enumerate(candidates):
                if candidate.steps == wanted:
                    with suppress(Skip):
                        return number, self._size(item, number)
        return 0, self._size(item, 0)

    def _size(self, item: int, candidate: int) -> int:
        places = range(len(self.subject.items[item].shapes))
        return sum(self.subject.value((item, place), candidate).size for place in places)

    def bytes_of(self, bits: Sequence[int]) -> int:
        """Stored bytes of all weights, each with its bits."""
        return sum(self.sizes[own][item] for item, own in enumerate(bits))

    def bytes_of_dense(self) -> int:
        """Stored bytes of all weights as they are."""
        return sum(self._size(item, 0) for item in range(self.count))

    def choice(self, bits: Sequence[int]) -> Choice:
        """The candidates that have these bits."""
        return tuple(self.forms[own][item] for item, own in enumerate(bits))

    def change(self, item: int, candidate: int) -> None:
        """Let the program compute with another form of one weight."""
        for place in range(len(self.subject.items[item].shapes)):
            self.subject.put((item, place), self.subject.value((item, place), candidate).dense)

    def noise(self) -> float:
        """The squared error of the outputs, as the program computes now."""
        return sum(float((one - other).square().sum()) for one, other in zip(self.exact, self._outputs(), strict=True))

    def noise_of(self, choice: Choice) -> float:
        """The squared error of the outputs with that choice."""
        for item, candidate in enumerate(choice):
            self.change(item, candidate)
        found = self.noise()
        for item in range(self.count):
            self.change(item, 0)
        return found

    @torch.no_grad()
    def _outputs(self) -> list[Tensor]:
        return [y.double() for sample in self.part.samples for y in self.part.outputs(sample)]


def raised(ground: Ground, ranking: Ranking, low: int, high: int, room: float) -> Choice | None:
    """`low` bits for all weights but the first of the ranking, which get `high` as long as they fit; None if not even
    `low` does."""
    bits = [low] * ground.count
    left = room - ground.bytes_of(bits)
    if left < 0:
        return None
    for item in ranking:
        more = ground.sizes[high][item] - ground.sizes[low][item]
        if more <= left:
            bits[item], left = high, left - more
    return ground.choice(bits)


def best_pair(ground: Ground, rank: Callable[[int, int], Ranking], room: float) -> Choice | None:
    """The choice for the two numbers of bits around the budget that serve best on the samples."""
    found = []
    for low in BITS:
        for high in (bits for bits in BITS if bits > low):
            if ground.bytes_of([low] * ground.count) <= room < ground.bytes_of([high] * ground.count):
                choice = raised(ground, rank(low, high), low, high, room)
                if choice is not None:
                    found.append((ground.noise_of(choice), choice))
    return min(found, default=(0.0, None))[1]


def rules_of_mlx(ground: Ground) -> Ranking | None:
    """More bits for values and down projections in the first and last eighth of the layers and in every third between;
    then for the head; here, to fill the budget, for those of the other layers and for the rest in order. None for what
    is no transformer, which mlx-lm refuses, too."""
    names = [item.name for item in ground.subject.items]
    layers = [int(found[1]) if (found := _LAYER.search(name)) else None for name in names]
    down = [bool(re.search(r"down_proj|(?<!attention)_output_dense|fc2|w2", name)) for name in names]
    value = [bool(re.search(r"v_proj|self_value", name)) for name in names]
    count = 1 + max((layer for layer in layers if layer is not None), default=-1)
    if not any(down) or not count:
        return None
    edge = count // 8

    def order(item: int) -> int:
        layer = layers[item]
        if layer is not None and (down[item] or value[item]):
            return 0 if layer < edge or layer >= 7 * count // 8 or (layer - edge) % 3 == 2 else 2
        return 1 if "lm_head" in names[item] else 3

    return sorted(range(ground.count), key=order)


def gradients_of_mlx(ground: Ground, low: int, high: int) -> Ranking:
    """By how much the loss falls to the first order from `low` to `high` bits of a weight, for each of its elements,
    where all weights have `low` bits."""
    for item in range(ground.count):
        ground.change(item, ground.forms[low][item])
    leaves = {place: copies[0].requires_grad_() for place, copies in ground.part.leaves.items()}
    exact = iter(ground.exact)
    for sample in ground.part.samples:
        with torch.enable_grad():
            loss = sum((y - next(exact)).square().sum() for y in ground.part.outputs(sample))
        loss.backward(inputs=list(leaves.values()))  # type: ignore[union-attr]
    falls = np.zeros(ground.count)
    for (item, piece), leaf in leaves.items():
        if leaf.grad is not None:
            one, other = (ground.subject.value((item, piece), ground.forms[bits][item]).dense for bits in (low, high))
            difference = torch.from_numpy(one.astype(np.float32) - other.astype(np.float32))
            falls[item] += float((leaf.grad * difference).sum()) / ground.subject.items[item].elements
        leaf.requires_grad_(False)
        leaf.grad = None
    for item in range(ground.count):
        ground.change(item, 0)
    return [int(item) for item in np.argsort(-falls, kind="stable")]


def criteria_of_nncf(ground: Ground, inputs: Sequence[dict[str, float] | None]) -> dict[str, Ranking]:
    """NNCF's criteria: the weight's error in int8, inverted as there; that times the inputs' mean variance, greatest
    variance or mean magnitude; the trace of the layer's Hessian times the error's norm. What has no such inputs, as
    embeddings, comes last with the latter four. `inputs`: see `statistics`."""
    errors = [_int8_error(ground.subject.original((item, 0))) for item in range(ground.count)]
    inverted = [1 / (worst + np.finfo(np.float32).eps) for worst, _ in errors]
    found = {"data-free": inverted}
    for name in ("mean_variance", "max_variance", "mean_magnitude"):
        found[name] = [score * own[name] if own else 0.0 for score, own in zip(inverted, inputs, strict=True)]
    found["hessian"] = [norm * own["trace"] if own else 0.0 for (_, norm), own in zip(errors, inputs, strict=True)]
    return {name: sorted(range(ground.count), key=lambda item: -own[item]) for name, own in found.items()}


def _int8_error(weight: np.ndarray) -> tuple[float, float]:
    """Of asymmetric integers with a scale for each output channel: the greatest mean square of a channel's error, and
    the norm of the whole error."""
    rows = weight.astype(np.float32).reshape(len(weight), -1)
    least, most = np.minimum(rows.min(1, keepdims=True), 0), np.maximum(rows.max(1, keepdims=True), 0)
    scale = np.maximum((most - least) / 255, np.finfo(np.float32).tiny)
    error = np.round(rows / scale) * scale - rows
    return float(np.square(error).mean(1).max()), float(np.linalg.norm(error))


def statistics(ground: Ground) -> list[dict[str, float] | None]:
    """Of each weight's inputs, over all samples: the mean and greatest variance of a channel, the mean magnitude, and
    the mean square twice, which is the trace of the Hessian of the layer's squared error for each element."""
    program = ground.subject.loaded(None)
    names = {name: number for number, item in enumerate(ground.subject.items) for name in item.names}
    items = {
        program.constants[weight.output]: names[weight.name]
        for weight in ground.subject.model.weights()
        if weight.name in names
    }
    found: list[dict[str, float] | None] = [None] * ground.count

    def visit(step: Any, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        for key, buffer in step.held:
            item = items.get(buffer)
            layout = None if item is None else layout_of(step.kind, key, arguments[0])
            if item is not None and layout is not None:
                found[item] = _of_inputs(x for own in arguments for x in vectors_of(step.kind, key, own, layout))
        return {}

    walk(program, ground.samples, visit)
    return found


def _of_inputs(vectors: Iterator[Tensor]) -> dict[str, float]:
    """`vectors`: parts of shape (groups, vectors, columns)."""
    count, sums = 0, torch.zeros(())
    for part in vectors:
        count += part.shape[1]
        sums = sums + torch.stack([part, part.square(), part.abs()]).double().sum(2)
    mean, square, magnitude = sums / count
    variance = square - mean.square()
    return {
        "mean_variance": float(variance.mean()),
        "max_variance": float(variance.max()),
        "mean_magnitude": float(magnitude.mean()),
        "trace": 2 * float(square.mean()),
    }


def measured_alone(ground: Ground) -> list[tuple[float, int, int]]:
    """The squared error of the outputs, the weight and its bits, for each weight and number of bits alone, least first:
    AIMET's list of accuracies."""
    found = []
    for item in range(ground.count):
        for bits in BITS[:-1]:
            ground.change(item, ground.forms[bits][item])
            found.append((ground.noise(), item, bits))
        ground.change(item, 0)
    return sorted(found)


def walked(ground: Ground, alone: Sequence[tuple[float, int, int]], room: float) -> Choice | None:
    """AIMET's walk: from 8 bits everywhere down that list, lowering one weight at a time, until the budget holds; here,
    to fill the budget, back up the list as far as what is lowered there can be raised again."""
    bits = [BITS[-1]] * ground.count
    for _, item, fewer in alone:
        if ground.bytes_of(bits) <= room:
            break
        bits[item] = min(bits[item], fewer)
    left = room - ground.bytes_of(bits)
    if left < 0:
        return None
    for _, item, fewer in reversed(alone):
        more = BITS[BITS.index(fewer) + 1]
        cost = ground.sizes[more][item] - ground.sizes[fewer][item]
        if bits[item] == fewer and cost <= left:
            bits[item], left = more, left - cost
    return ground.choice(bits)


def _by_rules(ground: Ground) -> list[Chooser]:
    ranking = rules_of_mlx(ground)
    return [] if ranking is None else [partial(_by_ranking, ground, ranking)]


def _by_gradients(ground: Ground) -> list[Chooser]:
    rank = cache(partial(gradients_of_mlx, ground))
    return [lambda room: best_pair(ground, rank, room)]


def _by_criteria(ground: Ground) -> list[Chooser]:
    rankings = criteria_of_nncf(ground, statistics(ground))
    return [partial(_by_ranking, ground, ranking) for ranking in rankings.values()]


def _by_ranking(ground: Ground, ranking: Ranking, room: float) -> Choice | None:
    return best_pair(ground, lambda low, high: ranking, room)


def _by_walk(ground: Ground) -> list[Chooser]:
    alone = measured_alone(ground)
    return [lambda room: walked(ground, alone, room)]


# Each gives functions of the bytes that weights may take, of which the one counts that serves best.
RIVALS: dict[str, Callable[[Ground], list[Chooser]]] = {
    "rules of mlx-lm": _by_rules,
    "gradients of mlx-lm": _by_gradients,
    "criteria of NNCF": _by_criteria,
    "walk of AIMET": _by_walk,
}
