"""What the compressing functions have in common: all that is settled, and said, before the work and after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from corepress.coreml.action import Action, Evidence
from corepress.coreml.choose import asks, config_for, consumers_of
from corepress.coreml.config import OptimizationConfig, check_kinds
from corepress.coreml.marks import spared
from corepress.coreml.op_configs import OpCompressorConfig, OpMagnitudePrunerConfig
from corepress.coreml.outliers import put_apart
from corepress.coreml.prepare import prepared
from corepress.coreml.readers import read_by_product
from corepress.coreml.rewrite import Outcome, rewrite
from corepress.coreml.rules import PYTHON, Item, without_effect
from corepress.engine import Progress, Skip, not_smaller, nothing_done
from corepress.errors import ConfigError, Missed
from corepress.fields import some, warn_or_raise
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import nodes

log = logging.getLogger(__name__)

Choose = Callable[[Weight], Action]
# By the function and the output name of each weight.
Choices = dict[tuple[str, str], Action | Skip]
_SPARED = (
    "no product, look-up or recurrence reads it, so that each rounding error would go straight into the answers; "
    "spare_constants=False compresses it"
)
_OWN = (
    "it is no weight of the model but undoes a rotation of weights, and all answers pass through it; its name in the "
    "configuration compresses it"
)


class Plan(NamedTuple):
    """A compression of which nothing but the work is left to do.

    `model`: a copy of the caller's, ready to be compressed, with its `weights`. `choose` gives the action on each, or
    raises the `Skip` by which it is left alone. `conclude`: to be called with the result and what was done.
    `evidence`: what the actions are fitted to.
    """

    model: Model
    weights: list[Weight]
    choose: Choose
    conclude: Callable[[Model, Outcome], None]
    evidence: Evidence | None

    def run(self, workers: int | None = None, progress: Progress | None = None) -> Model:
        """The model with all weights compressed without data."""
        return rewrite(
            self.model,
            self.choose,
            weights=self.weights,
            workers=workers,
            progress=progress,
            conclude=self.conclude,
        )


class Method(NamedTuple):
    """A way to compress.

    `function`: its public name; `kinds`: the configurations that it takes; `action`: what it does with a weight;
    `fitted`: what it does where samples are given, by the name of the method; the first is the default. `smaller`: what
    makes the result smaller, in the words of the configuration.
    """

    function: str
    kinds: tuple[type[OpCompressorConfig], ...]
    action: type[Action]
    fitted: Mapping[str, type[Action]]
    smaller: str

    def evidence(self, fitted: str | None) -> Evidence | None:
        """What a method that learns from samples is fitted to; None for none, and for a name that is no method's."""
        action = None if fitted is None else self.fitted.get(fitted)
        return None if action is None else action.evidence

    @property
    def learning(self) -> str:
        """The method that learns from samples where none is named."""
        return next(iter(self.fitted))

    def plan(
        self,
        model: Model,
        config: OptimizationConfig,
        joint: bool,
        fitted: str | None = None,
        target: Any = None,
        strict: bool = False,
        spare_constants: bool | None = None,
        *,
        words: Mapping[str, str] = PYTHON,
        where: str = "",
    ) -> Plan:
        """What to do with each weight of a model, which stays as it is; `fitted`: the method that learns from samples.

        Raises ConfigError, before any work, for what `config` can't ask of the model; with `strict` also for rules
        that change nothing. `words`: what the levels of the configuration are called where it was written. `where`:
        which of several runs this is.
        """
        if fitted is not None and fitted not in tuple(self.fitted):
            names = " or ".join(f'"{name}"' for name in self.fitted)
            raise ConfigError(f"method must be {names}, not {fitted!r}")
        config = check_kinds(config, self.function, *self.kinds)
        _warn_of_zeros(config)
        result = prepared(model, config, joint, target)
        weights = result.weights()
        action = self.action if fitted is None else self.fitted[fitted]
        choices = _choices(action, weights, config, joint)
        if spare_constants is not False:
            _spare(choices, config, result, weights, spare_constants)
        weights = _with_outliers_apart(result, weights, choices)
        idle = list(_idle_rules(result, weights, config, choices, words)) if config.rules() else []
        if joint and words is PYTHON and not any(weight.compression for weight in weights):
            idle.append("joint_compression=True has no effect: no weight of the model is compressed.")
        warn_or_raise(idle, log, strict)
        _say_adapted(choices, weights)
        said = bool(idle) and not asks(config, weights)
        return Plan(result, weights, chooser(choices), self._concluding(model, strict, where, said), action.evidence)

    def _concluding(self, before: Model, strict: bool, where: str, said: bool) -> Callable[[Model, Outcome], None]:
        """What a run says at its end when it compressed nothing (with `strict` an error) or made the model larger.

        `said`: that it will compress nothing was said before the work, with the reason."""
        beginning = f"{where}: " if where else ""

        def conclude(result: Model, outcome: Outcome) -> None:
            if not outcome.done:
                sentence = beginning + nothing_done("no weight was compressed", outcome.left)
                if strict:
                    raise Missed(sentence)
                if not said:
                    log.warning("%s", sentence)
            # Sizes of whole models are looked at only where headers and alignment may count.
            elif outcome.bytes_after + 1024 * len(outcome.done) >= outcome.bytes_before:
                sizes = before.size(), result.size()
                if sizes[1] >= sizes[0]:
                    log.warning("%s%s; %s", beginning, not_smaller(*sizes), self.smaller)

        return conclude


