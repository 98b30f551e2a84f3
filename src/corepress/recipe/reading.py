"""Makes a recipe of its YAML, and says which step or key of it is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from corepress import targets
from corepress.configuration import Levels
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.methods import METHODS
from corepress.coreml.op_configs import WITH_NBITS, OpActivationLinearQuantizerConfig, OpThresholdPrunerConfig
from corepress.errors import ConfigError
from corepress.fields import read, read_yaml, suggestion
from corepress.names import API, SHORT
from corepress.neural_network.config import NetworkConfig, NetworkLinearConfig, NetworkPaletteConfig
from corepress.recipe.activations import ARGUMENTS, KEYS, Activations
from corepress.recipe.steps import KINDS, LEVELS, AnyConfig, Kind, Recipe, Step
from corepress.refining.options import Refining

# The three ways to prune exclude each other: who asks for one does not inherit the arguments of another.
_WAYS = {
    "n_m_ratio": "n:m",
    "target_sparsity": "magnitude",
    "block_size": "magnitude",
    "threshold": "threshold",
    "minimum_sparsity_percentile": "threshold",
}
# What belongs to one granularity is not inherited by another.
_OF_GRANULARITY = ("group_size", "channel_axis", "smaller_group", "block_size", "smaller_block")
# What of a pattern stands for itself: a wildcard in brackets, and all up to the first, or behind the last, wildcard.
_ESCAPED = re.compile(r"\[([*?[])]")
_BEGINNING = re.compile(r"(?:\[[*?[]]|[^*?[])*")
_END = re.compile(r"(?:\[[*?[]]|[^]*?[])*\Z")


class _Face(NamedTuple):
    """What a kind of models has: the classes of its configurations, by the verb of a step, the usual one first; and the
    class that says which weight gets which."""

    kinds: Mapping[str, tuple[type[Any], ...]]
    whole: type[Levels]


_PACKAGES = _Face(
    {verb: method.kinds for verb, method in METHODS.items()} | {"activations": (OpActivationLinearQuantizerConfig,)},
    OptimizationConfig,
)
_NETWORKS = _Face({"palettize": (NetworkPaletteConfig,), "quantize": (NetworkLinearConfig,)}, NetworkConfig)


def load(path: str | Path, *, networks: bool = False) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: The file.
        networks: Whether it is for neural networks, the models of iOS 15 and older.

    Returns:
        The recipe.

    Raises:
        ConfigError: The message says which line, step or key is wrong.

    Examples:
        >>> from pathlib import Path
        >>> from corepress import recipe
        >>> _ = Path("recipe.yaml").write_text("steps: [{prune: {target_sparsity: 0.5}}, {palettize: {nbits: 4}}]")
        >>> [step.kind for step in recipe.load("recipe.yaml").steps]
        ['prune', 'palettize']
    """
    return parse(read_yaml(path), str(path), networks=networks)


def parse(content: Any, where: str = "recipe", *, networks: bool = False) -> Recipe:
    """Make a recipe of what its YAML holds.

    Args:
        content: Nested dictionaries and lists, which stay unchanged.
        where: What errors begin with.
        networks: Whether the recipe is for neural networks, the models of iOS 15 and older.

    Returns:
        The recipe.

    Raises:
        ConfigError: The message says which step or key is wrong.

    Examples:
        >>> from corepress import recipe
        >>> step = {"palettize": {"nbits": 4}, "names": {"head*": "skip"}}
        >>> steps = recipe.parse({"target": "iOS18", "steps": [step]})
        >>> steps.target
        'iOS18'
    """
    recipe = _mapping(content, where, ("target", "steps"))
    name, given = recipe.get("target"), recipe.get("steps")
    with _naming(where):
        target = None if name is None else targets.target(name)
        if networks and target is not None:
            raise ConfigError("target is for ML programs; a neural network gets the version that its weights need")
    if not isinstance(given, list):
        raise ConfigError(f"{where}: steps must be a list of steps, such as - palettize: {{nbits: 4}}.")
    steps: list[Step] = []
    before: list[AnyConfig] = []  # of the steps on weights since these were dense
    for number, entry in enumerate(given, 1):
        step = _step(entry, f"{where}: step {number}", target, _NETWORKS if networks else _PACKAGES)
        joint = step.config is not None and any(_may_meet(step.config, other) for other in before)
        steps.append(replace(step, joint=joint and step.activations is None))
        if step.kind == "decompress":
            before = []  # what it decompressed is dense again, so the next one starts afresh
        elif step.config is not None and step.activations is None:
            before.append(step.config)
    return Recipe(None if target is None else target.name, tuple(steps), networks)


