"""The forms that a weight could get, by what its target can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from corepress.errors import ConfigError
from corepress.searching.subject import Candidate
from corepress.targets import Target
from corepress.weights import worded_bits

FORMS = ("palettized", "quantized", "sparse", "joint")
# Those that are chosen from only where they are asked for: each makes a second product of a layer.
ON_REQUEST = ("outliers",)
DENSE = Candidate("dense")
# The fewest channels that share a table, by default: fewer are slow on phones.
MIN_GROUP = 8
# Groups of channels that share a table, and blocks that share a scale.
GROUPS = (8, 16, 32)
BLOCKS = (32,)
SPARSITIES = (0.5, 0.75)
# The part of a weight's values that is kept apart.
OUTLIERS = 0.005
# On an iPhone 15 Pro a network of 1.3B parameters took, by Apple's account, 14.8 ms with one 4-bit table for a tensor,
# 15.5 with groups of 8 channels, 17.1 with groups of 4, and 59 with a table for each channel.
_SLOW_GROUPS = ((8, 1.05), (4, 1.16), (1, 4.0))


def check_forms(forms: Sequence[str], known: Sequence[str], otherwise: str) -> None:
    """Raise ConfigError unless `forms` are some of those `known`. `otherwise`: what is said of another."""
    if isinstance(forms, str) or not forms:
        raise ConfigError(f"forms={forms!r}: it must be a list of at least one of {', '.join(known)}")
    if unknown := [form for form in forms if form not in known]:
        raise ConfigError(f"forms={unknown[0]!r}: {otherwise}; they are {', '.join(known)}")


def candidates(target: Target, forms: Sequence[str] = FORMS, min_group: int = MIN_GROUP) -> tuple[Candidate, ...]:
    """The forms to choose from, dense first.

    Args:
        target: The system that the model is made for.
        forms: Some of "palettized", "quantized", "sparse", "joint"; and "outliers", which is none of the default.
        min_group: The fewest channels that may share a look-up table; smaller groups are slow on phones.

    Raises:
        ConfigError: For a form that there is not, or that the target can hold none of, and for a `min_group` where no
            table is shared by groups.
    """
    check_forms(forms, (*FORMS, *ON_REQUEST), "there is no such form")
    if min_group < 1:
        raise ConfigError(f"min_group={min_group}: at least 1 is needed")
    if min_group != MIN_GROUP and "palettized" not in forms:
        raise ConfigError(f"min_group={min_group} has no effect without palettized forms")
    if min_group != MIN_GROUP and "per_grouped_channel" not in target.palettized_granularities:
        raise ConfigError(f"min_group={min_group} has no effect: {target.name} holds one table for each weight")
    found = [candidate for form in dict.fromkeys(forms) for candidate in _MAKERS[form](target, min_group)]
    if not found:
        raise ConfigError(f"{target.name} can hold no weight that is {' or '.join(forms)}: choose another target")
    return (DENSE, *found)


def _palettized(target: Target, min_group: int) -> Iterator[Candidate]:
    grouped = "per_grouped_channel" in target.palettized_granularities
    for bits in target.palettized_bits:
        yield _one("palettize", f"palettized {worded_bits(bits)}", nbits=bits)
        # At 8 bits one table is nearly exact; more of them only take room.
        for size in _groups(min_group) if grouped and bits < 8 else ():
            slowness = next((factor for limit, factor in reversed(_SLOW_GROUPS) if size <= limit), 1.0)
            label = f"palettized {worded_bits(bits)}, groups of {size}"
            grouping = {"granularity": "per_grouped_channel", "group_size": size}
            yield Candidate(label, (("palettize", {"nbits": bits, **grouping}),), slowness)


def _groups(min_group: int) -> list[int]:
    return sorted({size for size in (*GROUPS, min_group) if size >= min_group})


def _quantized(target: Target, min_group: int) -> Iterator[Candidate]:
    for dtype in ("int8", "int4"):
        if dtype not in target.quantized_dtypes:
            continue
        yield _one("quantize", f"quantized {dtype}", dtype=dtype)
        for size in BLOCKS if "per_block" in target.quantized_granularities else ():
            label = f"quantized {dtype}, blocks of {size}"
            yield _one("quantize", label, dtype=dtype, granularity="per_block", block_size=size)


def _sparse(target: Target, min_group: int) -> Iterator[Candidate]:
    for part in SPARSITIES if target.sparse else ():
        yield _one("prune", f"sparse {part:.0%}", target_sparsity=part)


def _joint(target: Target, min_group: int) -> Iterator[Candidate]:
    for pruned in _sparse(target, min_group) if target.joint else ():
        for bits in (bits for bits in target.palettized_bits if bits in (3, 4, 6)):
            steps = (*pruned.steps, ("palettize", {"nbits": bits}))
            yield Candidate(f"{pruned.label}, palettized {bits} bits", steps)
        yield Candidate(f"{pruned.label}, quantized int8", (*pruned.steps, ("quantize", {"dtype": "int8"})))


def _outliers(target: Target, min_group: int) -> Iterator[Candidate]:
    if target.sparse:
        for bits in (bits for bits in target.palettized_bits if bits in (2, 3, 4, 6)):
            label = f"palettized {bits} bits, {OUTLIERS:.1%} apart"
            yield _one("palettize", label, nbits=bits, outlier_fraction=OUTLIERS)


def _one(verb: str, label: str, **arguments: Any) -> Candidate:
    return Candidate(label, ((verb, arguments),))


_MAKERS = {
    "palettized": _palettized,
    "quantized": _quantized,
    "sparse": _sparse,
    "joint": _joint,
    "outliers": _outliers,
}
