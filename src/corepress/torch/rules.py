"""Before a model is changed: does each rule of its configuration do something, and do weights that are one agree?

A place is where a configuration is looked up: a module with a weight or, for what is quantized in a graph, a call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import attrs
import torch
from torch import nn

from corepress.configuration import GLOBAL, Item, Known, Rule, without_effect
from corepress.errors import ConfigError
from corepress.fields import tied_conflict, warn_or_raise
from corepress.torch import training
from corepress.torch.optimization_config import OptimizationConfig, matches, type_name
from corepress.torch.parameters import Parameter, together

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """`scopes`, `kinds`: the names and the types by which `OptimizationConfig.rule_of` finds its rule."""

    scopes: tuple[str, ...]
    kinds: tuple[Any, ...]

    @classmethod
    def of(cls, parameter: Parameter) -> Place:
        kind = type(training.class_of(parameter.owner))
        return cls((parameter.owner_name,), (kind, kind.__name__))


def check_places(
    model: nn.Module, config: OptimizationConfig, places: Iterable[Place], method: str, strict: bool = False
) -> None:
    """Warn of each rule that decides nothing for these places; with `strict` a ConfigError names all of them.

    `places`: all that the method could change. `method`: its name, for messages.
    """
    warn_or_raise(_without_effect(model, config, list(places), method), log, strict)


def _without_effect(model: nn.Module, config: OptimizationConfig, places: list[Place], method: str) -> Iterator[str]:
    def matched(rule: Rule) -> Iterator[str]:
        return (name for name, module in model.named_modules() if _fits(rule, _place_of(name, module)))

    def words(rule: Rule) -> tuple[str, str]:
        return rule.level, type_name(rule.key)

    known = Known(
        lambda rule: any(True for _ in matched(rule)),
        lambda rule: _known(rule, places),
        lambda rule: _why(model, next(matched(rule)), places, method),
    )
    items = [
        Item("".join(place.scopes[:1]), [config.rule_of(*place)], functools.partial(_fits, place=place), str)
        for place in places
    ]
    return without_effect(config, items, known, words)


def _place_of(name: str, module: nn.Module) -> Place:
    kind = type(training.class_of(module))
    return Place((name,), (kind, kind.__name__))


def _fits(rule: Rule, place: Place) -> bool:
    if rule.level == "module_name_configs":
        return any(matches(str(rule.key), scope) for scope in place.scopes)
    return rule.key in place.kinds


def _known(rule: Rule, places: list[Place]) -> list[str]:
    if rule.level == "module_name_configs":
        return [place.scopes[0] for place in places if place.scopes]
    return [type_name(place.kinds[0]) for place in places if place.kinds]


def _why(model: nn.Module, name: str, places: list[Place], method: str) -> str:
    module = model.get_submodule(name)
    reason = f'it matches "{name}" (a {type(module).__name__}), which has no weight of its own that {method} compresses'
    inside = [scope for place in places for scope in place.scopes[:1] if scope.startswith(f"{name}." if name else "")]
    return f'{reason}; "{name}\\..*" would match what is in it, such as "{inside[0]}"' if inside and name else reason


def shared_weights(model: nn.Module) -> list[list[Parameter]]:
    """The weights of a model, one list for each tensor; parts that are trained with it don't run."""
    with training.idle([part for _, part in training.parts(model, training.Part)]), torch.no_grad():
        return together(training.weights(model))


def check_shared(groups: Iterable[list[tuple[str, Any]]]) -> None:
    """A ConfigError where a tensor that several modules hold would have to be compressed in two ways.

    `groups`: for each tensor, the name and the configuration (None: leave alone) of each of its holders.
    """
    for (first, wanted), *others in groups:
        for name, config in others:
            if config != wanted:
                told = tied_conflict(
                    first.rpartition(".")[0], name.rpartition(".")[0], first, _differing(wanted, config),
                    readers="modules", remedy="give both the same",
                )  # fmt: skip
                raise ConfigError(told)


def _differing(one: Any, other: Any) -> tuple[str, str]:
    """Two configurations, by the fields in which they differ."""
    if type(one) is not type(other) or not attrs.has(type(one)):
        return _told(one), _told(other)
    names = [f.name for f in attrs.fields(type(one)) if getattr(one, f.name) != getattr(other, f.name)]
    return tuple(", ".join(f"{name}={getattr(c, name)!r}" for name in names) for c in (one, other))  # type: ignore


def _told(config: Any) -> str:
    return "none, which leaves it alone" if config is None else repr(config)


def check_weights(
    model: nn.Module,
    config: OptimizationConfig,
    takes: Callable[[Parameter], bool],
    config_of: Callable[[Parameter], Any],
    method: str,
    strict: bool,
) -> None:
    """Both checks, for a method that compresses the weights of modules.

    `takes`: whether the method could compress a weight at all. `config_of`: how it would; None: leave it alone.
    """
    groups = shared_weights(model)
    weights = [parameter for group in groups for parameter in group]
    taken = [parameter for parameter in weights if takes(parameter)]
    check_places(model, config, map(Place.of, taken), method, strict)

    def spared(parameter: Parameter) -> bool:
        """Whether the configuration says of what can't be compressed that it must stay as it is."""
        rule = GLOBAL if takes(parameter) else config.rule_of(*Place.of(parameter))
        return rule != GLOBAL and config.held(rule) is None

    check_shared(
        [(p.key, config_of(p) if takes(p) else None) for p in group if takes(p) or spared(p)]
        for group in groups
        if len(group) > 1
    )
    if not any(config_of(parameter) is not None for parameter in taken):
        log.warning("%s", _nothing(method, taken))


def _nothing(method: str, taken: list[Parameter]) -> str:
    if not taken:
        return f"nothing is compressed: the model has no weight of a kind that {method} compresses"
    return f"nothing is compressed: the configuration leaves all {len(taken)} weights alone"
