"""What the compressing functions have in common: all that is settled, and said, before the work and after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from corepress.coreml.config import OptimizationConfig, check_kinds
from corepress.coreml.op_configs import OpCompressorConfig
from corepress.coreml.prepare import prepared
from corepress.coreml.readers import read_by_product
from corepress.coreml.rewrite import Action, Outcome
from corepress.coreml.rules import PYTHON, Item, without_effect
from corepress.engine import Skip
from corepress.errors import Missed
from corepress.fields import warn_or_raise
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.program import nodes

log = logging.getLogger(__name__)

Choose = Callable[[Weight], Any]  # the action on a weight
_SPARED = (
    "no product, look-up or recurrence reads it, so that each rounding error would go straight into the answers; "
    "spare_constants=False compresses it"
)
_NAMED = 3


class Method(NamedTuple):
    """A way to compress. `function`: its public name; `kinds`: the configurations that it takes; `chooser`: makes of a
    configuration and `joint_compression` the function that gives the action on a weight, or raises Skip; `smaller`:
    what makes the result smaller, in the words of the configuration."""

    function: str
    kinds: tuple[type[OpCompressorConfig], ...]
    chooser: Callable[[OptimizationConfig, bool], Choose]
    smaller: str

    def plan(
        self,
        model: Model,
        config: OptimizationConfig,
        joint: bool,
        *,
        target: Any = None,
        strict: bool = False,
        spare_constants: bool | None = None,
        words: Mapping[str, str] = PYTHON,
    ) -> tuple[Model, Choose, list[Weight]]:
        """A copy of the model, ready to be compressed, what to do with each of its weights, and these.

        Raises ConfigError, before any work, for what `config` can't ask of the model; with `strict` also for rules
        that change nothing. `words`: what the levels of the configuration are called where it was written.
        """
        config = check_kinds(config, self.function, *self.kinds)
        result = prepared(model, config, joint, target)
        weights = result.weights()
        choose = _sparing(self.chooser(config, joint), config, weights, spare_constants)
        idle = list(_idle_rules(result, weights, config, choose, words)) if config.rules() else []
        if joint and words is PYTHON and not any(weight.compression for weight in weights):
            idle.append("joint_compression=True has no effect: no weight of the model is compressed.")
        warn_or_raise(idle, log, strict)
        return result, choose, weights

    def concluding(self, before: Model, strict: bool, where: str = "") -> Callable[[Model, Outcome], None]:
        """What a run says at its end when it compressed nothing (with `strict` an error) or made the model larger.

        `where`: which of several runs it is.
        """
        beginning = f"{where}: " if where else ""

        def conclude(result: Model, outcome: Outcome) -> None:
            if not outcome.done:
                sentence = beginning + nothing_done("no weight was compressed", outcome)
                if strict:
                    raise Missed(sentence)
                log.warning("%s", sentence)
            # Sizes of whole models are looked at only where headers and alignment may count.
            elif outcome.bytes_after + 1024 * len(outcome.done) >= outcome.bytes_before:
                sizes = before.size(), result.size()
                if sizes[1] >= sizes[0]:
                    log.warning(
                        "%sthe model did not become smaller: %s bytes before, %s after; %s",
                        *(beginning, f"{sizes[0]:,}", f"{sizes[1]:,}", self.smaller),
                    )

        return conclude


def nothing_done(what: str, outcome: Outcome) -> str:
    """The sentence about a run that changed nothing, with the reason of the largest weight and its way out."""
    if not outcome.left:
        return f"{what}: the model has none."
    weight, reason = max(outcome.left, key=lambda item: item[0].stored_bytes)
    shape = "x".join(map(str, weight.shape))
    return f'{what}: the largest of {len(outcome.left)}, "{weight.name}" ({shape}), was left alone: {reason}.'


def _idle_rules(
    model: Model, weights: list[Weight], config: OptimizationConfig, choose: Choose, words: Mapping[str, str]
) -> Iterator[str]:
    operations = [node for node in nodes(model.spec) if not (node.is_const or node.is_constexpr)]
    names = dict.fromkeys([*(weight.name for weight in weights), *(node.name for node in operations)])
    items = [
        Item(weight.name, consumers_of(weight), lambda weight=weight: _reason(choose, weight))  # type: ignore[misc]
        for weight in weights
    ]
    return without_effect(config, items, names, dict.fromkeys(node.type for node in operations), words)


def consumers_of(weight: Weight) -> tuple[tuple[str, str], ...]:
    return tuple((consumer.op_type, consumer.name) for consumer in weight.consumers)


def _reason(choose: Choose, weight: Weight) -> str:
    try:
        choose(weight)
    except Skip as skip:
        return str(skip)
    return ""


def _sparing(choose: Choose, config: OptimizationConfig, weights: list[Weight], spare: bool | None) -> Choose:
    """What `choose` says, but for constants that only operations read which compute with their numbers one by one.

    `spare`: leave them alone; None compresses them with a warning. Those that the configuration names are compressed.
    """
    if spare is False:
        return choose

    def exposed(weight: Weight) -> bool:
        named = [
            key for level, key in config.rules_for(weight.name, consumers_of(weight)) if level == "op_name_configs"
        ]
        exactly = {weight.name, *(consumer.name for consumer in weight.consumers)}.intersection(named)
        return not exactly and not read_by_product(weight)

    def spared(weight: Weight) -> Action:
        action: Action = choose(weight)
        if exposed(weight):
            raise Skip(_SPARED, quiet=True)
        return action

    if spare:
        return spared
    named = [
        weight.name for weight in weights if len(weight.shape) > 1 and exposed(weight) and not _reason(choose, weight)
    ]
    if named:
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        log.warning(
            "No product, look-up or recurrence reads %s%s, so that each rounding error goes straight into the answers, "
            "as with positions, anchors and masks: spare_constants=True leaves such constants alone",
            *(", ".join(f'"{name}"' for name in named[:_NAMED]), more),
        )
    return choose
