"""What each version of Apple's systems can hold: one table, which checks, messages, docs and CLI all read.

The sources are the operation sets of coremltools 9.0 and the page "What's New" of its guide to optimization.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from corepress.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from corepress.weights import CompressedWeight, Quantized


@dataclass(frozen=True)
class Target:
    """A deployment target: the oldest system that a model is made for, and the compression it can hold.

    Args:
        name: Such as "iOS18".
        spec_version: Of the files that are made for it: 6 for iOS15 to 10 for iOS26.
        opset: The name of its set of operations, such as "CoreML8".
        aliases: Other systems of that year, such as "macOS15".
        constexpr: Where its operations keep the parameters of compressed weights: "attributes", "inputs", or "none".
        palettized_bits: Widths of an index that it can hold.
        palettized_granularities: What may share a look-up table: "per_tensor", "per_grouped_channel".
        lut_dtypes: Types of a table's entries.
        vector_lut: Whether entries may be vectors.
        per_channel_scale: Whether each channel of a palettized weight may have a scale.
        quantized_dtypes: Types of stored integers.
        quantized_granularities: What may share a scale: "per_tensor", "per_channel", "per_block".
        float_offset: Whether offsets of quantization need not be integers.
        exponent_scales: Whether scales of quantization may be powers of two that take 8 bits each (E8M0).
        sparse: Whether zeros need not be stored.
        joint: Whether the other values of a sparse weight may be palettized or quantized.
        activation_quantization: Whether activations may be int8.
        decompression: When weights are decompressed, in words.
        core_ai: Whether it is that of Core AI models (`.aimodel`), and of no package.

    Examples:
        >>> system = cto.targets.target("iOS16")
        >>> system.spec_version, system.palettized_bits
        (7, (1, 2, 4, 6, 8))
    """

    name: str
    spec_version: int
    opset: str
    aliases: tuple[str, ...]
    constexpr: Literal["none", "attributes", "inputs"] = "none"
    """Where the `constexpr_*` operations keep their parameters."""
    palettized_bits: tuple[int, ...] = ()
    palettized_granularities: tuple[str, ...] = ()
    lut_dtypes: tuple[str, ...] = ()
    vector_lut: bool = False
    per_channel_scale: bool = False
    """A scale for every channel of a palettized weight."""
    quantized_dtypes: tuple[str, ...] = ()
    quantized_granularities: tuple[str, ...] = ()
    float_offset: bool = False
    """Offsets of quantization need not be integers."""
    exponent_scales: bool = False
    sparse: bool = False
    joint: bool = False
    """The non-zero values of a sparse weight can be palettized or quantized."""
    activation_quantization: bool = False
    decompression: str = "-"
    core_ai: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def generation(self) -> int:
        """Of its operations for compressed weights: 1, with parameters as attributes, or 2, with these as inputs."""
        return 2 if self.constexpr == "inputs" else 1

    @property
    def features(self) -> frozenset[str]:
        """All that this target can hold, in the words that `requirements` and error messages use."""
        flags = {
            "vector palettization": self.vector_lut,
            "per_channel_scale palettization": self.per_channel_scale,
            "float-offset quantization": self.float_offset,
            "E8M0-scale quantization": self.exponent_scales,
            "pruning": self.sparse,
            "joint compression": self.joint,
            "activation quantization": self.activation_quantization,
        }
        return frozenset(
            [
                *(f"{bits}-bit palettization" for bits in self.palettized_bits),
                *(f"{granularity} palettization" for granularity in self.palettized_granularities),
                *(f"{dtype}-LUT palettization" for dtype in self.lut_dtypes),
                *(f"{_numbers(dtype)} quantization" for dtype in self.quantized_dtypes),
                *(f"{granularity} quantization" for granularity in self.quantized_granularities),
                *(feature for feature, held in flags.items() if held),
            ]
        )


def _numbers(dtype: str) -> str:
    """What a feature calls numbers of a type: signed or not, integers of as many bits are alike."""
    return f"{dtype.removeprefix('u')[3:]}-bit" if "int" in dtype else dtype.replace("float", "fp")


_IOS15 = Target("iOS15", 6, "CoreML5", ("macOS12", "watchOS8", "tvOS15"))
_IOS16 = Target(
    "iOS16",
    7,
    "CoreML6",
    ("macOS13", "watchOS9", "tvOS16"),
    constexpr="attributes",
    palettized_bits=(1, 2, 4, 6, 8),
    palettized_granularities=("per_tensor",),
    lut_dtypes=("float16", "float32"),
    quantized_dtypes=("int8", "uint8"),
    quantized_granularities=("per_tensor", "per_channel"),
    sparse=True,
    decompression="ahead of time, to float16",
)
_IOS17 = replace(
    _IOS16,
    name="iOS17",
    spec_version=8,
    opset="CoreML7",
    aliases=("macOS14", "watchOS10", "tvOS17", "visionOS1"),
    activation_quantization=True,
    decompression="on the fly in some cases",
)
_IOS18 = replace(
    _IOS17,
    name="iOS18",
    spec_version=9,
    opset="CoreML8",
    aliases=("macOS15", "watchOS11", "tvOS18", "visionOS2"),
    constexpr="inputs",
    palettized_bits=(1, 2, 3, 4, 6, 8),
    palettized_granularities=("per_tensor", "per_grouped_channel"),
    lut_dtypes=("float16", "float32", "int8", "uint8"),
    vector_lut=True,
    per_channel_scale=True,
    quantized_dtypes=("int4", "uint4", "int8", "uint8"),
    quantized_granularities=("per_tensor", "per_channel", "per_block"),
    float_offset=True,
    joint=True,
)
_IOS26 = replace(
    _IOS18,
    name="iOS26",
    spec_version=10,
    opset="CoreML9",
    aliases=("macOS26", "watchOS26", "tvOS26", "visionOS26"),
)
TARGETS: tuple[Target, ...] = (_IOS15, _IOS16, _IOS17, _IOS18, _IOS26)
"""All targets that hold ML programs, oldest first."""

CORE_AI = replace(
    _IOS26,
    name="iOS27",
    spec_version=1000,
    opset="CoreAI1",
    aliases=("macOS27", "watchOS27", "tvOS27", "visionOS27"),
    lut_dtypes=(*_IOS26.lut_dtypes, "fp8_e4m3fn", "fp8_e5m2"),
    quantized_dtypes=(*_IOS26.quantized_dtypes, "int2", "uint2", "fp8_e4m3fn", "fp8_e5m2", "fp4_e2m1fn"),
    float_offset=False,
    exponent_scales=True,
    activation_quantization=False,
    decompression="-",
    core_ai=True,
)
"""That of Core AI models (`.aimodel`): what coreai-core 1.0 stores and its runtime executes. No package is of it."""
ALL = (*TARGETS, CORE_AI)
"""Every target, oldest first."""


def target(name_or_version: Any) -> Target:
    """Find a deployment target.

    Args:
        name_or_version: A name ("iOS18", "macos15"; upper and lower case are the same), a specification version (9), an
            enum of coremltools (`ct.target.iOS18`), or a `Target`.

    Returns:
        The target.

    Raises:
        ConfigError: For anything else; the message names the nearest.

    Examples:
        >>> cto.targets.target("macOS15").name
        'iOS18'
    """
    if isinstance(name_or_version, Target):
        return name_or_version
    # coremltools' targets are IntEnum: the name goes before the number.
    name = getattr(name_or_version, "name", name_or_version)
    if isinstance(name, int):
        return by_spec_version(name)
    names = {alias: t for t in ALL for alias in (t.name, *t.aliases)}
    found = {alias.lower(): t for alias, t in names.items()}.get(str(name).lower())
    if found is None:
        near = difflib.get_close_matches(str(name)[:100], names, n=1)
        hint = f'Did you mean "{near[0]}"? ' if near else ""
        raise ConfigError(f"Unknown target {name!r}. {hint}Known are: {', '.join(names)}.")
    return found


# By their specification versions the systems before those that hold ML programs.
_OLDER = {1: "iOS11", 2: "iOS11.2", 3: "iOS12", 4: "iOS13", 5: "iOS14"}


def by_spec_version(version: int) -> Target:
    """The target whose models carry that specification version; a ConfigError where there is none."""
    return _only("specification version", version, {t.spec_version: t for t in TARGETS})


def system_of(version: int) -> str:
    """The oldest system that reads a specification version, be it one without ML programs; "unknown" if none does."""
    return (_OLDER | {target.spec_version: target.name for target in ALL}).get(version, "unknown")


def by_opset(opset: str) -> Target:
    """The target whose operation set has that name, such as "CoreML8"; a ConfigError where there is none."""
    return _only("operation set", opset, {t.opset: t for t in ALL})


def _only(what: str, key: Any, table: dict[Any, Target]) -> Target:
    if key not in table:
        known = ", ".join(f"{k} ({t.name})" for k, t in table.items())
        raise ConfigError(f"No target with ML programs has the {what} {key!r}. Known are: {known}.")
    return table[key]


def oldest_for(*features: str) -> Target:
    """Find the oldest target that has some features.

    Args:
        features: In the words of `Target.features`, such as "3-bit palettization" or "joint compression".

    Returns:
        The target.

    Raises:
        ConfigError: If no target has all of them.

    Examples:
        >>> cto.targets.oldest_for("3-bit palettization").name
        'iOS18'
    """
    for candidate in ALL:
        if candidate.features.issuperset(features):
            return candidate
    known = frozenset().union(*(t.features for t in ALL))
    missing = next((f for f in features if f not in known), " with ".join(features))
    near = difflib.get_close_matches(missing, known, n=1)
    raise ConfigError(f'No target can hold "{missing}". The nearest that exists is "{near[0] if near else "none"}".')


def requirements(form: NDArray[Any] | CompressedWeight) -> list[str]:
    """The features that a target needs to hold this value; a dense array needs none."""
    from corepress.weights import Palettized, Quantized, Sparse

    if isinstance(form, Palettized):
        return _palettized(form.lut.shape[:-2], form.bits, form.cluster_dim, form.lut)
    if isinstance(form, Quantized):
        if isinstance(form.data, Palettized):
            # Over a LUT of integers the scale makes up its values; over any other it is the weight's own.
            scaled = [] if form.data.dtype.kind in "iu" else ["per_channel_scale palettization"]
            return requirements(form.data) + scaled
        return _quantized(form)
    if isinstance(form, Sparse):
        inner = requirements(form.values)
        return ["joint compression", *inner] if inner else ["pruning"]
    return []


def _palettized(groups: tuple[int, ...], bits: int, cluster_dim: int, lut: Any) -> list[str]:
    from corepress.weights import Quantized

    entries = (lut.data if isinstance(lut, Quantized) else lut).dtype.name.replace("float8", "fp8")
    granularity = "per_grouped_channel" if max(groups, default=1) > 1 else "per_tensor"
    vector = ["vector palettization"] if cluster_dim > 1 else []
    return [f"{granularity} palettization", *vector, f"{entries}-LUT palettization", f"{bits}-bit palettization"]


def _quantized(form: Quantized) -> list[str]:
    scaled = [(count, size) for count, size in zip(form.scale.shape, form.shape, strict=True) if count > 1]
    if not scaled:
        granularity = "per_tensor"
    elif len(scaled) == 1 and scaled[0][0] == scaled[0][1]:
        granularity = "per_channel"
    else:
        granularity = "per_block"
    float_offset = form.offset is not None and not np.issubdtype(form.offset.dtype, np.integer)
    offset = ["float-offset quantization"] if float_offset else []
    dtype = form.data.dtype
    numbers = f"{form.bits}-bit" if dtype.kind in "iuf" else _numbers(dtype.name)
    scale = ["E8M0-scale quantization"] if form.exponents else []
    return [f"{granularity} quantization", *offset, *scale, f"{numbers} quantization"]


def minimum_target(form: NDArray[Any] | CompressedWeight) -> Target:
    """Find the oldest target that can hold a value of a weight.

    Args:
        form: A dense array, or a `CompressedWeight`, such as what `Weight.read` of a package gives.

    Returns:
        The target.

    Examples:
        >>> weight = cto.load("small.mlpackage").weights()[2]
        >>> cto.targets.minimum_target(weight.read()).name
        'iOS16'
    """
    return oldest_for(*requirements(form))


def check(form: NDArray[Any] | CompressedWeight, target: Target) -> None:
    """A ConfigError where the target can't hold this value."""
    require(requirements(form), target)


