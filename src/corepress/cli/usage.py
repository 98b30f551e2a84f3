"""Options that have no effect without others, or beside them: a command that is given one in vain is refused.

One table for each command. An option counts as given only if it stands on the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from corepress.cli.declare import Command
from corepress.cli.steps import holds_networks
from corepress.errors import ConfigError
from corepress.names import NETWORK_MODES


class Needs(NamedTuple):
    """`options`, by the names of their parameters, have an effect only if `holds` of all parameters; else `because`,
    in which `{NAME}` stands for what a parameter is.

    `what`: what is wrong with one that is given all the same.
    """

    options: tuple[str, ...]
    holds: Callable[[Mapping[str, Any]], bool]
    because: str
    what: str = "has no effect here"


def _no_config(*options: str) -> Needs:
    return Needs(
        (*options, "weight_threshold"),
        lambda given: given["config"] is None,
        "the file of --config holds all such settings: write it there",
    )


def _packages_only(*options: str) -> Needs:
    return Needs(
        options,
        lambda given: not given["networks"],
        "the model is a neural network, and this option is for ML programs",
        "can't be used here",
    )


def _is(option: str, *words: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda given: given[option] in words


def _set(option: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda given: given[option] is not None and given[option] is not False


def _counts_bits(given: Mapping[str, Any]) -> bool:
    from corepress.coreml.op_configs import WITH_NBITS

    return given["mode"] in WITH_NBITS


_RANDOM = Needs(
    ("samples", "seed"), lambda given: given["data"] is None, "it is for random inputs, and --data gives others"
)
_AUGMENT = Needs(("augment",), _set("method"), "it needs --method and --data")
_PAGE = Needs(("overwrite",), _set("report"), "it needs --report")
TABLE: dict[str, tuple[Needs, ...]] = {
    "palettize": (
        _no_config(
            *("nbits", "mode", "granularity", "group_size", "channel_axis", "cluster_dim", "per_channel_scale"),
            *("lut_dtype", "smaller_group", "outliers"),
        ),
        Needs(
            ("group_size", "channel_axis", "smaller_group"),
            _is("granularity", "per_grouped_channel"),
            "it needs --granularity per_grouped_channel",
        ),
        Needs(("nbits",), _counts_bits, "--mode {mode} takes as many as it needs"),
        Needs(("cluster_dim",), _is("mode", "kmeans", "unique"), "--mode {mode} has no tables of vectors"),
        _AUGMENT,
        Needs(("method",), _is("mode", "kmeans"), "only --mode kmeans can be fitted to data"),
        Needs(
            ("method",),
            lambda given: given["method"] != "lut-gptq" or not given["per_channel_scale"],
            "--method lut-gptq can't fit tables with --per-channel-scale; --method skm can",
        ),
        _packages_only(
            *("granularity", "group_size", "channel_axis", "cluster_dim", "per_channel_scale", "lut_dtype"),
            *("smaller_group", "outliers", "method", "augment", "refine", "config", "joint", "target"),
        ),
        Needs(
            ("mode",),
            lambda given: not given["networks"] or given["mode"] in NETWORK_MODES,
            "the model is a neural network, which has tables by kmeans and uniform only", "can't have this value here",
        ),
    ),
    "quantize": (
        _no_config(
            *("mode", "dtype", "granularity", "block_size", "scale_search", "smaller_block", "float_zero_point"),
            *("scale_dtype", "outliers"),
        ),
        Needs(
            ("block_size", "smaller_block"), _is("granularity", "per_block"), "it needs --granularity per_block"
        ),
        Needs(("float_zero_point",), _is("mode", "linear"), "it needs --mode linear"),
        _AUGMENT,
        Needs(("activation_aware_scale",), _set("method"), "it needs --method gptq and --data"),
        Needs(
            ("observer", "bias_correction", "equalize", "activation_mode"),
            _set("activations"), "it needs --activations and --data",
        ),
        _packages_only(
            *("granularity", "block_size", "scale_search", "smaller_block", "float_zero_point", "outliers", "method"),
            *("scale_dtype", "augment", "refine", "activation_aware_scale"),
            *("activations", "observer", "bias_correction", "equalize", "activation_mode", "config", "joint", "target"),
        ),
        Needs(
            ("dtype",),
            lambda given: given["networks"] or given["dtype"] != "float16",
            "float16 is for neural networks; the numbers of ML programs get their type when the model is converted",
            "can't have this value here",
        ),
        Needs(("mode",), lambda given: given["dtype"] != "float16", "--dtype float16 has no steps"),
    ),
    "prune": (
        _no_config("sparsity", "threshold", "minimum_sparsity", "n_m", "block_size", "dim"),
        _AUGMENT,
        Needs(("minimum_sparsity",), _set("threshold"), "it needs --threshold"),
        Needs(("block_size",), _set("sparsity"), "it needs --sparsity"),
        Needs(
            ("dim",),
            lambda given: given["n_m"] is not None or given["block_size"] is not None,
            "it needs --n-m or --block-size",
        ),
        Needs(
            ("method",),
            lambda given: given["threshold"] is None and given["block_size"] is None and given["dim"] != 0,
            "--method works with --sparsity, and with --n-m along --dim 1",
        ),
    ),
    "compress": (_packages_only("target", "refine"),),
    "search": (
        Needs(("jobs",), lambda given: given["ray"] is None, "--ray says where the work is done"),
        Needs(("activation_loss",), _set("activations"), "it needs --activations"),
        Needs(("augment",), _is("method", "fitted"), "it needs --method fitted"),
    ),
    "verify": (_RANDOM, _PAGE),
    "compare": (_RANDOM, _PAGE),
    "lint": (
        Needs(("overwrite",), lambda given: str(given["sarif"]) not in ("None", "-"), "it needs --sarif FILE"),
        Needs(
            ("as_json",),
            lambda given: str(given["sarif"]) != "-",
            "--sarif - prints on standard output, too; write it to a file",
            "can't be used here",
        ),
    ),
    "run": (
        Needs(("given", "random", "seed"), lambda given: given["data"] is None, "--data gives all inputs"),
        Needs(("seed",), _set("random"), "it needs --random"),
        Needs(("overwrite",), _set("output"), "it needs --output"),
    ),
}  # fmt: skip


class Checked(Command):
    """A command that refuses options without effect before it does anything."""

    def invoke(self, ctx: Any) -> Any:
        check(str(self.name), ctx)
        return super().invoke(ctx)


class TakesNetworks(Command):
    """A command for neural networks as well. It is given the model, and not its path: what the model holds decides
    which options have an effect."""

    def invoke(self, ctx: Any) -> Any:
        from corepress.formats.read import load

        model = ctx.params["model"] = load(ctx.params["model"])
        check(str(self.name), ctx, holds_networks(model))
        return super().invoke(ctx)


def check(command: str, context: Any, networks: bool = False) -> None:
    """Raise ConfigError for the first option that is given in vain, or is a number without a meaning.

    `networks`: whether the model holds neural networks.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = set(on_command_line(context))
    values = {**context.params, "networks": networks}
    for name in sorted(given):
        value = values[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{flags[name]} {value}: it must be a finite number")
    for needs in TABLE.get(command, ()):
        for option in needs.options:
            if option in given and not needs.holds(values):
                raise ConfigError(f"{flags[option]} {needs.what}: {needs.because.format(**values)}")


def on_command_line(context: Any) -> Iterator[str]:
    """The names of the parameters that were given, as opposed to their defaults."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            yield name
