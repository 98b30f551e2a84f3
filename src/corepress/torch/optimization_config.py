"""Which modules of a model are compressed, and how: what the configurations of all methods have in common.

Names and behaviour are those of `coremltools.optimize.torch.optimization_config`; every refusal is a `ConfigError`
(a `ValueError`).
"""

from __future__ import annotations

import importlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, TypeVar

import attrs
import torch
from attrs import define, field
from torch import nn

from corepress import fields
from corepress.configuration import GLOBAL, Levels, Rule, as_mapping, check_level, copied
from corepress.errors import ConfigError
from corepress.peer import as_ours

__all__ = ["ModuleOptimizationConfig", "OptimizationConfig", "PalettizationGranularity", "QuantizationGranularity"]

M = TypeVar("M", bound="ModuleOptimizationConfig")
O = TypeVar("O", bound="OptimizationConfig")  # noqa: E741
ModuleType = Callable[..., Any] | str


class QuantizationGranularity(Enum):
    """How many elements of a weight share a scale. Its words do as well.

    Examples:
        >>> from corepress.torch.optimization_config import QuantizationGranularity
        >>> [each.value for each in QuantizationGranularity]
        ['per_tensor', 'per_channel', 'per_block']
    """

    per_tensor = "per_tensor"
    per_channel = "per_channel"
    per_block = "per_block"


class PalettizationGranularity(Enum):
    """How many elements of a weight share a look-up table. Its words do as well.

    Examples:
        >>> from corepress.torch.optimization_config import PalettizationGranularity
        >>> [each.value for each in PalettizationGranularity]
        ['per_tensor', 'per_grouped_channel']
    """

    per_tensor = "per_tensor"
    per_grouped_channel = "per_grouped_channel"


# What a configuration takes for a granularity: the member, or its word; it holds the member.
QuantizationGranularityWord = QuantizationGranularity | Literal["per_tensor", "per_channel", "per_block"]
PalettizationGranularityWord = PalettizationGranularity | Literal["per_tensor", "per_grouped_channel"]
LutType = torch.dtype | Literal["int8", "uint8"] | None


@define
class ModuleOptimizationConfig:
    """How the weights of one module are compressed: the base of the configurations of a module.

    Examples:
        >>> from corepress.torch.palettization import ModulePostTrainingPalettizerConfig
        >>> ModulePostTrainingPalettizerConfig.from_dict({"n_bits": 6}).as_dict()["n_bits"]
        6
    """

    @classmethod
    def from_dict(cls: type[M], data_dict: Mapping[str, Any]) -> M:
        """Build from the names of fields and their values; the mapping stays unchanged."""
        return cls._structured(data_dict)

    @classmethod
    def _structured(cls: type[M], values: Mapping[str, Any]) -> M:
        return fields.read(as_mapping(values, cls.__name__), cls, cls.__name__)

    @classmethod
    def from_yaml(cls: type[M], yml: str | Path | IO[str] | IO[bytes]) -> M:
        """Build from a YAML file, by its path or open."""
        return cls.from_dict(fields.read_yaml(yml) or {})

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


def own_config(value: Any) -> Any:
    """A configuration of coremltools, or several in a dictionary or list, as ours; what is none stays as it is."""
    return as_ours(value, _counterpart)


def _counterpart(name: str) -> Any:
    for package in ("palettization", "quantization", "layerwise_compression", "pruning", "pruning.pruning_scheduler"):
        module = importlib.import_module(f"corepress.torch.{package}")  # which build on this one
        if hasattr(module, name):
            return getattr(module, name)
    return None


def own_dict(entries: Any) -> Any:
    return copied(entries, own_config)


def types_of(entries: Any) -> Any:
    """A dictionary by types, which may be given by their names, by the types themselves."""
    return {module_type(key): value for key, value in entries.items()} if isinstance(entries, dict) else entries


def by_type(configs: Any) -> Any:
    return types_of(own_dict(configs))


