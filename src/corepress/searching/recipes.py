"""The recipe of a choice: the steps by which `corepress compress --recipe` makes the same model."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from corepress.formats.atomic import Kind, replacing
from corepress.searching.subject import Choice, Item

RECIPE = Kind("a recipe", ".yaml", False, lambda path: path.is_file() and path.suffix.lower() in (".yaml", ".yml"))
# The order in which a recipe needs them: what is pruned can be palettized or quantized after, not before.
_ORDER = ("prune", "palettize", "quantize")


def recipe_of(
    items: Sequence[Item], choice: Choice, target: str | None, methods: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the YAML of a recipe holds. `methods`: for a verb, the method that learns from samples.

    Weights that stay dense are in none of its steps.
    """
    steps: list[dict[str, Any]] = []
    for verb in _ORDER:
        names: dict[str, Any] = {}
        for item, chosen in zip(items, choice, strict=True):
            for kind, arguments in item.candidates[chosen].steps:
                if kind == verb:
                    names |= {name: dict(arguments) for name in item.names}
        if names:
            method = (methods or {}).get(verb)
            steps.append({verb: "skip", "names": names, **({"method": method} if method else {})})
    return {**({"target": target} if target and steps else {}), "steps": steps}


def pattern_of(name: str, names: Iterable[str]) -> str:
    """What stands for a name alone in a recipe, where names are patterns: the name itself, unless it matches others,
    with its brackets."""
    return glob.escape(name) if any(other != name and fnmatchcase(other, name) for other in names) else name


def as_yaml(recipe: Mapping[str, Any]) -> str:
    """The text of a recipe."""
    import yaml

    return str(yaml.safe_dump(dict(recipe), sort_keys=False, width=120, default_flow_style=None, allow_unicode=True))


def write(recipe: Mapping[str, Any], path: Path, *, overwrite: bool | None = None, comment: str = "") -> None:
    """Write a recipe as YAML, whole or not at all; `comment` stands at its head."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    with replacing(path, RECIPE, overwrite=overwrite) as partial:
        partial.write_text(lines + as_yaml(recipe), encoding="utf-8")