def together(plans: Sequence[Plan]) -> Plan:
    """One plan for several that compress different weights, each of which was made for the model of the one before."""
    if len(plans) == 1:
        return plans[0]

    def choose(weight: Weight) -> Action:
        reasons = []
        for plan in plans:
            try:
                return plan.choose(weight)
            except Skip as reason:
                reasons.append(reason)
        raise next((reason for reason in reasons if not reason.quiet), reasons[-1])

    def conclude(result: Model, outcome: Outcome) -> None:
        for plan in plans:
            left, done = [], False
            for weight in [*outcome.done, *(weight for weight, _ in outcome.left)]:
                try:
                    plan.choose(weight)
                    done = True
                except Skip as reason:
                    left.append((weight, str(reason)))
            if not done:
                plan.conclude(result, Outcome(left=left))
        if outcome.done:
            plans[0].conclude(result, outcome)

    return plans[-1]._replace(choose=choose, conclude=conclude)


def _warn_of_zeros(config: OptimizationConfig) -> None:
    for held in config.configs():
        if isinstance(held, OpMagnitudePrunerConfig) and held.target_sparsity == 1:
            log.warning("target_sparsity=1 sets all values of the weights to zero: give a smaller part of them")


def chooser(choices: Choices) -> Choose:
    """The function that gives what was chosen for a weight."""

    def choose(weight: Weight) -> Action:
        chosen = choices[weight.function, weight.output]
        if isinstance(chosen, Skip):
            raise chosen.with_traceback(None)  # it is raised again and again
        return chosen

    return choose


def _choices(kind: type[Action], weights: list[Weight], config: OptimizationConfig, joint: bool) -> Choices:
    choices: Choices = {}
    for weight in weights:
        try:
            chosen = config_for(weight, config, kind.joint_forms, joint)
            choices[weight.function, weight.output] = kind.on(weight, chosen, weight.name in config.op_name_configs)
        except Skip as skip:
            choices[weight.function, weight.output] = skip
    return choices


def _with_outliers_apart(model: Model, weights: list[Weight], choices: Choices) -> list[Weight]:
    """The weights after the outliers of those whose configuration asks for it got constants of their own."""
    asked = {place: getattr(action, "config", None) for place, action in choices.items()}
    fractions = {place: part for place, config in asked.items() if (part := getattr(config, "outlier_fraction", 0))}
    if not fractions:
        return weights
    choices.update(put_apart(model, fractions, weights))
    weights = model.weights()
    for weight in weights:
        choices.setdefault((weight.function, weight.output), Skip("it was not there before", quiet=True))
    return weights


def _say_adapted(choices: Choices, weights: list[Weight]) -> None:
    found = []
    for weight in weights:
        chosen = choices[weight.function, weight.output]
        if not isinstance(chosen, Skip) and (adapted := chosen.adapted(weight.shape)):
            found.append(f"{weight.name} ({adapted})")
    if found:
        log.warning(
            "The size that was asked for does not divide all channels, so smaller ones are used: %s", some(found)
        )


def _idle_rules(
    model: Model, weights: list[Weight], config: OptimizationConfig, choices: Choices, words: Mapping[str, str]
) -> Iterator[str]:
    operations = [node for node in nodes(model.spec) if not (node.is_const or node.is_constexpr)]
    names = dict.fromkeys([*(weight.name for weight in weights), *(node.name for node in operations)])

    def item(weight: Weight) -> Item:
        chosen = choices[weight.function, weight.output]
        reason = str(chosen) if isinstance(chosen, Skip) else ""
        return Item(weight.name, consumers_of(weight), lambda: reason)

    types = dict.fromkeys(node.type for node in operations)
    return without_effect(config, [item(weight) for weight in weights], names, types, words)


def _spare(
    choices: Choices, config: OptimizationConfig, model: Model, weights: list[Weight], spare: bool | None
) -> None:
    """Leave constants alone that a rewrite put into the model, and those that only operations read which compute with
    their numbers one by one.

    `spare`: None compresses the latter with a warning. Those that the configuration names are compressed.
    """

    def named(weight: Weight) -> bool:
        keys = [key for level, key in config.rules_for(weight.name, consumers_of(weight)) if level == "op_name_configs"]
        return bool({weight.name, *(consumer.name for consumer in weight.consumers)}.intersection(keys))

    own = spared(model, choices)
    chosen = [weight for weight in weights if not isinstance(choices[weight.function, weight.output], Skip)]
    chosen = [weight for weight in chosen if not named(weight)]
    choices.update({(w.function, w.output): Skip(_OWN, quiet=True) for w in chosen if (w.function, w.output) in own})
    found = [w for w in chosen if (w.function, w.output) not in own and not read_by_product(w)]
    if spare:
        choices.update({(weight.function, weight.output): Skip(_SPARED, quiet=True) for weight in found})
    elif found:
        log.warning(
            "No product, look-up or recurrence reads %s, so that each rounding error goes straight into the answers, "
            "as with positions, anchors and masks: spare_constants=True leaves such constants alone",
            some([weight.name for weight in found]),
        )
