"""A command's settings as a recipe, by which `corepress compress` does the same again."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig


class Beside(NamedTuple):
    """Activations that are quantized beside weights: the configuration, further keys, and whether it is first."""

    config: OptimizationConfig
    keys: Mapping[str, Any]
    first: bool


def recipe_of(
    kind: str,
    config: OptimizationConfig,
    target: str | None,
    method: str | None,
    beside: Beside | None = None,
    augment: int | None = None,
    refine: str | None = None,
) -> str:
    """The text of the recipe of a step on weights, of one on activations if there is one, and of a refinement at last;
    empty where no recipe can say the same, as of values that are functions.

    What it says is read back and compared, so that a recipe that is shown is one that does the same.
    """
    import yaml

    from corepress import recipe
    from corepress.refining.options import at_last
    from corepress.searching.recipes import as_yaml

    learning = {key: value for key, value in {"method": method, "augment": augment}.items() if value}
    steps: list[dict[str, Any]] = [_step(kind, config, learning)]
    configs: list[OptimizationConfig | None] = [config]
    if beside is not None:
        place = 0 if beside.first else 1
        steps.insert(place, _step("activations", beside.config, beside.keys))
        configs.insert(place, beside.config)
    if refine is not None:
        steps.append(at_last(refine).step())
        configs.append(None)
    content = {**({"target": target} if target else {}), "steps": steps}
    try:
        text = as_yaml(content)
        return text if [step.config for step in recipe.parse(yaml.safe_load(text)).steps] == configs else ""
    except (ConfigError, yaml.YAMLError):
        return ""


def and_refine(recipe: str, refine: str | None, function: str | None) -> str:
    """The text of a recipe with a refinement at its end, if one was asked for. `function`: that samples are for."""
    if refine is None:
        return recipe
    import yaml

    from corepress.refining.options import at_last
    from corepress.searching.recipes import as_yaml

    content = yaml.safe_load(recipe)
    return as_yaml({**content, "steps": [*content["steps"], at_last(refine, function).step()]})


def _step(kind: str, config: OptimizationConfig, keys: Mapping[str, Any]) -> dict[str, Any]:
    """A step as YAML has it: its verb, by type and by name what differs, and further keys."""
    levels = {"ops": config.op_type_configs, "names": config.op_name_configs}
    whole = _arguments(config.global_config, {})
    step: dict[str, Any] = {kind: whole}
    for level, configs in levels.items():
        base = whole if isinstance(whole, Mapping) else {}
        if configs:
            step[level] = {name: _arguments(held, base) for name, held in configs.items()}
    return {**step, **keys}


def _arguments(config: Any, base: Mapping[str, Any]) -> dict[str, Any] | str:
    """The settings that are not the default, or that differ from those of the step: these would be inherited."""
    import attrs

    if config is None:
        return "skip"
    found = {}
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if value != field.default or field.name in base:
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """A setting as YAML has it."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, str):
        return value.lower()  # modes may be written in capitals
    return list(value) if isinstance(value, tuple) else value
