"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from corepress.cli.declare import Argument, Option

Input = Annotated[Path, Argument(metavar="MODEL", help="An .mlpackage or an .mlmodel.")]
Output = Annotated[Path, Option("--output", "-o", help="Where to write the result.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output when it exists, even the input.")]
Config = Annotated[
    Path | None,
    Option("--config", help="A YAML file in the form of OptimizationConfig.from_yaml, instead of the flags."),
]
Joint = Annotated[bool, Option("--joint", help="Compress weights further that are compressed already.")]
Strict = Annotated[
    bool,
    Option("--strict", help="Fail where rules change nothing (exit code 2), or no weight is compressed (1)."),
]
AllConstants = Annotated[
    bool,
    Option("--all-constants", help="Compress constants that no product or look-up reads, too, such as anchors."),
]
Target = Annotated[str | None, Option("--target", help="Raise the model to this target first, e.g. iOS18.")]
Workers = Annotated[int | None, Option("--workers", min=1, help="Threads; one for each core by default.")]
Json = Annotated[bool, Option("--json", help="Print JSON on standard output, and nothing else.")]
Threshold = Annotated[int, Option("--weight-threshold", min=0, help="Leave weights of up to so many elements alone.")]
Verify = Annotated[
    bool, Option("--verify", help="Compare outputs with the original's; exit code 1 when they are too far apart.")
]
Data = Annotated[
    Path | None,
    Option("--data", exists=True, help="Inputs to compare on: .npz, image, or a folder of these; else random."),
]
LearningData = Annotated[
    Path | None,
    Option(
        "--data",
        exists=True,
        help="Inputs like those of the app: .npz, image, or a folder. A method that learns from them leaves a fifth "
        "to compare on; without one all are to compare on.",
    ),
]
TestData = Annotated[
    Path | None,
    Option("--test-data", exists=True, help="Inputs to compare on; all of --data serve to learn from, then."),
]
Device = Annotated[str, Option("--device", help="Where to run: cpu, cuda, mps.")]
Function = Annotated[str | None, Option("--function", help="Which function, of a model with several.")]
Seed = Annotated[int, Option("--seed", min=0, help="A number that fixes the random inputs.")]


class PaletteMode(str, Enum):
    kmeans = "kmeans"
    uniform = "uniform"
    unique = "unique"


class LinearMode(str, Enum):
    linear_symmetric = "linear_symmetric"
    linear = "linear"


class Dtype(str, Enum):
    int8 = "int8"
    uint8 = "uint8"
    int4 = "int4"
    uint4 = "uint4"
    float16 = "float16"


class LutGranularity(str, Enum):
    per_tensor = "per_tensor"
    per_grouped_channel = "per_grouped_channel"


class LinearGranularity(str, Enum):
    per_tensor = "per_tensor"
    per_channel = "per_channel"
    per_block = "per_block"


class LutDtype(str, Enum):
    int8 = "int8"
    uint8 = "uint8"


class Observer(str, Enum):
    min_max = "min_max"
    moving_average = "moving_average"
    percentile = "percentile"
    mse = "mse"


class Metric(str, Enum):
    snr = "snr"
    cosine = "cosine"
    psnr = "psnr"
    top1 = "top1"
    kl = "kl"
    max_abs = "max_abs"


class PaletteMethod(str, Enum):
    lut_gptq = "lut-gptq"
    skm = "skm"


class LinearMethod(str, Enum):
    gptq = "gptq"


class PruneMethod(str, Enum):
    sparsegpt = "sparsegpt"


# Of the commands that compress; `verify` calls the threshold --threshold, which `prune` has for something else.
JudgedBy = Annotated[Metric | None, Option("--metric", help="What decides, as in verify. [default: snr]")]
VerifyThreshold = Annotated[
    float | None,
    Option(
        "--verify-threshold",
        help="The least value of the metric that will do; of kl and max_abs the greatest. [default: by metric]",
    ),
]
MinSnr = Annotated[float | None, Option("--min-snr", help="The threshold of --metric snr, in dB. [default: 20]")]
