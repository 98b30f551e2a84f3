"""PyTorch modules as something to search; the forms to choose from are the configurations of our compressors."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corepress.engine import Skip, skipping
from corepress.searching.candidates import DENSE, MIN_GROUP, candidates, check_forms
from corepress.searching.subject import Array, Candidate, Choice, Item, Part, Place, Value, left_alone
from corepress.sequences import Sample, steps_of
from corepress.targets import target
from corepress.torch.calls import Outputs, tensors_of
from corepress.torch.metadata import PREFIX, array_of, read_weight, write_value
from corepress.torch.palettization.cluster import palettize_weight
from corepress.torch.palettization.post_training_palettization import (
    ModulePostTrainingPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)
from corepress.torch.parameters import Parameter, bake_parametrizations, copy_of, parameters, together
from corepress.torch.quantization.post_training_quantization import (
    ModulePostTrainingQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
    quantize_weight,
)
from corepress.torch.rewrite import check
from corepress.weights import CompressedWeight, decompress

# Pruning of modules needs training, which a search does not do.
FORMS = ("palettized", "quantized")
# The newest system, whose forms are those that our compressors of modules make.
_TARGET = "iOS18"
# The names of arguments that differ between configurations of packages and of modules.
_ARGUMENTS = {"nbits": "n_bits", "dtype": "weight_dtype"}


class ModuleSubject:
    """A PyTorch module that is searched; it stays as it is.

    Args:
        model: The module.
        forms: Some of `FORMS`.
        min_group: The fewest channels that may share a look-up table.
        outputs: Takes, of what the module returns, what counts: a tensor, or several in a tuple, list or dictionary.
        workers: Threads; by default one for each core.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        forms: Sequence[str] = FORMS,
        min_group: int = MIN_GROUP,
        outputs: Outputs | None = None,
        workers: int | None = None,
    ):
        check_forms(forms, FORMS, "modules have no such weights")
        self._workers = workers
        self._model = copy_of(model)
        bake_parametrizations(self._model)
        self._running = copy_of(self._model).eval().requires_grad_(False)
        self._outputs = outputs
        self.left: dict[str, str] = {}  # weights that no form can be chosen for, and why
        choices = tuple(_of_modules(candidate) for candidate in candidates(target(_TARGET), forms, min_group))
        names = {parameter.owner_name for parameter in parameters(self._model)}
        self._held = list(_grouped(self._running, self.left))
        self._items = tuple(_item(tensors, names, choices) for tensors in self._held)
        self._originals = [[array_of(holders[0].value).copy() for holders in tensors] for tensors in self._held]

    @property
    def items(self) -> Sequence[Item]:
        """What there is to choose: the weights of a module, or of several that share one."""
        return self._items

    def original(self, place: Place) -> Array:
        """The dense value of a tensor as it was given."""
        item, tensor = place
        return self._originals[item][tensor]

    def value(self, place: Place, candidate: int) -> Value:
        """What a candidate makes of a tensor. Raises `Skip` where it can't be had."""
        item, tensor = place
        weight, parameter = self.original(place), self._held[item][tensor][0]
        steps = self._items[item].candidates[candidate].steps
        dense_size = parameter.value.numel() * parameter.value.element_size()
        if not steps:
            return Value(weight, dense_size)
        with skipping():
            form = _compressed(steps[0], parameter, weight)
        if form.nbytes >= dense_size:
            raise Skip("it would take as many bytes as before")
        # In the type that the module has: bfloat16 rounds once more.
        held = torch.from_numpy(np.ascontiguousarray(decompress(form))).to(parameter.value.dtype)
        return Value(array_of(held), form.nbytes)

    def parts(self, samples: Sequence[Sample]) -> Sequence[Part]:
        """The whole module, as one program."""
        leaves = {
            (item, tensor): [holders[0].value]
            for item, tensors in enumerate(self._held)
            for tensor, holders in enumerate(tensors)
        }
        return [Part(lambda sample: list(self._run(self._running, sample).values()), leaves, samples)]

    def put(self, place: Place, dense: Array) -> None:
        """Let the module compute with another value of a tensor from now on."""
        item, tensor = place
        write_value(self._held[item][tensor][0], dense)

    def loaded(self, model: nn.Module | None) -> nn.Module:
        """A module that `make` made, ready to run; None: the one that is searched, as it was given."""
        return copy_of(self._model if model is None else model).eval()

    def answer(self, loaded: nn.Module, sample: Sample) -> dict[str, Any]:
        """The outputs by name for a sample; those of a tuple by their number."""
        with torch.no_grad():
            return {name: array_of(value) for name, value in self._run(loaded, sample).items()}

    def _run(self, module: nn.Module, sample: Sample) -> dict[str, Tensor]:
        (batch,) = steps_of(sample)
        return tensors_of(module, batch, self._outputs)

    def recipe(self, choice: Choice) -> dict[str, Any]:
        """For each compressor its configuration, as `from_dict` of its class reads it: see `compressed`."""
        verbs: dict[str, dict[str, Any]] = {}
        for item, chosen in zip(self._items, choice, strict=True):
            for verb, arguments in item.candidates[chosen].steps:
                verbs.setdefault(verb, {}).update({name: dict(arguments) for name in item.names})
        return {verb: {"module_name_configs": verbs[verb]} for verb in ("palettize", "quantize") if verb in verbs}

    def make(self, choice: Choice) -> nn.Module:
        """The compressed module, with the buffers by which `coremltools.convert` knows it."""
        return compressed(self._model, self.recipe(choice), workers=self._workers)

    plain = draft = make

    @property
    def words(self) -> None:
        """See `Subject`: what its inputs mean is not known."""
        return None

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on what is left as it is, and why."""
        return left_alone(self.left)

    def size(self, model: nn.Module) -> int:
        """Bytes of all parameters and buffers as they are stored: in their own types, if they are not compressed."""
        weights = [holders[0] for holders in together(parameters(model))]
        stored = sum(_stored(weight) for weight in weights)
        counted = {weight.value.data_ptr() for weight in weights}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.data_ptr() not in counted and not name.rpartition(".")[2].startswith(PREFIX):
                counted.add(value.data_ptr())
                stored += value.numel() * value.element_size()
        return stored


def compressed(model: nn.Module, recipe: Mapping[str, Any], *, workers: int | None = None) -> nn.Module:
    """A copy of a module, compressed as the recipe of a search says.

    Args:
        model: The module that was searched; it stays as it is.
        recipe: `Result.recipe`: under "palettize" and "quantize" the configurations of `PostTrainingPalettizer` and of
            `PostTrainingQuantizer`.
        workers: Threads; by default one for each core.
    """
    result = copy_of(model)
    bake_parametrizations(result)
    if "palettize" in recipe:
        tables = PostTrainingPalettizerConfig.from_dict(recipe["palettize"])
        result = PostTrainingPalettizer(result, tables).compress(num_kmeans_workers=workers, inplace=True)
    if "quantize" in recipe:
        scales = PostTrainingQuantizerConfig.from_dict(recipe["quantize"])
        result = PostTrainingQuantizer(result, scales).compress(inplace=True, workers=workers)
    return result


def _grouped(model: nn.Module, left: dict[str, str]) -> Iterator[list[list[Parameter]]]:
    """What one choice is made for, each tensor by those that hold it.

    The weights of a module have one configuration, and so have modules that share a weight.
    """
    groups: list[tuple[set[str], list[tuple[int, list[Parameter]]]]] = []
    for number, holders in enumerate(together(parameters(model))):
        try:
            check(holders[0])
            if not isinstance(read_weight(holders[0]), np.ndarray):
                raise Skip("it is compressed already")
        except Skip as reason:
            left[holders[0].key] = str(reason)
            continue
        owners, tensors = {holder.owner_name for holder in holders}, [(number, holders)]
        joined = [group for group in groups if group[0] & owners]
        groups = [group for group in groups if not group[0] & owners]
        for others, held in joined:
            owners, tensors = owners | others, held + tensors
        groups.append((owners, sorted(tensors)))
    for _, tensors in sorted(groups, key=lambda group: group[1][0][0]):
        yield [holders for _, holders in tensors]


def _item(tensors: list[list[Parameter]], known: set[str], choices: tuple[Candidate, ...]) -> Item:
    owners = dict.fromkeys(holder.owner_name for holders in tensors for holder in holders)
    first = tensors[0][0]
    shapes = tuple(tuple(holders[0].value.shape) for holders in tensors)
    names = tuple(_pattern(owner, known) for owner in owners)
    return Item(first.key, names, shapes, type(first.owner).__name__, choices)


def _pattern(name: str, known: set[str]) -> str:
    """The regular expression that matches this name of a module and no other: the name itself, if that does."""
    others = any(re.fullmatch(name, other) for other in known - {name}) or not re.fullmatch(name, name)
    return re.escape(name) if others else name


def _of_modules(candidate: Candidate) -> Candidate:
    steps = tuple(
        (verb, {_ARGUMENTS.get(name, name): value for name, value in arguments.items()})
        for verb, arguments in candidate.steps
    )
    return DENSE if not steps else Candidate(candidate.label, steps, candidate.slowness)


def _compressed(step: tuple[str, Mapping[str, Any]], parameter: Parameter, weight: Array) -> CompressedWeight:
    verb, arguments = step
    config = _config(verb, tuple(arguments.items()))
    if isinstance(config, ModulePostTrainingPalettizerConfig):
        return palettize_weight(config, parameter.output_axis, weight)
    return quantize_weight(config, parameter, weight)


@functools.cache
def _config(verb: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    kinds = {"palettize": ModulePostTrainingPalettizerConfig, "quantize": ModulePostTrainingQuantizerConfig}
    return kinds[verb](**dict(arguments))


def _stored(weight: Parameter) -> int:
    value = read_weight(weight)
    return weight.value.numel() * weight.value.element_size() if isinstance(value, np.ndarray) else value.nbytes
