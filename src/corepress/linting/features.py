"""What rules ask of the inputs of a model of any kind."""

from __future__ import annotations

from collections.abc import Iterator

from corepress.formats.features import Interface


def ranges(interface: Interface) -> Iterator[tuple[str, str]]:
    """The inputs whose size may be any within a range, each with that range."""
    for feature in interface.inputs:
        if any(low != high for low, high in feature.ranges):
            yield feature.name, f"a size of {feature.describe()}"


def enumerated(interface: Interface) -> Iterator[tuple[str, str]]:
    """The inputs that have a list of shapes, where they are several, each with the length of its list."""
    found = [feature for feature in interface.inputs if len(set(feature.shapes)) > 1]
    if len(found) > 1:
        yield from ((feature.name, f"{len(set(feature.shapes))} shapes") for feature in found)
