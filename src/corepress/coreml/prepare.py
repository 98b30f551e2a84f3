"""What all compressing functions do before they look at a weight."""

from __future__ import annotations

from typing import Any

from corepress.coreml.config import OptimizationConfig
from corepress.coreml.opset import oldest_target, reach
from corepress.formats.mlprogram import Model
from corepress.targets import require


def prepared(model: Model, config: OptimizationConfig, joint: bool, target: Any) -> Model:
    """A copy of the model on a target that can hold compressed weights, and all that `config` asks for.

    A model older than iOS16 is raised to iOS16, where compressed weights begin, with a warning; further by `target`.
    Raises ConfigError, before any work is done, for what the target can't hold.
    """
    result = model.copy()
    reach(result, "iOS16", "compressed weights", target)
    reached = oldest_target(result)
    for op_config in config.configs():
        require(op_config.features(), reached)
    if joint:
        require(["joint compression"], reached)
    return result


def largest_divisor(total: int, limit: int, multiple_of: int = 1) -> int:
    """The largest size not above `limit` that divides `total` and is a multiple of `multiple_of`; `limit` if none."""
    sizes = range(limit - limit % multiple_of, 0, -multiple_of)
    return next((size for size in sizes if total % size == 0), limit)
