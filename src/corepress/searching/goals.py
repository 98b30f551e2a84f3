"""What a search is asked for: a size that must not be exceeded, or a quality that must be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from corepress.errors import ConfigError
from corepress.metrics import METRICS
from corepress.sizes import bytes_of

# The metrics that can be asked for by name, each with its value where nothing is lost.
PERFECT = {"kl": 0.0, "perplexity": 1.0, "top1": 1.0}


@dataclass(frozen=True)
class Goal:
    """One of `size` (bytes of the model), `bits` (stored bits for each element of its weights), or `least` (the value
    that the metric must not be below, or above if less of it is better); `drop`: of a metric of the caller's, how far
    it may fall instead."""

    size: int | None = None
    bits: float | None = None
    least: float | None = None
    drop: float | None = None
    metric: str = "snr"

    def meets(self, value: float) -> bool:
        """Whether a value of the metric is as good as it must be."""
        return self.least is None or meets(self.metric, value, self.least)

    @property
    def is_budget(self) -> bool:
        """Whether it limits the size, and not the quality."""
        return self.size is not None or self.bits is not None


def meets(metric: str, value: float, least: float) -> bool:
    """Whether a value of a metric, ours or the caller's, is as good as it must be; NaN never is."""
    return METRICS[metric].meets(value, least) if metric in METRICS else value >= least


def goal_of(
    max_size: int | str | None,
    bits: float | None,
    min_snr: float | None,
    min_cosine: float | None,
    max_drop: float | None,
    metric: str,
    has_metric: bool,
    *,
    ours: bool = False,
) -> Goal:
    """The goal among the arguments of a search; a ConfigError if there is none, several, or one that makes no sense.

    `metric`: the name of the metric, if there is one (`has_metric`), which then decides. `ours`: whether it is one of
    `PERFECT`, and none of the caller's.
    """
    given = {
        "max_size": max_size,
        "bits": bits,
        "min_snr": min_snr,
        "min_cosine": min_cosine,
        "max_drop": max_drop,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        many = f"; not {' and '.join(f'{name}=' for name in named)}" if named else ""
        raise ConfigError(f"give one goal: {', '.join(f'{name}=' for name in given)}{many}")
    if (max_drop is not None) and not has_metric:
        raise ConfigError('max_drop needs "metric": how much of it may be lost')
    name = metric if has_metric else "cosine" if min_cosine is not None else "snr"
    if max_size is not None:
        return Goal(size=bytes_of(max_size), metric=name)
    if bits is not None:
        return Goal(bits=_number("bits", bits, 0, 32), metric=name)
    if max_drop is not None and ours:
        drop = _number("max_drop", max_drop, 0, math.inf)
        return Goal(least=PERFECT[name] + (drop if METRICS[name].at_most else -drop), metric=name)
    if max_drop is not None:
        return Goal(drop=_number("max_drop", max_drop, 0, math.inf), metric=name)
    if has_metric:
        raise ConfigError(f"{named[0]} has no effect beside a metric of your own, which decides: give max_drop")
    if min_cosine is not None:
        return Goal(least=_number("min_cosine", min_cosine, -1, 1), metric=name)
    return Goal(least=_number("min_snr", min_snr, -math.inf, math.inf), metric=name)


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value!r} must be a number") from None
    if not math.isfinite(number) or not low <= number <= high:
        limits = "a finite number" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ConfigError(f"{name}={value!r} must be {limits}")
    return number