def _may_meet(one: AnyConfig, other: AnyConfig) -> bool:
    """Whether two steps may compress the same weight: not if both name their weights, and none of them twice."""
    if not (isinstance(one, OptimizationConfig) and isinstance(other, OptimizationConfig)):
        return True
    if any(config.global_config or config.op_type_configs for config in (one, other)):
        return True
    names, others = ({name for name, held in c.op_name_configs.items() if held is not None} for c in (one, other))
    return any(_may_match_one_name(a, b) for a in names for b in others)


def _may_match_one_name(pattern: str, other: str) -> bool:
    """Whether a name may match both. Of two patterns with wildcards only how their names begin and end can deny it."""
    for one, two in ((pattern, other), (other, pattern)):
        if _BEGINNING.fullmatch(one):  # no wildcard
            return fnmatchcase(_ESCAPED.sub(r"\1", one), two)
    starts, ends = (
        [_ESCAPED.sub(r"\1", found.findall(one)[0]) for one in (pattern, other)] for found in (_BEGINNING, _END)
    )
    short_start, short_end = min(starts, key=len), min(ends, key=len)
    return all(start.startswith(short_start) for start in starts) and all(end.endswith(short_end) for end in ends)


def _step(entry: Any, where: str, target: targets.Target | None, face: _Face) -> Step:
    known = (*KINDS, "ops", "names", "method", "augment", *KEYS)
    step = _mapping({entry: None} if isinstance(entry, str) else entry, where, known)
    kinds = [kind for kind in KINDS if kind in step]
    if len(kinds) != 1:
        raise ConfigError(f"{where} must have one of {', '.join(KINDS)}. Got {', '.join(kinds) or 'none'}.")
    kind = kinds[0]
    where = f"{where} ({kind})"
    if kind == "decompress":
        if step[kind] or len(step) > 1:
            raise ConfigError(f"{where} takes no arguments: it makes every weight dense.")
        return Step(kind, None, joint=False)
    if kind == "refine":
        return _refinement(step, where, face)
    if kind == "rotate":
        return _rotation(step, where, face)
    if kind not in face.kinds:
        lacking = "quantized activations" if kind == "activations" else "such weights"
        raise ConfigError(f"{where}: neural networks have no {lacking}. Known are: {', '.join(face.kinds)}.")
    method = _method(kind, step.get("method"), where, face)
    settings = _settings(kind, method, {key: step[key] for key in KEYS if key in step}, where)
    config = _config(kind, step, where, face)
    if kind == "activations" and any(held.nbits != 8 for held in config.configs()):
        raise ConfigError(f"{where}: activations can be int8 or uint8 only: set dtype accordingly.")
    if target is not None:
        for held in config.configs():
            with _naming(where):
                targets.require(held.features() if settings is None else ["activation quantization"], target)
    augment = _augment(step.get("augment"), method, where)
    function = step.get("function")
    return Step(kind, config, False, method=method, activations=settings, function=function, augment=augment)


def _augment(given: Any, method: str | None, where: str) -> int:
    if given is None:
        return 0
    if method is None:
        raise ConfigError(f"{where}: augment makes samples to learn from: give a method, or leave it out.")
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ConfigError(f"{where}: augment must be a number of samples, 1 at least. Got {given!r}.")
    return given


def _refinement(step: Mapping[str, Any], where: str, face: _Face) -> Step:
    if face is _NETWORKS:
        raise ConfigError(f"{where}: the weights of neural networks do not learn from samples.")
    if len(step) > 1:
        raise ConfigError(
            f"{where} takes its settings only: {', '.join(field.name for field in attrs.fields(Refining))}."
        )
    settings = read(step["refine"] or {}, Refining, where)
    return Step("refine", None, joint=False, function=settings.function, refining=settings)


def _rotation(step: Mapping[str, Any], where: str, face: _Face) -> Step:
    if face is _NETWORKS:
        raise ConfigError(f"{where}: the weights of neural networks are not rotated.")
    if len(step) > 1:
        raise ConfigError(f"{where} takes a seed only.")
    seed = _mapping(step["rotate"] or {}, where, ("seed",)).get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"{where}: seed must be a number, 0 at least. Got {seed!r}.")
    return Step("rotate", None, joint=False, seed=seed)


