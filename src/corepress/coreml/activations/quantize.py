"""`linear_quantize_activations`: activations become 8-bit integers between `quantize` and `dequantize`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from corepress.coreml.activations.calibrate import calibrate, runnable
from corepress.coreml.activations.observers import Observer, observer_of
from corepress.coreml.activations.pairs import Limits, write
from corepress.coreml.activations.patterns import CORE, Chosen, after, before, concat_groups, input_types, name_of
from corepress.coreml.config import OptimizationConfig, check_kinds
from corepress.coreml.interop import takes_any_model
from corepress.coreml.op_configs import OpActivationLinearQuantizerConfig, OpLinearQuantizerConfig
from corepress.coreml.opset import reach
from corepress.coreml.rules import Item, without_effect
from corepress.engine import Progress
from corepress.errors import ConfigError, Missed
from corepress.fields import warn_or_raise
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import Function, Node, nodes, programs

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
    """Quantize what goes into and comes out of conv, linear, add and pooling operations to 8 bits.

    With `linear_quantize_weights` on the result, these run as W8A8. A model older than iOS17 is raised to it.
    Activations without a finite range are left as they are, with a warning; `skipped` of the model lists them.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: Which operations, by type and name, and how: `OpActivationLinearQuantizerConfig`s.
        sample_data: A list, generator or other iterable of {input name: array of the input's shape and type}, read
            once; for a model of one input the name may be None. All samples count.
        calibration_op_group_size: Accepted for compatibility; every activation is observed in a single run.
        observer: How ranges are found: "min_max", "moving_average", "percentile" (99.99 % of the values) or "mse"
            (least squared error).
        function: Of a model with several, the one to calibrate and quantize; by default its default function. Of a
            pipeline all stages that are ML programs are quantized.
        target: Raise the model to this deployment target first, such as "iOS18".
        device: Where PyTorch computes, such as "cpu" or "cuda".
        workers: Its threads.
        progress: Called after each sample with the samples done, of all (0 for a generator), and a text.
        strict: Make an error of a rule in `config` that changes nothing, and of a call that quantizes no activation
            (Missed).

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For samples that do not fit the model.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.experimental.OpActivationLinearQuantizerConfig())
        >>> quantized = cto.coreml.experimental.linear_quantize_activations("model.mlpackage", config, samples)
        >>> weights = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig())
        >>> w8a8 = cto.coreml.linear_quantize_weights(quantized, weights)
        >>> cto.verify("model.mlpackage", w8a8, samples).ok
        True
    """
    config = check_kinds(config, "linear_quantize_activations", OpLinearQuantizerConfig)
    for op_config in config.configs():
        assert isinstance(op_config, OpLinearQuantizerConfig)
        if op_config.nbits != 8:
            raise ConfigError("activations can be int8 or uint8 only: set dtype accordingly")
    new_observer = observer_of(observer)
    result = mlmodel.copy()
    reach(result, "iOS17", "quantized activations", target)

    program, functions = runnable(mlmodel, function, device)
    parts = [part for part in _parts(result, config) if part.function in functions]
    warn_or_raise(_idle_rules(config, parts), log, strict)
    if not any(part.values for part in parts):
        sentence = (
            "linear_quantize_activations quantized no activation: the configuration covers none of the operations that "
            f"can compute with activations of 8 bits ({', '.join(CORE)})"
        )
        if strict:
            raise Missed(sentence)
        log.warning("%s", sentence)
    observers = {name: new_observer() for part in parts for name in sorted(part.wanted)}
    trouble = calibrate(program, sample_data, observers, workers=workers, progress=progress)
    for part in parts:
        part.note(result, trouble)
        part.write(observers, trouble)
    return result


class _Part:
    """One function of one program: its operations, and what is quantized in it. Names of values that leave it get
    `prefix`, which is that of its stage in a pipeline."""

    def __init__(self, program: str, function: str, message: Any, view: list[Node], config: OptimizationConfig):
        self.function = f"{program}/{function}" if program else function
        self.prefix = f"{program}/" if program else ""
        self.inputs, self.view, self.config = input_types(message), view, config
        self.groups = concat_groups(view)
        self.values = _values(before(view, self.inputs, self.config_for))

    def config_for(self, node: Node) -> Any:
        return self.config.config_for(node.name, [(node.type, node.name)])

    @property
    def wanted(self) -> set[str]:
        """The values to observe."""
        return {self.prefix + name for name in self.values.union(*self.groups)}

    def note(self, model: Model, trouble: Mapping[str, str]) -> None:
        """Say which values stay as they are. `trouble`: why a value has no range."""
        for value in sorted(self.values):
            if (reason := trouble.get(self.prefix + value)) is not None:
                model.skipped[self.function, value] = reason
                log.warning("activation %s: left as it is: %s", value, reason)

    def write(self, observers: Mapping[str, Observer], trouble: Mapping[str, str]) -> None:
        """Put the pairs into the program."""

        @functools.cache
        def limits(value: str, symmetric: bool) -> Limits:
            group: set[str] = next((group for group in self.groups if value in group), {value})
            names = {self.prefix + member for member in group} - set(trouble)
            found = [observers[name].limits(symmetric) for name in names]
            return min(low for low, _ in found), max(high for _, high in found)

        def usable(value: str) -> bool:
            name = self.prefix + value
            return name in observers and name not in trouble

        chosen = before(self.view, self.inputs, self.config_for, usable)
        write(self.view, self.inputs, chosen, after(chosen, usable), limits)


def _parts(model: Model, config: OptimizationConfig) -> Iterator[_Part]:
    """The functions of all programs of a model."""
    views: dict[str, list[Node]] = {}
    for node in nodes(model.spec):
        views.setdefault(str(node.function), []).append(node)
    for program, content in programs(model.spec):
        for entry in content.functions:
            name = str(Function(program, entry.key, entry.value.opset))
            yield _Part(program, entry.key, entry.value, views.get(name, []), config)


def _idle_rules(config: OptimizationConfig, parts: Iterable[_Part]) -> Iterator[str]:
    """The sentences about rules that change nothing."""
    anything = OpLinearQuantizerConfig()
    taken = [node for part in parts for node in before(part.view, part.inputs, lambda node: anything)]
    items = [Item(node.name, ((node.type, node.name),), str) for node in taken]
    operations = [node for part in parts for node in part.view if not (node.is_const or node.is_constexpr)]
    names, types = ({getattr(node, fact): None for node in operations} for fact in ("name", "type"))
    return without_effect(config, items, names, types, what="activation")


def as_for_weights(config: OptimizationConfig, model: Model) -> OptimizationConfig:
    """How activations are quantized beside weights that are quantized as `config` says: with the same modes, signs and
    exceptions by type and name, in 8 bits. Rules that no operation with activations to quantize matches are left out:
    they are for weights."""

    def as_activations(held: Any) -> OpActivationLinearQuantizerConfig | None:
        if held is None:
            return None
        return OpActivationLinearQuantizerConfig(mode=held.mode, dtype="int8" if held.dtype.signed else "uint8")

    names = {node.name for node in nodes(model.spec) if node.type in CORE}
    return OptimizationConfig(
        as_activations(config.global_config),
        {kind: as_activations(held) for kind, held in config.op_type_configs.items() if kind in CORE},
        {
            name: as_activations(held)
            for name, held in config.op_name_configs.items()
            if any(other == name or fnmatchcase(other, name) for other in names)
        },
    )


def _values(chosen: Chosen) -> set[str]:
    """The names of all values that get a pair."""
    read = {name_of(node.operands[argument][0]) for node in chosen for argument in CORE[node.type]}
    return read | {str(node.op.outputs[0].name) for node in after(chosen)}
