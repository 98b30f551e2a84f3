"""The library speaks Python's words, the command line its own: one table translates messages at the edge."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

# Arguments of functions, and the options that stand for them.
ARGUMENTS = {
    "activation_loss": "--activation-loss",
    "activations": "--activations",
    "activation_aware_scale": "--activation-aware-scale",
    "all_constants": "--all-constants",
    "augment": "--augment",
    "bias_correction": "--bias-correction",
    "bits": "--bits",
    "cost": "--cost",
    "count": "--count",
    "data": "--data",
    "device": "--device",
    "equalize": "--equalize",
    "forms": "--forms",
    "function": "--function",
    "jobs": "--jobs",
    "joint_compression": "--joint",
    "length": "--length",
    "max_drop": "--max-drop",
    "max_size": "--max-size",
    "method": "--method",
    "metric": "--metric",
    "min_cosine": "--min-cosine",
    "min_group": "--min-group",
    "min_snr": "--min-snr",
    "observer": "--observer",
    "overwrite": "--overwrite",
    "per_op": "--per-op",
    "points": "--points",
    "prompt": "--prompt",
    "ray": "--ray",
    "refine": "--refine",
    "resume": "--resume",
    "safe": "--safe",
    "sample_data": "--data",
    "samples": "--samples",
    "seed": "--seed",
    "stage": "--stage",
    "strict": "--strict",
    "target": "--target",
    "test_data": "--test-data",
    "threshold": "--threshold",
    "workers": "--workers",
}
# Functions, and the commands that call them.
FUNCTIONS = {
    "decompress_weights": "decompress",
    "linear_quantize_activations": "quantize --activations",
    "linear_quantize_weights": "quantize",
    "palettize_weights": "palettize",
    "prune_weights": "prune",
}
# Fields of configurations. With --config or --recipe they are keys of a file, and stay as they are.
FIELDS = {
    "block_size": "--block-size",
    "channel_axis": "--channel-axis",
    "cluster_dim": "--cluster-dim",
    "dim": "--dim",
    "dtype": "--dtype",
    "float_zero_point": "--float-zero-point",
    "enable_per_channel_scale": "--per-channel-scale",
    "granularity": "--granularity",
    "group_size": "--group-size",
    "lut_dtype": "--lut-dtype",
    "minimum_sparsity_percentile": "--minimum-sparsity",
    "mode": "--mode",
    "n_m_ratio": "--n-m",
    "nbits": "--nbits",
    "outlier_fraction": "--outliers",
    "quantization_mode": "--mode",
    "scale_dtype": "--scale-dtype",
    "scale_search": "--scale-search",
    "smaller_block": "--smaller-block",
    "smaller_group": "--smaller-group",
    "target_sparsity": "--sparsity",
    "weight_threshold": "--weight-threshold",
}
# What is said in other words altogether.
PHRASES = {
    "allow to overwrite it": "give --overwrite to replace it",
    "got an unexpected keyword argument": "has no key",
    "must be type of dict": "must be a mapping of keys to values",
    "must be provided with type of string": "must be given as text",
    "only accept": "takes only",
    "spare_constants=False": "--all-constants",
    "spare_constants=True leaves such constants alone": "without --all-constants such constants are left alone",
}
_VALUE = r"""(?P<value>True|"[^"]*"|'[^']*'|[\w.]+)"""
# Fields as YAML has them.
_KEY = rf"""(?<![\w./'"\[-])(?P<key>{"|".join(sorted(FIELDS, key=len, reverse=True))})={_VALUE}"""


def translate(message: str, *, from_file: bool | None = None) -> str:
    """A message of the library in the words of the command line.

    `joint_compression=True` becomes `--joint`, `target="iOS18"` becomes `--target iOS18`, and names with an underscore,
    such as `sample_data`, become their options; all other text, names in single quotes above all, stays as it is.
    `from_file`: the configuration came from a file, whose keys are not options: `nbits=4` becomes `nbits: 4`
    (default: as in `sys.argv`).
    """
    if from_file is None:
        from_file = any(word.partition("=")[0] in ("--config", "--recipe") for word in sys.argv[1:])
    known = {**ARGUMENTS, **FUNCTIONS} if from_file else {**FIELDS, **ARGUMENTS, **FUNCTIONS}
    for phrase, said in PHRASES.items():
        message = message.replace(phrase, said)
    if from_file:
        message = re.sub(_KEY, lambda match: f"{match['key']}: {_in_yaml(match['value'])}", message)
    # Only what occurs: a pattern of all words takes longer to compile than all else that a command prints.
    known = {word: option for word, option in known.items() if word in message}
    return _pattern(known).sub(lambda match: _said(match, known), message) if known else message


def _in_yaml(value: str) -> str:
    return value.lower() if value in ("True", "False") else value.strip("\"'")


def _pattern(known: Mapping[str, str]) -> re.Pattern[str]:
    """`name=value`; a name with an underscore, or in double quotes; but nothing that is part of a longer name."""
    names = sorted(known, key=len, reverse=True)
    plain = [name for name in names if "_" in name] or ["(?!)"]  # which matches nothing
    return re.compile(
        rf"""(?<![\w./'"\[-])(?:(?P<key>{"|".join(names)})=(?:{_VALUE})?"""
        rf"""|(?P<bare>{"|".join(plain)})(?![\w./'"=(\]-])|"(?P<quoted>{"|".join(names)})"(?!\w))"""
    )


def _said(match: re.Match[str], known: Mapping[str, str]) -> str:
    option = known[match["key"] or match["bare"] or match["quoted"]]
    value = (match["value"] or "").strip("\"'")
    return option if value in ("", "True") else f"{option} {value}"
