"""`linear_quantize_activations`: activations become 8-bit integers between `quantize` and `dequantize`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from corepress.coreml.config import OptimizationConfig, check_kinds
from corepress.coreml.engine import Progress
from corepress.coreml.experimental.calibrate import calibrate
from corepress.coreml.experimental.observers import observer_of
from corepress.coreml.experimental.pairs import Limits, write
from corepress.coreml.experimental.patterns import (
    CORE,
    Chosen,
    Types,
    after,
    before,
    concat_groups,
    input_types,
    name_of,
)
from corepress.coreml.interop import takes_any_model
from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.coreml.opset import reach
from corepress.coreml.rules import Item, without_effect
from corepress.errors import ConfigError, FormatError, Missed
from corepress.fields import warn_or_raise
from corepress.mlprogram import Model
from corepress.mlprogram.program import Node, nodes, programs
from corepress.mlprogram.schema import ModelDescription

log = logging.getLogger(__name__)


@takes_any_model
def linear_quantize_activations(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Iterable[Mapping[Any, Any]],
    calibration_op_group_size: int = -1,
    *,
    observer: str = "min_max",
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
) -> Model:
    """Quantize what goes into and comes out of conv, linear, add and pooling operations to 8 bits; with
    `linear_quantize_weights` on the result, these run as W8A8. A model older than iOS17 is raised to it.

    `mlmodel`: a path, a `corepress.Model` or an `MLModel`; the result is of the same kind (for a path: a `Model`).
    `config`: which operations, by type and name, and how: `OpActivationLinearQuantizerConfig`s.
    `sample_data`: a list, generator or other iterable of {input name: array}, read once; for a model of one input the
    name may be None. All samples count.
    `calibration_op_group_size`: accepted for compatibility; every activation is observed in a single run.
    Additions: `observer`: how ranges are found: "min_max", "moving_average", "percentile" (99.99 % of the values) or
    "mse" (least squared error). `function`: the one to calibrate and quantize, of a model with several (default: its
    default function). `target`: raise the model further. `device`: where PyTorch computes. `workers`: its threads.
    `progress`: called after each sample with the samples done, all samples (0 for a generator) and a text. `strict`:
    make an error of a rule in `config` that changes nothing, and of a call that quantizes no activation (Missed).

    Activations without a finite range are left as they are, with a warning; `skipped` of the model lists them.
    Raises ConfigError for samples that do not fit the model, and without PyTorch (install 'corepress[torch]').
    """
    check_kinds(config, "linear_quantize_activations", OpLinearQuantizerConfig)
    for op_config in config.configs():
        assert isinstance(op_config, OpLinearQuantizerConfig)
        if op_config.nbits != 8:
            raise ConfigError("activations can be int8 or uint8 only: set dtype accordingly")
    new_observer = observer_of(observer)
    result = mlmodel.copy()
    reach(result, "iOS17", "quantized activations", target)

    name, message = _function(result, function)
    inputs = input_types(message)
    view = [node for node in nodes(result.spec) if node.function.name == name]

    def config_for(node: Node) -> Any:
        return config.config_for(node.name, [(node.type, node.name)])

    warn_or_raise(_idle_rules(config, view, inputs), log, strict)
    chosen = before(view, inputs, config_for)
    if not chosen:
        sentence = (
            "linear_quantize_activations quantized no activation: the configuration takes none of the operations "
            f"{', '.join(CORE)} that compute with activations only"
        )
        if strict:
            raise Missed(sentence)
        log.warning("%s", sentence)
    groups = concat_groups(view)
    wanted = _values(chosen).union(*groups)
    observers = {value: new_observer() for value in sorted(wanted)}
    trouble = calibrate(mlmodel, name, sample_data, observers, device=device, workers=workers, progress=progress)
    for value in sorted(_values(chosen) & set(trouble)):
        result.skipped[name, value] = trouble[value]
        log.warning("activation %s: left as it is: %s", value, trouble[value])

    @functools.cache
    def limits(value: str, symmetric: bool) -> Limits:
        group: set[str] = next((group for group in groups if value in group), {value})
        found = [observers[member].limits(symmetric) for member in group - set(trouble)]
        return min(low for low, _ in found), max(high for _, high in found)

    def usable(value: str) -> bool:
        return value in observers and value not in trouble

    chosen = before(view, inputs, config_for, usable)
    write(view, inputs, chosen, after(chosen, usable), limits)
    return result


def _idle_rules(config: OptimizationConfig, view: Sequence[Node], inputs: Types) -> Iterator[str]:
    """The sentences about rules that change nothing."""
    anything = OpLinearQuantizerConfig()
    items = [Item(node.name, ((node.type, node.name),), str) for node in before(view, inputs, lambda node: anything)]
    operations = [node for node in view if not (node.is_const or node.is_constexpr)]
    names, types = ({getattr(node, fact): None for node in operations} for fact in ("name", "type"))
    return without_effect(config, items, names, types, what="activation")


def _function(model: Model, name: str | None) -> tuple[str, Any]:
    """The function of that name, or the default one, with its message."""
    if model.spec.WhichOneof("Type") != "mlProgram":
        raise FormatError(f"{model.path}: pipelines can't be calibrated, only plain ML programs")
    name = name or ModelDescription.FromString(model.spec.description).defaultFunctionName or "main"
    ((_, program),) = programs(model.spec)
    functions = {entry.key: entry.value for entry in program.functions}
    if name not in functions:
        raise ConfigError(f"there is no function {name!r}; the model has {', '.join(sorted(functions))}")
    return name, functions[name]


def _values(chosen: Chosen) -> set[str]:
    """The names of all values that get a pair."""
    read = {name_of(node.operands[argument][0]) for node in chosen for argument in CORE[node.type]}
    return read | {str(node.op.outputs[0].name) for node in after(chosen)}
