"""Puts fake quantization into a captured model: into its layers, and where activations become integers in Core ML."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from corepress.torch.quantization.capture import SCOPE
from corepress.torch.quantization.fake_quantize import FakeQuantize, LearnableFakeQuantize
from corepress.torch.quantization.layers import FakeQuantizedLayer, weight_of
from corepress.torch.quantization.patterns import FOLDED, Role, Rule, kinds_of, operands, rule_of
from corepress.torch.quantization.plan import Plan
from corepress.torch.quantization.quantization_config import (
    LinearQuantizerConfig,
    ModuleLinearQuantizerConfig,
    ObserverType,
    enclosing,
)
from corepress.torch.rules import Place


def places(captured: fx.GraphModule) -> Iterator[Place]:
    """Where a configuration is looked up: all that the table has a line for."""
    modules = dict(captured.named_modules())
    for node in captured.graph.nodes:
        if rule_of(node, modules) is not None:
            yield Place(enclosing(_scope(node)), kinds_of(node, modules))


def weight_configs(captured: fx.GraphModule, config: LinearQuantizerConfig) -> dict[str, Any]:
    """How the weight of each layer is quantized, by the layer's name; None: not at all."""
    modules = dict(captured.named_modules())
    found = {}
    for node in captured.graph.nodes:
        rule = rule_of(node, modules) if node.op == "call_module" else None
        if rule is not None and rule.role in (Role.weighted, Role.looks_up):
            chosen = copy.copy(config.config_of(str(node.target), kinds_of(node, modules)))
            if chosen is not None:  # activations are not the weight's business
                chosen.activation_dtype, chosen.activation_observer = torch.quint8, ObserverType.min_max
            found[str(node.target)] = chosen if chosen is not None and chosen.quantizes_weights else None
    return found