@define
class OptimizationConfig(Levels):
    """Which modules of a model are compressed by which configuration; None leaves a module alone.

    Args:
        global_config: For every supported module.
        module_type_configs: By the class of the module, or its name such as "Linear"; goes before `global_config`.
        module_name_configs: By the module's name in the model, or a regular expression that matches all of it; goes
            before both.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.palettization import ModulePostTrainingPalettizerConfig, PostTrainingPalettizerConfig
        >>> config = PostTrainingPalettizerConfig()
        >>> _ = config.set_module_name("head", ModulePostTrainingPalettizerConfig(n_bits=8))
        >>> config.module_name_configs["head"].n_bits
        8
    """

    _levels: ClassVar[tuple[str, ...]] = ("module_name_configs", "module_type_configs")
    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleOptimizationConfig
    # The fields of a module's configuration that coreai-opt knows by a name.
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Whether a configuration that names nothing means the defaults for everything.
    _global_by_default: ClassVar[bool] = False

    global_config: ModuleOptimizationConfig | None = field(default=None, converter=own_config, validator=check_level)
    module_type_configs: dict[ModuleType, Any] = field(factory=dict, converter=by_type, validator=check_level)
    module_name_configs: dict[str, Any] = field(factory=dict, converter=own_dict, validator=check_level)

    def __attrs_post_init__(self) -> None:
        if self._global_by_default and not (self.global_config or self.module_type_configs or self.module_name_configs):
            self.global_config = self._module_config()

    def set_global(self: O, global_config: ModuleOptimizationConfig | None) -> O:
        """Set the configuration for every module that has none of its own."""
        self.global_config = global_config
        return self

    def set_module_type(self: O, object_type: ModuleType, opt_config: ModuleOptimizationConfig | None) -> O:
        """Set the configuration for all modules of a class."""
        self.module_type_configs = self.module_type_configs | {object_type: opt_config}
        return self

    def set_module_name(self: O, module_name: str, opt_config: ModuleOptimizationConfig | None) -> O:
        """Set the configuration for the modules whose name matches."""
        self.module_name_configs = self.module_name_configs | {module_name: opt_config}
        return self

    def _check(self, level: str, key: Any, config: Any) -> None:
        if not isinstance(config, self._module_config):
            wanted = self._module_config.__name__
            raise ConfigError(f"{level} {key!r} of {type(self).__name__} must be a {wanted} or None, not {config!r}")

    def rule_of(self, scopes: Iterable[str], kinds: Iterable[Any]) -> Rule:
        """The entry that decides for what has these names, the nearest first, and these types."""
        for scope in scopes:
            for pattern in self.module_name_configs:
                if matches(pattern, scope):
                    return Rule("module_name_configs", pattern)
        return next((Rule("module_type_configs", kind) for kind in kinds if kind in self.module_type_configs), GLOBAL)

    def get_module_config(self, name: str, module: nn.Module) -> Any:
        """The configuration of a module, or None: leave it alone."""
        return self.held(self.rule_of((name,), (type(module), type(module).__name__)))

    @classmethod
    def from_dict(cls: type[O], config_dict: Mapping[str, Any]) -> O:
        """Build from a nested mapping, which stays unchanged.

        Each level maps to the arguments of a module's configuration, to such a configuration, or to None. Unknown keys
        and wrong values are a ConfigError that says where.
        """
        known = {attribute.name for attribute in attrs.fields(cls) if attribute.init}
        for key in as_mapping(config_dict, cls.__name__):
            if key not in known:
                raise fields.unknown_key(cls, key)
        return cls._from_levels(config_dict, cls._read)

    @classmethod
    def _read(cls, value: Any, rule: Rule) -> Any:
        """An entry from its arguments; what is no mapping stays, for the validators."""
        try:
            return cls._module_config.from_dict(value) if isinstance(value, Mapping) else value
        except ConfigError as error:
            raise ConfigError(f"{place_of(rule)}: {error}") from error

    @classmethod
    def from_yaml(cls: type[O], yml: str | Path | IO[str] | IO[bytes]) -> O:
        """Build from a YAML file, by its path or open; the structure is that of `from_dict`."""
        return cls.from_dict(fields.read_yaml(yml) or {})

    @classmethod
    def from_preset(cls: type[O], name: str, **changed: Any) -> O:
        """An addition: the configuration for every module that coreai-opt has as a preset of that name.

        Of the classes that quantize "w8", "w4" and "w4_per_block" (but for training), of those that palettize after
        training "w8", "w6" and "w4". `changed`: fields of a module's configuration that are to be other than there.
        """
        if name not in cls._presets:
            known = ", ".join(cls._presets) or "none"
            raise ConfigError(f"{cls.__name__} has no preset {name!r}; those that it has: {known}")
        return cls.from_dict({"global_config": {**cls._presets[name], **changed}})

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


def module_type(name: ModuleType) -> ModuleType:
    """What a string such as "Linear", "operator.add" or "torch.cat" names; itself if it names nothing known."""
    if not isinstance(name, str):
        return name
    owner, _, attribute = name.rpartition(".")
    places: dict[str, tuple[Any, ...]] = {"operator": (operator,), "torch": (torch,), "": (nn, nn.functional)}
    for place in places.get(owner, ()):
        if hasattr(place, attribute):
            found: ModuleType = getattr(place, attribute)
            return found
    return name


def type_name(kind: ModuleType) -> str:
    """What a class or a function is called, for messages."""
    return kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind))


def matches(pattern: str, name: str) -> bool:
    """Whether a regular expression of `module_name_configs` matches a whole name."""
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ConfigError(f"module_name_configs {pattern!r} is not a regular expression: {error}") from error


def place_of(rule: Rule) -> str:
    """Where a rule stands, for messages."""
    return rule.level if rule == GLOBAL else f"{rule.level} {rule.key!r}"


def __dir__() -> list[str]:
    return __all__
