"""What quantization configurations are made of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from attrs import define, field

from corepress.errors import ConfigError
from corepress.fields import member, must_be, suggesting, value_of, whole
from corepress.torch import dtypes
from corepress.torch.optimization_config import ModuleOptimizationConfig, OptimizationConfig


class QuantizationScheme(Enum):
    """Whether the zero point is fixed in the middle of the range (symmetric), or anywhere in it (affine).

    Examples:
        >>> from corepress.torch.quantization import ModulePostTrainingQuantizerConfig, QuantizationScheme
        >>> config = ModulePostTrainingQuantizerConfig(quantization_scheme="affine")
        >>> config.quantization_scheme is QuantizationScheme.affine
        True
    """

    symmetric = "symmetric"
    affine = "affine"


QuantizationSchemeWord = QuantizationScheme | Literal["symmetric", "affine"]


class ObserverType(Enum):
    """How the ranges of the batches become one range: how fast the old one is forgotten. Its words do as well.

    Examples:
        >>> from corepress.torch.quantization import ModuleLinearQuantizerConfig, ObserverType
        >>> ModuleLinearQuantizerConfig(activation_observer="min_max").activation_observer is ObserverType.min_max
        True
    """

    moving_average_min_max = "moving_average_min_max"
    min_max = "min_max"
    ema_min_max = "ema_min_max"


ObserverWord = ObserverType | Literal["moving_average_min_max", "min_max", "ema_min_max"]


def _is_milestones(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 4 and all(whole(step, -1) for step in value))


def _words(value: Any) -> list[str]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"a list of names is needed, not {value!r}")
    return list(value)


_WEIGHT_TYPES = ("qint4", "quint4", "qint8", "quint8", "float32", torch.qint8, torch.quint8, torch.float32)
_ACTIVATION_TYPES = ("quint8", "float32", torch.quint8, torch.float32)


@suggesting
@define
class ModuleLinearQuantizerConfig(ModuleOptimizationConfig):
    """How a module is quantized while it is trained.

    Args:
        algorithm: "vanilla", scales from the observed ranges (Jacob et al. 2017, arXiv 1712.05877); or "learnable",
            scales that are trained from there on (LSQ, arXiv 1902.08153; LSQ+, arXiv 2004.09576).
        weight_dtype: "qint8", "quint8", "qint4" or "quint4", or a type of PyTorch; float32 leaves weights alone.
        weight_observer: An `ObserverType`, or its word.
        weight_per_channel: One scale for each output channel; otherwise one for the tensor.
        activation_dtype: "quint8"; float32 leaves activations alone.
        activation_observer: An `ObserverType`, or its word.
        quantization_scheme: "symmetric": the zero point is the middle of the range, but 0 for activations that can't be
            negative; or "affine": the zero point is where the range puts it.
        milestones: The steps at which observers are switched on, quantization is simulated, observers are switched off,
            and batch norms keep their statistics; -1 for never. None: the first two hold from the beginning, the others
            never.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.quantization import ModuleLinearQuantizerConfig
        >>> ModuleLinearQuantizerConfig(weight_dtype="qint4", activation_dtype="float32").milestones is None
        True
    """

    algorithm: Literal["vanilla", "learnable"] = field(
        default="vanilla", validator=must_be("vanilla or learnable", lambda v: v in ("vanilla", "learnable"))
    )
    weight_dtype: Any = torch.qint8
    weight_n_bits: int = field(init=False)
    weight_observer: ObserverWord = member(ObserverType, "moving_average_min_max")
    weight_per_channel: bool = value_of(True, "True or False", lambda v: isinstance(v, bool))
    activation_dtype: Any = torch.quint8
    activation_observer: ObserverWord = member(ObserverType, "moving_average_min_max")
    quantization_scheme: QuantizationSchemeWord = member(QuantizationScheme, "symmetric")
    milestones: list[int] | None = field(
        default=None, validator=must_be("a list of four steps, or None", _is_milestones)
    )

    def __attrs_post_init__(self) -> None:
        for name, known in (("weight_dtype", _WEIGHT_TYPES), ("activation_dtype", _ACTIVATION_TYPES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        self.weight_n_bits = dtypes.bits(self.weight_dtype)
        self.weight_dtype = dtypes.torch_type(self.weight_dtype)
        self.activation_dtype = dtypes.torch_type(self.activation_dtype)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> ModuleLinearQuantizerConfig:
        """Build from the names of fields and their values; the argument's name is coremltools'."""
        return cls._structured(config_dict)

    @property
    def quantizes_weights(self) -> bool:
        return self.weight_dtype is not torch.float32

    @property
    def quantizes_activations(self) -> bool:
        return self.activation_dtype is not torch.float32

    @property
    def is_symmetric(self) -> bool:
        return self.quantization_scheme is QuantizationScheme.symmetric


@suggesting
@define
class LinearQuantizerConfig(OptimizationConfig):
    """Which modules and functions are quantized, and how. The scheme and the algorithm must be the same in all.

    Args:
        global_config: A `ModuleLinearQuantizerConfig` for everything, or None; by default W8A8.
        module_type_configs: The same by class or function, such as "Linear", "torch.cat", "operator.add", or a method
            such as "add".
        module_name_configs: The same by the name of a module, which counts for all inside it that has none of its own;
            for functions that of the module that calls them.
        non_traceable_module_names: Modules that are not looked into, being beyond `torch.fx`; they stay as they are.
        preserved_attributes: Attributes and methods of the model that the prepared and the finalized model keep.

    Raises:
        ConfigError: For names and values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.quantization import LinearQuantizerConfig
        >>> config = LinearQuantizerConfig.from_dict({
        ...     "global_config": {"weight_dtype": "qint4", "milestones": [0, 100, 400, 300]},
        ...     "module_name_configs": {"head": None},
        ... })
        >>> config.global_config.milestones
        [0, 100, 400, 300]
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleLinearQuantizerConfig
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "w8": {"weight_dtype": "qint8", "activation_dtype": "float32"},
        "w4": {"weight_dtype": "qint4", "activation_dtype": "float32"},
    }
    _global_by_default: ClassVar[bool] = True

    non_traceable_module_names: list[str] = field(factory=list, converter=_words)
    preserved_attributes: list[str] = field(factory=list, converter=_words)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        for name in ("quantization_scheme", "algorithm"):
            if len({getattr(config, name) for config in self.configs()}) > 1:
                raise ConfigError(f"{name} must be the same in the configurations of all modules")

    @property
    def leading(self) -> ModuleLinearQuantizerConfig:
        """The one whose milestones count: the global one, or else the first that is set."""
        found: ModuleLinearQuantizerConfig = next(self.configs(), ModuleLinearQuantizerConfig())
        return found

    def config_of(self, scope: str, kinds: tuple[Any, ...]) -> ModuleLinearQuantizerConfig | None:
        """The configuration of a module, or of a call inside the module `scope`, by its name and then its kind."""
        found: ModuleLinearQuantizerConfig | None = self.held(self.rule_of(enclosing(scope), kinds))
        return found


def enclosing(scope: str) -> tuple[str, ...]:
    """The name of a module and those of the modules around it, inside out, but for the model itself."""
    parts = scope.split(".") if scope else []
    return tuple(".".join(parts[:count]) for count in range(len(parts), 0, -1))
