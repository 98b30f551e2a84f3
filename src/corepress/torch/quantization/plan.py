"""Which values of a graph are rounded, and which of them together, with one scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx

from corepress.torch.quantization.patterns import Role, Rule, operands
from corepress.torch.quantization.quantization_config import ModuleLinearQuantizerConfig

SHARING = (Role.moves, Role.averages, Role.passes)
_COMPUTING = (Role.weighted, Role.joins, Role.normalizes, Role.activates)
_FUSED_BEFORE = (Role.weighted, Role.joins, Role.normalizes)


class Plan:
    """Groups of values that share a scale: those of nodes that only move or average values, and what they read.

    nodes: those whose values are tensors of floating-point numbers, in order. rules: of those that have one, in order.
    chosen: gives the configuration of an operation, or None, which leaves it alone.
    """

    def __init__(
        self,
        nodes: Iterable[fx.Node],
        rules: dict[fx.Node, Rule],
        chosen: Callable[[fx.Node], ModuleLinearQuantizerConfig | None],
    ):
        self.nodes, self.rules, self.chosen = list(nodes), rules, chosen
        self.heads: dict[fx.Node, fx.Node] = {}  # of a fused chain, for the others of it
        for node in self.nodes:
            self._fuse(node)
        # Those that are computed in one go with their reader.
        self.inner = {node for node in self.nodes if any(self.heads.get(user) for user in node.users)}
        self.group: dict[fx.Node, list[fx.Node]] = {node: [node] for node in self.nodes}
        for node in self.nodes:
            if self.shares(node):
                for operand in self.operands(node):
                    self._unite(node, operand)
        self._non_negative = self._find_non_negative()

    def operands(self, node: fx.Node) -> list[fx.Node]:
        return [value for value in operands(node, self.rules[node]) if value in self.group]

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
        chosen = self.chosen(self.heads.get(node, node))
        return chosen if chosen is not None and chosen.quantizes_activations else None

    def computes(self, node: fx.Node) -> ModuleLinearQuantizerConfig | None:
        """The configuration of an operation that makes new values of those that it reads."""
        return self.config_of(node) if self.role(node) in _COMPUTING else None

    def shares(self, node: fx.Node) -> bool:
        return self.role(node) in SHARING and self.config_of(node) is not None

    def _unite(self, one: fx.Node, other: fx.Node) -> None:
        if self.group[one] is not self.group[other]:
            self.group[one].extend(self.group[other])
            for node in self.group[other]:
                self.group[node] = self.group[one]

    def configs(self) -> dict[int, ModuleLinearQuantizerConfig]:
        """For each group that is quantized, by its id, the configuration: that of who makes a value, or reads it."""
        found: dict[int, ModuleLinearQuantizerConfig] = {}
        for node in self.nodes:
            config = self.computes(node)
            if config is None:
                continue
            for value in self.operands(node) if node not in self.heads else ():
                found.setdefault(id(self.group[value]), config)
            if node not in self.inner:
                found.setdefault(id(self.group[node]), config)
        return found

    def sources(self, group: list[fx.Node]) -> list[fx.Node]:
        """Where the values of a group come from."""
        return [node for node in group if not self.shares(node)]

    def is_non_negative(self, group: list[fx.Node]) -> bool:
        return self._non_negative.issuperset(self.sources(group))

    def _find_non_negative(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node, rule in self.rules.items():
            values = list(operands(node, rule))
            scalars = rule.role is Role.joins and len(values) != len(node.args)
            if rule.non_negative or (rule.keeps_sign and not scalars and found.issuperset(values)):
                found.add(node)
        return found
