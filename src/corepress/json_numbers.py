"""Numbers in JSON: it has neither infinity nor NaN, so these become the words "inf", "-inf" and "nan", everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Mappings, lists, tuples, text and numbers as JSON can hold them; None stays, for what was not measured."""
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(held) for held in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value
