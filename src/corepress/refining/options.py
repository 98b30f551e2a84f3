"""How a refinement is asked for as a part of something else: as a step of a recipe, or as the last one of a command.

Nothing here needs PyTorch.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

from corepress import fields
from corepress.durations import seconds_of
from corepress.errors import ConfigError


def _is_time(value: Any) -> bool:
    if value is not None:
        seconds_of(value)  # says itself what it may be
    return True


@fields.suggesting
@attrs.frozen
class Refining:
    """How what is stored learns from samples: the arguments of the step `refine`, as `corepress.refine` takes them.

    Args:
        steps: So many steps; None for 400, or what `time` allows.
        time: When it ends, such as "10m".
        batch: Samples in a step.
        augment: Whether it learns from new samples, too.
        seed: Of all chance.
        function: Of a model with several functions, the one that the samples are for.

    Raises:
        ConfigError: For values that make no sense.

    Examples:
        >>> from corepress import recipe
        >>> recipe.parse({"steps": [{"refine": {"time": "10m"}}]}).steps[0].refining.time
        '10m'
    """

    steps: int | None = fields.value_of(None, "a whole number above 0", lambda v: v is None or _counts(v))
    time: float | str | None = fields.value_of(None, 'a time such as "10m"', _is_time)
    batch: int = fields.value_of(16, "a whole number above 0", lambda v: _counts(v))
    augment: bool = fields.value_of(True, "true or false", lambda v: isinstance(v, bool))
    seed: int = fields.value_of(
        0, "a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0
    )
    function: str | None = fields.value_of(None, "the name of a function", lambda v: v is None or isinstance(v, str))

    def keywords(self) -> dict[str, Any]:
        """As `corepress.refine` takes them."""
        return attrs.asdict(self)

    def step(self) -> dict[str, Any]:
        """The step of a recipe that says the same."""
        fields = attrs.fields(Refining)
        given = {field.name: getattr(self, field.name) for field in fields}
        return {"refine": {field.name: given[field.name] for field in fields if given[field.name] != field.default}}


def at_last(given: int | str, function: str | None = None) -> Refining:
    """What `refine=` of other functions asks for.

    Args:
        given: So many steps, or a time with its unit, such as "10m".
        function: Of a model with several functions, the one that the samples are for.

    Raises:
        ConfigError: For anything else.
    """
    if re.fullmatch(r"[0-9]+", str(given)) and not isinstance(given, bool) and int(given):
        return Refining(steps=int(given), function=function)
    if isinstance(given, str) and given.strip()[-1:].isalpha():
        try:
            return Refining(time=given, function=function)
        except ConfigError:
            pass
    raise ConfigError(f'refine={given!r}: it must be a number of steps, such as 400, or a time, such as "10m"')


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
