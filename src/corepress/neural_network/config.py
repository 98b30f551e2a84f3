"""Configurations for neural networks: how many bits which weight gets, by type of layer and by name.

Recipes read them, and `compress_weights` does what they say. (`quantize_weights`, whose interface is coremltools', has
one number of bits for all.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from attrs import define, field

from corepress.configuration import GLOBAL, Item, Known, Levels, Rule, check_level, without_effect
from corepress.errors import ConfigError
from corepress.fields import choice, must_be, plain, suggesting, whole
from corepress.formats.neural_network.layers import LayerWeight
from corepress.names import NETWORK_MODES

HALF = 16


def _bits(default: int, *more: int) -> Any:
    allowed = "1 to 8" + "".join(f" or {bits}" for bits in more)
    return field(
        default=default,
        converter=plain,
        validator=must_be(allowed, lambda bits: whole(bits, 1) and (bits <= 8 or bits in more)),
    )


@suggesting
@define
class NetworkPaletteConfig:
    """A look-up table for a weight of a neural network.

    Args:
        nbits: Of an index, 1 to 8.
        mode: "kmeans", the table of the least squared error, or "uniform", even steps.

    Raises:
        ConfigError: For values that are unknown.

    Examples:
        >>> from corepress.neural_network.config import NetworkPaletteConfig
        >>> NetworkPaletteConfig(nbits=5).asked()
        (5, 'kmeans')
    """

    nbits: int = _bits(4)
    mode: str = choice("KMEANS", "UNIFORM")

    def asked(self) -> tuple[int, str]:
        """The number of bits and the mode, as `quantize_weights` has them."""
        return self.nbits, NETWORK_MODES[self.mode.lower()]


@suggesting
@define
class NetworkLinearConfig:
    """Even steps for a weight of a neural network, with a scale and a bias for each output channel.

    Args:
        nbits: 1 to 8 (2 or more with "linear_symmetric"), or 16: float16, without steps.
        mode: "linear_symmetric", from -max|w| to max|w|, or "linear", from the least to the greatest value.

    Raises:
        ConfigError: For values that are unknown.

    Examples:
        >>> from corepress.neural_network.config import NetworkLinearConfig
        >>> NetworkLinearConfig(nbits=6, mode="linear").asked()
        (6, 'linear')
    """

    nbits: int = _bits(8, HALF)
    mode: str = choice("LINEAR_SYMMETRIC", "LINEAR")

    def __attrs_post_init__(self) -> None:
        if self.nbits == 1 and self.mode == "LINEAR_SYMMETRIC":
            raise ConfigError('"linear_symmetric" needs 2 bits or more')

    def asked(self) -> tuple[int, str]:
        """The number of bits and the mode, as `quantize_weights` has them."""
        return self.nbits, self.mode.lower()


@define
class NetworkConfig(Levels):
    """Which weights of neural networks are compressed, and how; None leaves weights alone.

    Args:
        global_config: A `NetworkPaletteConfig` or `NetworkLinearConfig` for all.
        layer_type_configs: The same by the type of the layer, such as "innerProduct".
        name_configs: The same by the name of the layer or the weight, or a pattern with `*` and `?`.

    Examples:
        >>> from corepress.neural_network.config import NetworkConfig, NetworkPaletteConfig
        >>> config = NetworkConfig(NetworkPaletteConfig(nbits=4), {}, {"last": None})
        >>> config.config_for(cto.neural_network.load("net.mlmodel").weights()[0]).nbits
        4
    """

    _levels: ClassVar[tuple[str, ...]] = ("layer_type_configs", "name_configs")

    global_config: NetworkPaletteConfig | NetworkLinearConfig | None = field(default=None, validator=check_level)
    layer_type_configs: dict[str, Any] = field(factory=dict, validator=check_level)
    name_configs: dict[str, Any] = field(factory=dict, validator=check_level)

    def _check(self, level: str, key: Any, config: Any) -> None:
        if not isinstance(config, NetworkPaletteConfig | NetworkLinearConfig):
            raise ConfigError(f"{level} {key!r} must be a configuration for neural networks or None, not {config!r}")

    def config_for(self, weight: LayerWeight) -> NetworkPaletteConfig | NetworkLinearConfig | None:
        """The configuration of a weight, or None: leave it alone."""
        found: NetworkPaletteConfig | NetworkLinearConfig | None = self.held(self.rule_for(weight))
        return found

    def rule_for(self, weight: LayerWeight) -> Rule:
        """The entry that decides: the weight's name, that of its layer, a pattern, a type, the first that there is."""
        by_name = [Rule("name_configs", key) for key in self.name_configs]
        exact = [Rule("name_configs", name) for name in names_of(weight) if name in self.name_configs]
        fitting = [rule for rule in by_name if matches(rule, weight)]
        by_type = [Rule("layer_type_configs", key) for key in self.layer_type_configs if key == weight.layer_type]
        return next(iter((*exact, *fitting, *by_type)), GLOBAL)


def asks(config: NetworkConfig, weights: Iterable[LayerWeight]) -> bool:
    """Whether a configuration asks for any of these weights to be compressed, be it possible or not."""
    return any(config.config_for(weight) is not None for weight in weights)


def names_of(weight: LayerWeight) -> tuple[str, str]:
    """What a rule can call a weight: its own name, and that of its layer."""
    return weight.name, weight.name.rpartition(".")[0]


def matches(rule: Rule, weight: LayerWeight) -> bool:
    """Whether a rule would decide about a weight if no other did."""
    if rule.level == "layer_type_configs":
        return bool(rule.key == weight.layer_type)
    return any(name == rule.key or fnmatchcase(name, rule.key) for name in names_of(weight))


def idle(config: NetworkConfig, weights: list[LayerWeight], words: Callable[[Rule], tuple[str, str]]) -> Iterator[str]:
    """A sentence for each rule that changes nothing for these weights. `words`: what it is called where it stands."""

    def names(rule: Rule) -> list[str]:
        return [weight.layer_type if rule.level == "layer_type_configs" else weight.name for weight in weights]

    items = [
        Item(weight.name, [config.rule_for(weight)], lambda rule, weight=weight: matches(rule, weight), str)  # type: ignore[misc]
        for weight in weights
    ]
    known = Known(lambda _: False, names, lambda _: "")
    return without_effect(config, items, known, words)
