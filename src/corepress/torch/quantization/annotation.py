"""Says which values of an exported graph are rounded, and how, in the annotations of PyTorch 2 export quantization.

PT2E has two halves. A quantizer writes a `QuantizationAnnotation` into the `meta` of nodes: this file. Then
`prepare_pt2e` or `prepare_qat_pt2e` reads them, and puts the observers that they name into the graph.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from corepress.torch import dtypes
from corepress.torch.quantization.patterns import Role, Rule, operands, rule_of
from corepress.torch.quantization.plan import SHARING, Plan
from corepress.torch.quantization.quantization_config import (
    LinearQuantizerConfig,
    ModuleLinearQuantizerConfig,
    ObserverType,
)

log = logging.getLogger(__name__)

ANNOTATION = "quantization_annotation"  # the key of `Node.meta` that PT2E reads
_aten: Any = torch.ops.aten
_CLAMPS = (_aten.hardtanh.default, _aten.hardtanh_.default)
_TRANSPOSED = (_aten.conv_transpose1d, _aten.conv_transpose2d, _aten.conv_transpose3d)
_SYNONYMS = {"iadd": "add", "imul": "mul", "concat": "cat"}


class Kit(NamedTuple):
    """Where PT2E is found. observers: has `FakeQuantize` and what observes. specs: has `QuantizationSpec`."""

    observers: ModuleType
    specs: ModuleType


def annotate(model: fx.GraphModule, config: LinearQuantizerConfig, kit: Kit) -> None:
    """Annotate the nodes of a graph of `torch.export.export(...).module()`, in place.

    Integers are what products and sums read, and what comes out of them, or of the batch norm and the activation
    function that are fused behind them; pools, reshaping and concatenation pass them on with the same scale. Nodes that
    another quantizer has annotated already stay as they are.
    """
    nodes = [node for node in model.graph.nodes if _is_real(node)]
    rules = {node: rule for node in nodes if (rule := _rule(node))}
    configs = _configs(rules, config)
    plan = Plan(nodes, rules, configs.get)
    specs = _ActivationSpecs(plan, kit)
    for node in rules:
        inputs, output = specs.of_inputs(node), specs.of_output(node)
        if plan.role(node) is Role.weighted and node in configs:
            # PT2E wants the value, the weight and the bias in this order, rounded or not.
            inputs = {node.args[0]: None} | inputs | _parameters(kit, node, configs[node])
        if inputs or output:
            node.meta[ANNOTATION] = kit.specs.QuantizationAnnotation(inputs, output, _annotated=True)


class _ActivationSpecs:
    """The specifications of what operations read and give; all of a group share the observer of the first."""

    def __init__(self, plan: Plan, kit: Kit):
        self.plan, self.kit = plan, kit
        self.groups = plan.configs()
        self.anchors: dict[int, Any] = {}  # by the id of a group, its first value, or reading of a value

    def of_inputs(self, node: fx.Node) -> dict[Any, Any]:
        plan = self.plan
        if node in plan.heads or not (plan.shares(node) or plan.computes(node)):
            return {}
        # What a dropout gives is rounded already: it does nothing in evaluation.
        read = [value for value in plan.operands(node) if plan.role(value) is not Role.passes or not plan.shares(value)]
        return {value: self._spec(value, (value, node)) for value in read}

    def of_output(self, node: fx.Node) -> Any:
        plan = self.plan
        rounds = plan.computes(node) and node not in plan.inner
        if not rounds and not (plan.shares(node) and plan.role(node) is not Role.passes):
            return None
        return self._spec(node, node)

    def _spec(self, value: fx.Node, place: Any) -> Any:
        group = self.plan.group[value]
        if id(group) not in self.groups:
            return None
        anchor = self.anchors.setdefault(id(group), place)
        if anchor != place:
            return self.kit.specs.SharedQuantizationSpec(anchor)
        return _activation_spec(self.kit, self.groups[id(group)], self.plan.is_non_negative(group))


def _configs(rules: dict[fx.Node, Rule], config: LinearQuantizerConfig) -> dict[fx.Node, ModuleLinearQuantizerConfig]:
    """The configuration of the products and sums, and of what passes on the integers that come from them."""
    configs: dict[fx.Node, ModuleLinearQuantizerConfig] = {}
    integers: set[fx.Node] = set()  # what comes from operations that are quantized
    for node, rule in rules.items():
        passed = any(value in integers for value in operands(node, rule))
        if rule.role in (Role.normalizes, Role.activates):  # they have the configuration of what they are fused with
            integers |= {node} if passed else set()
        elif rule.role not in SHARING or passed:
            chosen = config.config_of(_scope(node), tuple(_kinds(node, config)))
            if chosen is not None:
                configs[node] = chosen
                integers |= {node} if chosen.quantizes_activations else set()
    return configs


def _is_real(node: fx.Node) -> bool:
    """Whether the value is a tensor of floating-point numbers, and no constant scalar, which gains nothing."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and (node.op != "get_attr" or value.numel() > 1)


