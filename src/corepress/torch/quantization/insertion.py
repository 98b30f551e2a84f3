"""Puts fake quantization into a captured model: into its layers, and where activations become integers in Core ML."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn

from corepress.torch.quantization.capture import SCOPE
from corepress.torch.quantization.fake_quantize import FakeQuantize, LearnableFakeQuantize
from corepress.torch.quantization.layers import FakeQuantizedLayer, weight_of
from corepress.torch.quantization.patterns import FOLDED, Role, Rule, kinds_of, operands, rule_of
from corepress.torch.quantization.quantization_config import LinearQuantizerConfig, ModuleLinearQuantizerConfig

_SHARING = (Role.moves, Role.averages, Role.passes)
_COMPUTING = (Role.weighted, Role.joins, Role.normalizes, Role.activates)
_FUSED_BEFORE = (Role.weighted, Role.joins, Role.normalizes)


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
    fits = type(bn) is FOLDED.get(type(layer))
    return users[0] if fits and bn.track_running_stats else None


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module into the place of a name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _of_weight(layer: nn.Module, config: ModuleLinearQuantizerConfig) -> FakeQuantize:
    cls = LearnableFakeQuantize if config.algorithm == "learnable" else FakeQuantize
    weight = weight_of(layer)
    fake_quant = cls(
        config.weight_observer,
        bits=config.weight_n_bits,
        signed=str(config.weight_dtype) == "torch.qint8",
        symmetric=config.is_symmetric,
        channel_axis=weight.output_axis if config.weight_per_channel else None,
        shape=tuple(weight.value.shape),
    )
    return fake_quant.to(weight.value.device)


class _Plan:
    """Which values are rounded together, with one scale: groups of nodes that only move or average values."""

    def __init__(self, captured: fx.GraphModule, config: LinearQuantizerConfig, real: set[fx.Node]):
        self.captured, self.config, self.real = captured, config, real
        self.modules = dict(captured.named_modules())
        self.nodes = [node for node in captured.graph.nodes if node in real]
        self.rules = {node: rule for node in self.nodes if (rule := self._usable_rule(node))}
        self.heads: dict[fx.Node, fx.Node] = {}  # of a fused chain, for the others of it
        for node in self.nodes:
            self._fuse(node)
        self.group: dict[fx.Node, list[fx.Node]] = {node: [node] for node in self.nodes}
        for node in self.nodes:
            if self.shares(node):
                for operand in self.operands(node):
                    self._unite(node, operand)

    def _usable_rule(self, node: fx.Node) -> Rule | None:
        """The rule of an operation, but for one on a parameter or a constant, for which Core ML has no integers."""
        rule = rule_of(node, self.modules)
        if rule is None or rule.role is Role.looks_up or any(v.op == "get_attr" for v in operands(node, rule)):
            return None
        return rule

    def operands(self, node: fx.Node) -> list[fx.Node]:
        return [value for value in operands(node, self.rules[node]) if value in self.real]

    def role(self, node: fx.Node) -> Role | None:
        return self.rules[node].role if node in self.rules else None

    def _fuse(self, node: fx.Node) -> None:
        """Note what is computed in one go with a node before it: a batch norm, then an activation function."""
        users = list(node.users)
        if self.role(node) not in _FUSED_BEFORE or len(users) != 1:
            return
        normalizes = self.role(node) is Role.weighted and self.role(users[0]) is Role.normalizes
        if normalizes or self.role(users[0]) is Role.activates:
            self.heads[users[0]] = self.heads.get(node, node)

    def config_of(self, node: fx.Node) -> ModuleLinearQuantizerConfig | None:
        """The configuration of an operation, which for a fused one is that of the first; None leaves it alone."""
        node = self.heads.get(node, node)
        scope = str(node.target) if node.op == "call_module" else node.meta.get(SCOPE, "")
        chosen = self.config.config_of(scope, kinds_of(node, self.modules))
        return chosen if chosen is not None and chosen.quantizes_activations else None

    def shares(self, node: fx.Node) -> bool:
        return self.role(node) in _SHARING and self.config_of(node) is not None

    def _unite(self, one: fx.Node, other: fx.Node) -> None:
        if self.group[one] is not self.group[other]:
            self.group[one].extend(self.group[other])
            for node in self.group[other]:
                self.group[node] = self.group[one]

    def configs(self) -> dict[int, ModuleLinearQuantizerConfig]:
        """For each group that is quantized, by its id, the configuration: that of who makes a value, or reads it."""
        found: dict[int, ModuleLinearQuantizerConfig] = {}
        inner = {node for node in self.nodes if any(self.heads.get(user) for user in node.users)}
        for node in self.nodes:
            config = self.config_of(node) if self.role(node) in _COMPUTING else None
            if config is None:
                continue
            for value in self.operands(node) if node not in self.heads else ():
                found.setdefault(id(self.group[value]), config)
            if node not in inner:
                found.setdefault(id(self.group[node]), config)
        return found

    def is_non_negative(self, node: fx.Node) -> bool:
        rule = self.rules.get(node)
        if rule is None or not rule.keeps_sign:
            return rule is not None and rule.non_negative
        values = list(operands(node, rule))
        scalars = rule.role is Role.joins and len(values) != len(node.args)
        return not scalars and all(self.is_non_negative(value) for value in values)

    def fixed_of(self, sources: list[fx.Node]) -> tuple[float, int] | None:
        ranges = {self.rules[node].fixed if node in self.rules else None for node in sources}
        return ranges.pop() if len(ranges) == 1 else None

    def landing(self, node: fx.Node) -> fx.Node:
        """Where a value is rounded in training: as late as it can be, since behind a pool there is less to round."""
        users = list(node.users)
        while len(users) == 1 and self._lets_past(users[0]):
            node, users = users[0], list(users[0].users)
        return node

    def _lets_past(self, node: fx.Node) -> bool:
        """Rounding and picking may change places, if all that is picked from is read by no one else."""
        if self.role(node) is not Role.moves or not self.shares(node):
            return False
        return all(len(v.users) == 1 and self.role(v) is not Role.passes for v in self.operands(node))


def quantize_activations(captured: fx.GraphModule, config: LinearQuantizerConfig, real: set[fx.Node]) -> None:
    """Insert calls of `FakeQuantize` modules, one module for each group of values that must share a scale.

    A module remembers the names of all values of its group; the finalized model rounds each of them.
    """
    plan = _Plan(captured, config, real & set(captured.graph.nodes))
    configs = plan.configs()
    observed: dict[fx.Node, bool] = {}  # the values that are rounded in training; averages are not observed
    for node in plan.nodes:
        shares = plan.shares(node)
        if id(plan.group[node]) in configs and not (shares and plan.role(node) is not Role.averages):
            place = plan.landing(node)
            observed[place] = observed.get(place, False) or not shares
    places = [node for node in plan.nodes if node in observed]
    fake_quants: dict[int, str] = {}
    for group in [plan.group[node] for node in places]:
        if id(group) not in fake_quants:
            fake_quants[id(group)] = name = f"activation_post_process_{len(fake_quants)}"
            captured.add_submodule(name, _of_group(plan, group, configs[id(group)]))
    for node in places:
        with captured.graph.inserting_after(node):
            options: dict[str, Any] = {} if observed[node] else {"observe": False}
            call = captured.graph.call_module(fake_quants[id(plan.group[node])], (node,), options)
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
    captured.graph.lint()
    captured.recompile()


def _of_group(plan: _Plan, group: list[fx.Node], config: ModuleLinearQuantizerConfig) -> FakeQuantize:
    sources = [node for node in group if not plan.shares(node)]
    cls = LearnableFakeQuantize if config.algorithm == "learnable" else FakeQuantize
    fake_quant = cls(
        config.activation_observer,
        symmetric=config.is_symmetric and not all(map(plan.is_non_negative, sources)),
        fixed=plan.fixed_of(sources),
    )
    fake_quant.members = [node.name for node in plan.nodes if node in group and plan.role(node) is not Role.passes]
    return fake_quant.to(next((tensor.device for tensor in plan.captured.parameters()), None))