def _method(kind: Kind, method: Any, where: str, face: _Face) -> str | None:
    if method is None:
        return None
    if face is _NETWORKS:
        raise ConfigError(f"{where}: method: the weights of neural networks are not fitted to data.")
    if kind not in METHODS:
        raise ConfigError(f"{where}: method is for steps on weights: this one always learns from samples.")
    if method not in tuple(METHODS[kind].fitted):
        raise ConfigError(f"{where}: method must be {' or '.join(METHODS[kind].fitted)}. Got {method!r}.")
    return str(method)


def _settings(kind: Kind, method: str | None, given: Mapping[str, Any], where: str) -> Activations | None:
    """What a step on activations says beside its configuration; of others, only a fitted one may name its function."""
    for key in given if kind != "activations" else ():
        if key != "function":
            raise ConfigError(f"{where}: {key} is for the step activations.")
        if method is None:
            raise ConfigError(
                f"{where}: function is for steps that learn from samples: give a method, or leave it out."
            )
    settings = read(given, Activations, where)
    return settings if kind == "activations" else None


def _config(kind: Kind, step: Mapping[str, Any], where: str, face: _Face) -> Any:
    defaults = _arguments(kind, face, step[kind], where)
    levels: dict[str, dict[str, Any]] = {level: {} for level in LEVELS.values()}
    for level, configs in levels.items():
        given = step.get(level)
        for name, override in ({} if given is None else _mapping(given, f"{where}, {level}")).items():
            place = f'{where}, {level} "{name}"'
            changed = _arguments(kind, face, override, place)
            merged = None if changed is None else _merge(kind, defaults or {}, changed)
            configs[str(name)] = _op_config(face.kinds[kind], merged, place)
    whole = _op_config(face.kinds[kind], defaults, where)
    with _naming(where):
        make: Any = face.whole
        return make(whole, levels["ops"], levels["names"])


def _arguments(kind: Kind, face: _Face, given: Any, where: str) -> dict[str, Any] | None:
    if given is None or given == "skip":
        return None
    known = {field.name: None for cls in face.kinds[kind] for field in attrs.fields(cls)}
    if kind == "activations":
        known = dict.fromkeys(ARGUMENTS)
    short = {word: name for word, name in API.items() if name in known}
    arguments: dict[str, Any] = {}
    for key, value in _mapping(given, where, known, short).items():
        name = short.get(key, key)
        if name in arguments:
            raise ConfigError(f"{where}: {name} and {SHORT[name]} are two names of one setting. Leave one of them out.")
        arguments[name] = value
    return arguments


def _merge(kind: Kind, defaults: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a step as an override changes them, without those that its change rules out."""
    inherited = defaults
    ways = {_WAYS[key] for key in changed if key in _WAYS}
    if ways and not ways & {_WAYS[key] for key in defaults if key in _WAYS}:
        inherited = {key: value for key, value in defaults.items() if key not in _WAYS and key != "dim"}
    if changed.get("granularity", defaults.get("granularity")) != defaults.get("granularity"):
        inherited = {key: value for key, value in inherited.items() if key not in _OF_GRANULARITY}
    if "mode" in changed and str(changed["mode"]).lower() not in WITH_NBITS:
        inherited = {key: value for key, value in inherited.items() if key != "nbits"}
    return {**inherited, **changed}


def _op_config(kinds: Sequence[type[Any]], arguments: dict[str, Any] | None, where: str) -> Any:
    if arguments is None:
        return None
    cls = kinds[0]
    if any(_WAYS.get(key) == "threshold" for key in arguments):
        cls = OpThresholdPrunerConfig
    return read(arguments, cls, where)


def _mapping(
    value: Any, where: str, known: Collection[str] | None = None, short: Collection[str] = ()
) -> Mapping[str, Any]:
    """The value, if it is a mapping and has no key beside the known ones and their short names."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values. Got {value!r}.")
    for key in value:
        if known is not None and key not in known and key not in short:
            raise ConfigError(f"{where}: unknown key {key!r}. {suggestion(key, known)}")
    return value


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Begin the ConfigErrors from inside with `where`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