def _rule(node: fx.Node) -> Rule | None:
    if not isinstance(node.target, torch._ops.OpOverload) or ANNOTATION in node.meta:
        return None
    rule = rule_of(node, {})
    lowest = node.args[1] if node.target in _CLAMPS and len(node.args) > 1 else -1
    is_relu6 = rule is not None and isinstance(lowest, (int, float)) and lowest >= 0
    return dataclasses.replace(rule, non_negative=True) if is_relu6 else rule  # type: ignore[type-var]


def forget_batch_counts(model: fx.GraphModule) -> None:
    """Remove what adds one to `num_batches_tracked`; averages with a momentum go without, and others aren't exported.

    torchao 0.18 removes it for BatchNorm2d, when it converts, and leaves the others in.
    """
    for node in list(model.graph.nodes):
        counter = node.args[0] if node.target is _aten.add_.Tensor and not node.users else None
        if isinstance(counter, fx.Node) and str(counter.target).endswith("num_batches_tracked"):
            model.graph.erase_node(node)
    model.recompile()


# Which configuration an operation has.


def _stack(node: fx.Node) -> list[tuple[str, Any]]:
    """The names and classes of the modules in whose `forward` the operation is, the innermost first."""
    return [(path.removeprefix("L['self']."), cls) for path, cls in node.meta.get("nn_module_stack", {}).values()][::-1]


def _scope(node: fx.Node) -> str:
    return next((path for path, _ in _stack(node)), "")


def _kinds(node: fx.Node, config: LinearQuantizerConfig) -> Iterator[Any]:
    """The keys of `module_type_configs` that an operation goes by: its function; the classes around it, inside out."""
    classes = [cls if isinstance(cls, str) else _qualified(cls) for _, cls in _stack(node)]
    called = node.meta.get("torch_fn", ("", ""))[1].rpartition(".")[2]
    functions = {name.rstrip("_") for name in (called, node.target.overloadpacket.__name__)}  # type: ignore[union-attr]
    keys = list(config.module_type_configs)
    if not classes or not classes[0].startswith("torch.nn.modules.") or "container" in classes[0]:
        yield from (key for key in keys if not isinstance(key, type) and _function_name(key) in functions)
    for name in classes:
        yield from (key for key in keys if name == _qualified(key) or name.rpartition(".")[2] == key)


def _qualified(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else ""


def _function_name(function: Any) -> str:
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    return _SYNONYMS.get(name, name).rstrip("_")


# How a value is rounded.


def _parameters(kit: Kit, node: fx.Node, config: ModuleLinearQuantizerConfig) -> dict[Any, Any]:
    """The weight of an operation and its specification, and the bias, which stays as it is."""
    weight, *bias = [value for value in node.args[1:3] if isinstance(value, fx.Node)]
    spec = None
    if config.quantizes_weights and weight.op == "get_attr":
        spec = _weight_spec(kit, config, axis=int(node.target.overloadpacket in _TRANSPOSED))  # type: ignore[union-attr]
    elif config.quantizes_weights:
        log.warning("%s: its weight is not quantized, since it is computed (%s) in the model", node.name, weight.name)
    return {weight: spec, **dict.fromkeys(bias)}


def _activation_spec(kit: Kit, config: ModuleLinearQuantizerConfig, non_negative: bool) -> Any:
    """uint8; affine for what can't be negative, since half of the integers would be of no use."""
    symmetric = config.is_symmetric and not non_negative
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    observer = _observer(kit, ObserverType(config.activation_observer), per_channel=False)
    return _spec(kit, observer, {"dtype": torch.uint8, "qscheme": scheme})


def _weight_spec(kit: Kit, config: ModuleLinearQuantizerConfig, axis: int) -> Any:
    """Integers of the type and bits of the configuration; `axis` is that of the output channels."""
    signed, bits, per_channel = dtypes.is_signed(config.weight_dtype), config.weight_n_bits, config.weight_per_channel
    affine, symmetric = (
        (torch.per_channel_affine, torch.per_channel_symmetric)
        if per_channel
        else (torch.per_tensor_affine, torch.per_tensor_symmetric)
    )
    options: dict[str, Any] = {"dtype": torch.int8 if signed else torch.uint8}
    options["qscheme"] = symmetric if config.is_symmetric else affine
    if bits < 8:
        lowest = -(2 ** (bits - 1)) if signed else 0
        options |= {"quant_min": lowest, "quant_max": lowest + 2**bits - 1}
    observer = _observer(kit, ObserverType(config.weight_observer), per_channel)
    return _spec(kit, observer.with_args(ch_axis=axis) if per_channel else observer, options)


def _spec(kit: Kit, observer: Any, options: dict[str, Any]) -> Any:
    fake_quant = kit.observers.FakeQuantize.with_args(observer=observer, **options)
    return kit.specs.QuantizationSpec(observer_or_fake_quant_ctr=fake_quant, **options)


def _observer(kit: Kit, kind: ObserverType, per_channel: bool) -> Any:
    if kind is ObserverType.min_max:
        return kit.observers.PerChannelMinMaxObserver if per_channel else kit.observers.MinMaxObserver
    name = "MovingAveragePerChannelMinMaxObserver" if per_channel else "MovingAverageMinMaxObserver"
    averaging = getattr(kit.observers, name)
    return averaging.with_args(averaging_constant=0.1) if kind is ObserverType.ema_min_max else averaging