def require(features: Iterable[str], target: Target) -> None:
    """A ConfigError where the target lacks one of the features; it says which, and which target has all."""
    features = list(features)
    if (missing := next((feature for feature in features if feature not in target.features), None)) is None:
        return
    if target.core_ai:
        raise ConfigError(f"Core AI models ({target}) can't hold {missing}; packages can, for {oldest_for(*features)}")
    since = oldest_for(*features)
    if since.core_ai:
        raise ConfigError(f"{missing} is for Core AI models ({since}): migrate the package, and compress the result")
    raise ConfigError(
        f"The {missing} is supported since {since}. Please re-convert your model with "
        f"minimum_deployment_target set to at least ct.target.{since}, "
        f'or pass target="{since}" to raise it from {target}.'
    )


COLUMNS = (
    "Target",
    "Specification",
    "Also",
    "Palettization",
    "Quantization",
    "Pruning",
    "Activations",
    "Decompression",
)


def table_rows() -> list[tuple[str, ...]]:
    """One row for each target, under `COLUMNS`."""
    return [
        (
            t.name,
            "Core AI" if t.core_ai else f"{t.spec_version} ({t.opset})",
            ", ".join(t.aliases),
            _palettization_cell(t),
            _cell(
                *(", ".join(t.quantized_dtypes), *t.quantized_granularities),
                *("float offset" * t.float_offset, "E8M0 scales" * t.exponent_scales),
            ),
            _cell("sparse" if t.sparse else "", "non-zero values palettized or quantized" if t.joint else ""),
            "int8" if t.activation_quantization else "-",
            t.decompression,
        )
        for t in ALL
    ]


def _palettization_cell(t: Target) -> str:
    return _cell(
        f"{', '.join(map(str, t.palettized_bits))} bits" if t.palettized_bits else "",
        *t.palettized_granularities,
        f"LUT of {', '.join(t.lut_dtypes)}" if t.lut_dtypes else "",
        "vectors" if t.vector_lut else "",
        "per-channel scale" if t.per_channel_scale else "",
    )


def _cell(*parts: str) -> str:
    return "; ".join(part for part in parts if part) or "-"


def markdown_table() -> str:
    """The table of targets in Markdown, for the documentation."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *table_rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
