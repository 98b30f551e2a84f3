"""Which weight is compressed, and how: `OptimizationConfig` and all that it holds.

The configuration of `coremltools.optimize.coreml`, with every refusal a `ConfigError` (a `ValueError`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, ClassVar

from attrs import define, field

from corepress.configuration import GLOBAL, Levels, Rule, as_mapping, check_level, copied
from corepress.coreml.granularity import CompressionGranularity, WeightDtype
from corepress.coreml.op_configs import (
    OpActivationLinearQuantizerConfig,
    OpCompressorConfig,
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
)
from corepress.errors import ConfigError
from corepress.fields import UnknownKeyError, read, read_yaml, suggesting, suggestion, tied_conflict
from corepress.peer import as_ours

__all__ = [
    "CompressionGranularity",
    "OpCompressorConfig",
    "OpLinearQuantizerConfig",
    "OpMagnitudePrunerConfig",
    "OpPalettizerConfig",
    "OpThresholdPrunerConfig",
    "OptimizationConfig",
    "UnknownKeyError",
    "WeightDtype",
    "check_kinds",
]

_KINDS: dict[str, type[OpCompressorConfig]] = {
    kind.__name__: kind
    for kind in (
        OpLinearQuantizerConfig,
        OpActivationLinearQuantizerConfig,
        OpThresholdPrunerConfig,
        OpMagnitudePrunerConfig,
        OpPalettizerConfig,
    )
}
Configs = dict[str, "OpCompressorConfig | None"]


def own_config(value: Any) -> Any:
    """A configuration of coremltools, or several in a dictionary, as ours; what is none stays as it is."""
    return as_ours(value, {**_KINDS, "OptimizationConfig": OptimizationConfig}.get)


def _own_dict(entries: Any) -> Any:
    return copied(entries, own_config)


@suggesting
@define
class OptimizationConfig(Levels):
    """Which weight is compressed by which configuration; None leaves a weight alone.

    Args:
        global_config: For every weight.
        op_type_configs: By the type of the operation that uses the weight, such as "conv"; goes before `global_config`.
        op_name_configs: By the name of the weight (its const) or of the operation that uses it; goes before both. Where
            no key is that very name, keys are shell-style patterns such as "decoder.*" (`*`, `?`, `[...]`), and the
            first that matches counts.

    Raises:
        ConfigError: For values that are neither None nor the configuration of an operation.

    Examples:
        >>> from corepress.coreml import OpPalettizerConfig, OptimizationConfig
        >>> config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"scores*": None})
        >>> small = cto.coreml.palettize_weights("model.mlpackage", config)
        >>> [row.name for row in cto.report(small).compressed]
        ['conv2_weight_to_fp16', 'conv3_weight_to_fp16', 'hidden_weight_to_fp16']
    """

    _levels: ClassVar[tuple[str, ...]] = ("op_type_configs", "op_name_configs")

    global_config: OpCompressorConfig | None = field(default=None, converter=own_config, validator=check_level)
    op_type_configs: Configs = field(factory=dict, converter=_own_dict, validator=check_level)
    op_name_configs: Configs = field(factory=dict, converter=_own_dict, validator=check_level)

    def set_global(self, op_config: OpCompressorConfig | None) -> None:
        """Set the configuration for every weight that has none of its own."""
        self.global_config = op_config

    def set_op_type(self, op_type: str, op_config: OpCompressorConfig | None) -> None:
        """Set the configuration for the weights of all operations of a type, such as `"conv"`."""
        self.op_type_configs = self.op_type_configs | {op_type: op_config}

    def set_op_name(self, op_name: str, op_config: OpCompressorConfig | None) -> None:
        """Set the configuration for a weight or an operation of that name, or for all that fit a pattern."""
        self.op_name_configs = self.op_name_configs | {op_name: op_config}

    def _check(self, level: str, key: Any, config: Any) -> None:
        if not isinstance(config, OpCompressorConfig):
            raise ConfigError(f"config must be type of OpCompressorConfig. Got {config!r} in {level}.")
        if level == "op_type_configs":
            config._validate_op_type(key)

    def config_for(self, weight_name: str, consumers: Sequence[tuple[str, str]]) -> OpCompressorConfig | None:
        """The configuration of a weight that the `consumers` use, each (type, name); None: leave it alone.

        The weight's own name counts first, then for each consumer its name, its type and the global
        configuration; a pattern for the weight's name yields to a consumer's exact name. A weight without
        consumers is left alone. Consumers that want different things are a ConfigError.
        """
        wanted = [self.held(rule) for rule in self.rules_for(weight_name, consumers)]
        for config, (_, name) in zip(wanted, consumers, strict=False):
            if config != wanted[0]:
                raise ConfigError(tied_conflict(consumers[0][1], name, weight_name, (wanted[0], config)))
        found: OpCompressorConfig | None = wanted[0] if wanted else None
        return found

    def rules_for(self, weight_name: str, consumers: Sequence[tuple[str, str]]) -> list[Rule]:
        """The entries that decide about a weight: one for all consumers, or one for each; see `config_for`."""
        if weight_name in self.op_name_configs:
            return [Rule("op_name_configs", weight_name)]
        if "const" in self.op_type_configs:
            raise ConfigError("const ops cannot be set by the `set_op_type` function. Please use `set_global`.")
        if consumers and not any(name in self.op_name_configs for _, name in consumers):
            pattern = self._pattern_for(weight_name)
            if pattern is not None:
                return [Rule("op_name_configs", pattern)]
        return [self._consumer_rule(*consumer) for consumer in consumers]

    def _consumer_rule(self, op_type: str, op_name: str) -> Rule:
        key = op_name if op_name in self.op_name_configs else self._pattern_for(op_name)
        if key is not None:
            return Rule("op_name_configs", key)
        return Rule("op_type_configs", op_type) if op_type in self.op_type_configs else GLOBAL

    def _pattern_for(self, name: str) -> str | None:
        return next((key for key in self.op_name_configs if fnmatchcase(name, key)), None)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> OptimizationConfig:
        """Build from a nested mapping, which stays unchanged.

        `config_type` names the class, such as "OpPalettizerConfig"; `global_config` holds its arguments;
        `op_type_configs` and `op_name_configs` map names to arguments, or to None. Each set of arguments may
        name a `config_type` of its own. Unknown keys and wrong values are a ConfigError that says where.
        """
        known = ("config_type", "global_config", *cls._levels)
        for key in as_mapping(config_dict, "an optimization config"):
            if key not in known:
                hint = suggestion(key, known)
                raise UnknownKeyError(f"Invalid key {key} to construct an OptimizationConfig object. {hint}")
        arguments = dict(config_dict)
        kind = arguments.pop("config_type", None)
        if not isinstance(kind, str):
            raise ConfigError(f"config_type must be provided with type of string. {suggestion(kind, _KINDS)}")
        if kind not in _KINDS:
            raise ConfigError(f"unknown config_type {kind!r}. {suggestion(kind, _KINDS)}")
        return cls._from_levels(arguments, lambda values, rule: _read(values, kind, rule))

    @classmethod
    def from_yaml(cls, yml: str | Path | IO[str] | IO[bytes]) -> OptimizationConfig:
        """Build from a YAML file, by its path or open; the structure is that of `from_dict`."""
        return cls.from_dict(read_yaml(yml))


def _read(values: Any, kind: str, rule: Rule) -> OpCompressorConfig | None:
    if values is None:
        return None
    where = rule.level if rule == GLOBAL else f'{rule.level} "{rule.key}"'
    arguments = dict(as_mapping(values, where))
    kind = arguments.pop("config_type", kind)
    if kind not in _KINDS:
        raise ConfigError(f"{where}: unknown config_type {kind!r}. {suggestion(kind, _KINDS)}")
    return read(arguments, _KINDS[kind], where)


def check_kinds(config: Any, function: str, *kinds: type[OpCompressorConfig]) -> OptimizationConfig:
    """The config, as ours, if it is an OptimizationConfig that holds only these kinds; else a ConfigError."""
    config = own_config(config)
    if not isinstance(config, OptimizationConfig):
        raise ConfigError(f"config must be of type OptimizationConfig. Got {config!r} for {function}.")
    for held in config.configs():
        if not isinstance(held, kinds):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{function} only accept {names} type config. Got {type(held).__name__}.")
    return config
