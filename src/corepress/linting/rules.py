"""All rules, and those that apply to one weight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from corepress.formats.mlprogram import Consumer
from corepress.linting.constants import RULES as CONSTANT_RULES
from corepress.linting.core_ai import PROGRAMS, WEIGHTS
from corepress.linting.programs import RULES as PROGRAM_RULES
from corepress.linting.rule import SEVERITIES, Rule
from corepress.linting.weights import DEQUANTIZED, Place, applying
from corepress.linting.weights import RULES as WEIGHT_RULES
from corepress.targets import target as named
from corepress.weights import CompressedWeight

RULES: tuple[Rule, ...] = tuple(
    sorted(
        dict.fromkeys([*WEIGHT_RULES, *PROGRAM_RULES, *CONSTANT_RULES, DEQUANTIZED, *WEIGHTS, *PROGRAMS]),
        key=lambda rule: SEVERITIES.index(rule.severity),
    )
)
"""All rules, those of wrong answers first."""


def of_form(
    value: NDArray[Any] | CompressedWeight, consumers: Iterable[Consumer] = (), target: Any = "iOS18"
) -> list[Rule]:
    """Find the rules that apply to one weight in some form.

    Args:
        value: The weight. Only its form counts, not its numbers; to a dense array no rule applies.
        consumers: The operations that read it, as `Weight.consumers` has them.
        target: The system that the model is made for, and the oldest on which it will run, as
            `corepress.targets.target` takes it.

    Returns:
        The rules, those of wrong answers first.

    Examples:
        >>> from corepress.linting import of_form
        >>> weight = cto.load("small.mlpackage").weights()[2]
        >>> [rule.id for rule in of_form(weight.read(), weight.consumers, "iOS16")]
        ['lut4-per-tensor', 'ahead-of-time']
    """
    made_for = named(target)
    return [rule for rule, _ in applying(value, Place(tuple(consumers), made_for, made_for))]
