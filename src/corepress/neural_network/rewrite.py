"""Lets an action change the weights of neural networks, in their layers."""

from __future__ import annotations

import functools
import logging

from corepress import engine
from corepress.engine import Progress, Skip, skipping
from corepress.errors import ConfigError
from corepress.formats.kinds import NETWORKS, models
from corepress.formats.neural_network.layers import LayerWeight
from corepress.formats.neural_network.model import Model
from corepress.neural_network.actions import Action

log = logging.getLogger(__name__)


def rewrite(
    model: Model,
    weights: list[LayerWeight],
    action: Action,
    version: int,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Apply the action to the weights, count those that it leaves alone, and raise the versions of the rest."""
    networks = _Networks(model)
    engine.run(
        weights,
        functools.partial(_apply, action),
        networks,
        name=lambda weight: weight.name,
        workers=workers,
        progress=progress,
    )
    if left := len(weights) - model.changed:
        log.warning("%d of %d weights are left alone", left, len(weights), extra={"weight": ""})
    for _, part in models(model.spec) if model.changed else ():
        if part is model.spec or part.WhichOneof("Type") in NETWORKS:
            part.specificationVersion = max(part.specificationVersion, version)


class _Networks:
    """The store of neural networks, whose weights are changed in place: counts them."""

    def __init__(self, model: Model):
        self.model = model
        model.changed = 0

    def put(self, item: LayerWeight, result: None) -> None:
        self.model.changed += 1

    def leave(self, item: LayerWeight, reason: Skip) -> None:
        self.model.skipped[item.name] = str(reason)
        log.warning("%s is left alone: %s", item.name, reason, extra={"weight": item.name})


def _apply(action: Action, weight: LayerWeight) -> None:
    if weight.layer.isUpdatable:
        raise Skip("its layer is updatable, and so needs float32")
    try:
        with skipping(but=(ConfigError,)):
            action(weight)
    except ConfigError as error:
        raise ConfigError(f"{weight.name}: {error}") from error