def _scope(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.meta.get(SCOPE, "")


def quantize_layers(captured: fx.GraphModule, config: LinearQuantizerConfig) -> None:
    """Wrap the layers whose weights are quantized, each with the batch norm that follows it and nothing else."""
    modules = dict(captured.named_modules())
    calls = Counter(node.target for node in captured.graph.nodes if node.op == "call_module")
    for node in list(captured.graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        rule = None if layer is None else rule_of(node, modules)
        if layer is None or rule is None or rule.role not in (Role.weighted, Role.looks_up):
            continue
        chosen = config.config_of(str(node.target), kinds_of(node, modules))
        if chosen is None or isinstance(layer, FakeQuantizedLayer):
            continue
        follower = _batch_norm_after(node, layer, modules)
        if follower is not None and calls[node.target] == calls[follower.target] == 1:
            bn = modules[str(follower.target)]
            follower.replace_all_uses_with(node)
            captured.graph.erase_node(follower)
            captured.delete_submodule(str(follower.target))
        else:
            bn = None
        fake_quant = _of_weight(layer, chosen) if chosen.quantizes_weights else None
        if fake_quant is not None or bn is not None:
            modules[str(node.target)] = wrapped = FakeQuantizedLayer(layer, fake_quant, bn)
            wrapped.train(layer.training)
            replace_module(captured, str(node.target), wrapped)
    captured.recompile()


def _batch_norm_after(node: fx.Node, layer: nn.Module, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The call of a batch norm that can be folded: it alone reads the result, and keeps running statistics."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    bn = modules[str(users[0].target)]
    fits = type(bn) is FOLDED.get(parametrize.type_before_parametrizations(layer))
    return users[0] if fits and bn.track_running_stats else None


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module into the place of a name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _of_weight(layer: nn.Module, config: ModuleLinearQuantizerConfig) -> FakeQuantize:
    cls = LearnableFakeQuantize if config.algorithm == "learnable" else FakeQuantize
    weight = weight_of(layer)
    fake_quant = cls(
        ObserverType(config.weight_observer),
        bits=config.weight_n_bits,
        signed=str(config.weight_dtype) == "torch.qint8",
        symmetric=config.is_symmetric,
        channel_axis=weight.output_axis if config.weight_per_channel else None,
        shape=tuple(weight.value.shape),
    )
    return fake_quant.to(weight.value.device)


def _plan_of(captured: fx.GraphModule, config: LinearQuantizerConfig, real: set[fx.Node]) -> Plan:
    modules = dict(captured.named_modules())

    def usable_rule(node: fx.Node) -> Rule | None:
        """The rule of an operation, but for one on a parameter or a constant, for which Core ML has no integers."""
        rule = rule_of(node, modules)
        if rule is None or rule.role is Role.looks_up or any(v.op == "get_attr" for v in operands(node, rule)):
            return None
        return rule

    def chosen(node: fx.Node) -> ModuleLinearQuantizerConfig | None:
        return config.config_of(_scope(node), kinds_of(node, modules))

    nodes = [node for node in captured.graph.nodes if node in real]
    return Plan(nodes, {node: rule for node in nodes if (rule := usable_rule(node))}, chosen)


def _landing(plan: Plan, node: fx.Node) -> fx.Node:
    """Where a value is rounded in training: as late as it can be, since behind a pool there is less to round."""
    users = list(node.users)
    while len(users) == 1 and _lets_past(plan, users[0]):
        node, users = users[0], list(users[0].users)
    return node


def _lets_past(plan: Plan, node: fx.Node) -> bool:
    """Rounding and picking may change places, if all that is picked from is read by no one else."""
    if plan.role(node) is not Role.moves or not plan.shares(node):
        return False
    return all(len(v.users) == 1 and plan.role(v) is not Role.passes for v in plan.operands(node))


def quantize_activations(captured: fx.GraphModule, config: LinearQuantizerConfig, real: set[fx.Node]) -> None:
    """Insert calls of `FakeQuantize` modules, one module for each group of values that must share a scale.

    A module remembers the names of all values of its group; the finalized model rounds each of them.
    """
    plan = _plan_of(captured, config, real)
    configs = plan.configs()
    observed: dict[fx.Node, bool] = {}  # the values that are rounded in training; averages are not observed
    for node in plan.nodes:
        shares = plan.shares(node)
        if id(plan.group[node]) in configs and not (shares and plan.role(node) is not Role.averages):
            place = _landing(plan, node)
            observed[place] = observed.get(place, False) or not shares
    places = [node for node in plan.nodes if node in observed]
    fake_quants: dict[int, str] = {}
    for group in [plan.group[node] for node in places]:
        if id(group) not in fake_quants:
            fake_quants[id(group)] = name = f"activation_post_process_{len(fake_quants)}"
            captured.add_submodule(name, _of_group(captured, plan, group, configs[id(group)]))
    for node in places:
        _round(captured.graph, node, fake_quants[id(plan.group[node])], observed[node])
    captured.graph.lint()
    captured.recompile()


def _round(graph: fx.Graph, node: fx.Node, name: str, observed: bool) -> None:
    options: dict[str, Any] = {} if observed else {"observe": False}
    with graph.inserting_after(node):
        call = graph.call_module(name, (node,), options)
    node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)


def _of_group(
    captured: fx.GraphModule, plan: Plan, group: list[fx.Node], config: ModuleLinearQuantizerConfig
) -> FakeQuantize:
    ranges = {plan.rules[node].fixed if node in plan.rules else None for node in plan.sources(group)}
    cls = LearnableFakeQuantize if config.algorithm == "learnable" else FakeQuantize
    fake_quant = cls(
        ObserverType(config.activation_observer),
        symmetric=config.is_symmetric and not plan.is_non_negative(group),
        fixed=ranges.pop() if len(ranges) == 1 else None,
    )
    fake_quant.members = [node.name for node in plan.nodes if node in group and plan.role(node) is not Role.passes]
    return fake_quant.to(next((tensor.device for tensor in captured.parameters()), None))
