"""What a recipe says of quantized activations beside which operations they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs

from corepress import fields
from corepress.coreml.activations.observers import AUTO, OBSERVERS
from corepress.errors import ConfigError

# The arguments of the configuration class that mean something for activations.
ARGUMENTS = ("mode", "dtype")
_OBSERVERS = (*OBSERVERS, AUTO)


def _goal(allowed: str, holds: Callable[[float], bool]) -> Any:
    return fields.real(None, allowed, holds)


@fields.suggesting
@attrs.frozen
class Activations:
    """How the activations of a step are quantized: the keys beside it.

    Args:
        exceptions: Names of operations that go on computing in floating point, or "auto": as few as a goal allows.
        min_snr: The goal of "auto": the least SNR of the outputs, in dB.
        min_cosine: The same as a cosine.
        observer: How ranges are found, as `linear_quantize_activations` takes it; None for "min_max", and with
            `exceptions: auto` for "auto".
        bias_correction: Whether biases take back what rounding shifts; None for no, and with `exceptions: auto` for if
            it helps.
        equalize: Whether factors of channels move between the weights, so that all channels make use of 8 bits, before
            the first step of the recipe; None for no, and with `exceptions: auto` for if it helps.
        held_back: The part of the samples that ranges do not come from, because exceptions are, or were, chosen by
            them; None for none, and with `exceptions: auto` for a fifth.
        function: Of a model with several functions, the one that the samples are for.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress import recipe
        >>> step = {"activations": {"mode": "linear"}, "exceptions": ["conv_1"], "observer": "output"}
        >>> recipe.parse({"steps": [step]}).steps[0].activations.exceptions
        ('conv_1',)
    """

    exceptions: tuple[str, ...] | Literal["auto"] = fields.value_of(
        (),
        'a list of names of operations, or "auto"',
        lambda v: v == AUTO or (isinstance(v, tuple) and all(isinstance(name, str) for name in v)),
    )
    min_snr: float | None = _goal("a finite number of dB", lambda v: True)
    min_cosine: float | None = _goal("a number from -1 to 1", lambda v: -1 <= v <= 1)
    observer: str | None = fields.value_of(
        None, f"one of {', '.join(_OBSERVERS)}", lambda v: v is None or v in _OBSERVERS
    )
    bias_correction: bool | None = fields.value_of(None, "true or false", lambda v: v is None or isinstance(v, bool))
    equalize: bool | Literal["auto"] | None = fields.value_of(
        None, 'true, false or "auto"', lambda v: v is None or isinstance(v, bool) or v == AUTO
    )
    held_back: float | None = fields.real(None, "a number from 0 to below 1", lambda v: 0 <= v < 1)
    function: str | None = fields.value_of(None, "the name of a function", lambda v: v is None or isinstance(v, str))

    def __attrs_post_init__(self) -> None:
        goals = [name for name in ("min_snr", "min_cosine") if getattr(self, name) is not None]
        if self.searches and len(goals) != 1:
            raise ConfigError("exceptions: auto takes one goal that the outputs must keep: min_snr or min_cosine")
        if not self.searches and goals:
            raise ConfigError(f"{goals[0]} has no effect without exceptions: auto, whose goal it is")
        if not self.searches and self.observer == AUTO:
            raise ConfigError("observer: auto needs exceptions: auto, which measures what is nearer; name another one")
        if not self.searches and self.equalize == AUTO:
            raise ConfigError("equalize: auto needs exceptions: auto, which measures what is nearer; say true or false")

    @property
    def searches(self) -> bool:
        """Whether the exceptions are to be found."""
        return self.exceptions == AUTO

    def keywords(self) -> dict[str, Any]:
        """As `linear_quantize_activations` takes them."""
        given = attrs.asdict(self, recurse=False)
        given["observer"] = self.observer or (AUTO if self.searches else "min_max")
        given["bias_correction"] = self.bias_correction if self.searches else bool(self.bias_correction)
        given["equalize"] = (AUTO if self.searches else False) if self.equalize is None else self.equalize
        return given


KEYS = tuple(field.name for field in attrs.fields(Activations))
