"""Options that several commands share: single ones, and groups of those that belong together.

A group is a dataclass; a command that has a parameter of its type has its options, and is given them as one value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from corepress.cli.declare import Argument, Option
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig

Metric = Literal["snr", "cosine", "psnr", "top1", "kl", "perplexity", "max_abs"]

Input = Annotated[Path, Argument(metavar="MODEL", help="An .mlpackage or an .mlmodel.")]
# What a command is given in its place that reads the model first (`usage.TakesNetworks`).
Model = Annotated[Any, Argument(metavar="MODEL", help="An .mlpackage or an .mlmodel.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document on standard output, and nothing else.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output if it exists, even if it is the input.")]
THRESHOLD = (
    "The least value of the metric that is good enough; of kl, perplexity and max_abs the greatest. "
    "[default: by metric]"
)
MinSnr = Annotated[float | None, Option("--min-snr", help="The threshold of --metric snr, in dB. [default: 20]")]
Data = Annotated[
    Path | None,
    Option("--data", exists=True, help="Inputs: an .npz file, an image, or a folder of them. [default: random]"),
]
RandomInputs = Annotated[int, Option(min=1, help="Number of random inputs, without --data.")]
MinCosine = Annotated[
    float | None, Option("--min-cosine", help="The threshold of --metric cosine, up to 1. [default: 0.99]")
]
Device = Annotated[str, Option("--device", help="Where to run the model: cpu, cuda or mps.")]
Function = Annotated[str | None, Option("--function", help="The function to run, if the model has several.")]
Augment = Annotated[
    int | None,
    Option("--augment", min=1, help="With --method: learn from so many more samples, made of those of --data."),
]
Seed = Annotated[int, Option("--seed", min=0, help="Another number gives other random inputs.")]
Refine = Annotated[
    str | None,
    Option(
        "--refine", metavar="STEPS|TIME",
        help="At last let what is stored learn from --data to answer as the original does, as corepress refine does: "
        "so many steps, such as 400, or for a time, such as 10m.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Destination:
    """Where the result goes."""

    output: Annotated[Path, Option("--output", "-o", help="Where to write the result.")]
    overwrite: Overwrite = False


@dataclass(frozen=True)
class Choice:
    """Which weights are compressed, apart from the rules that hold for all of them."""

    weight_threshold: Annotated[
        int, Option("--weight-threshold", min=0, help="Leave weights of up to this many elements as they are.")
    ] = 2048
    config: Annotated[
        Path | None,
        Option(
            "--config", help="A YAML file of settings as OptimizationConfig.from_yaml reads it, instead of options."
        ),
    ] = None
    joint: Annotated[bool, Option("--joint", help="Compress weights further that are compressed already.")] = False

    def config_of(self, from_options: Callable[[int], Any]) -> OptimizationConfig:
        """The configuration in the file, by whose name its faults are told, or the one that the options ask for."""
        from corepress.coreml import OptimizationConfig
        from corepress.fields import read_yaml

        if self.config is None:
            return OptimizationConfig(global_config=from_options(self.weight_threshold))
        content = read_yaml(self.config)
        try:
            return OptimizationConfig.from_dict(content)
        except ConfigError as error:
            raise ConfigError(f"{self.config}: {error}") from error


@dataclass(frozen=True)
class Limits:
    """What a compression may do to the model, and when it fails."""

    strict: Annotated[
        bool,
        Option("--strict", help="Fail if a rule changes nothing (exit code 2), or no weight is compressed (1)."),
    ] = False
    all_constants: Annotated[
        bool,
        Option("--all-constants", help="Also compress constants that no product or look-up reads, such as anchors."),
    ] = False
    target: Annotated[
        str | None, Option("--target", help="Raise the model to this system first, for example iOS18.")
    ] = None

    def keywords(self) -> dict[str, Any]:
        """As the functions of `corepress.coreml` take it."""
        return {"target": self.target, "strict": self.strict, "spare_constants": not self.all_constants}


@dataclass(frozen=True)
class Running:
    """How the work is done, and told."""

    workers: Annotated[
        int | None, Option("--workers", min=1, help="Number of threads. [default: one for each core]")
    ] = None
    as_json: Json = False


def threshold_of(
    metric: str, threshold: float | None, min_snr: float | None, flag: str, min_cosine: float | None = None
) -> float | None:
    """The threshold that decides, however it was given; `flag`: the option that gives it for any metric."""
    given = {"snr": min_snr, "cosine": min_cosine}
    for name, least in given.items():
        others = [threshold, *(value for other, value in given.items() if other != name)]
        if least is not None and (metric != name or any(value is not None for value in others)):
            raise ConfigError(
                f"--min-{name} is the threshold of --metric {name}; use {flag} for other metrics, not both"
            )
    return next((least for least in given.values() if least is not None), threshold)
