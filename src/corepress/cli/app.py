"""The commands and their options."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corepress.cli import options
from corepress.cli.neural_network import ForNeuralNetworksToo
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig
    from corepress.mlprogram import Model

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make the weights of Core ML packages small, on any machine.",
)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from corepress import __version__

        print(f"corepress {__version__}")
        raise typer.Exit


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
    max_abs = "max_abs"


@app.command(cls=ForNeuralNetworksToo)
def info(
    model: options.Input,
    everything: Annotated[bool, typer.Option("--all", help="List all weights, in program order.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the weights of a model: shape, type, how they are compressed, size, who reads them."""
    from corepress.cli import show
    from corepress.mlprogram import load

    show.info(load(model), everything, as_json)


@app.command(cls=ForNeuralNetworksToo)
def palettize(
    model: options.Input,
    output: options.Output,
    nbits: Annotated[int | None, typer.Option(help="Bits of an index: 1, 2, 3, 4, 6 or 8. [default: 4]")] = None,
    mode: Annotated[PaletteMode, typer.Option(help="How the LUT is made.")] = PaletteMode.kmeans,
    granularity: Annotated[LutGranularity, typer.Option(help="One LUT for what.")] = LutGranularity.per_tensor,
    group_size: Annotated[int, typer.Option(min=1, help="Channels of a group.")] = 32,
    channel_axis: Annotated[int | None, typer.Option(help="Axis of the groups; by operation if not given.")] = None,
    cluster_dim: Annotated[int, typer.Option(min=1, help="Length of the entries of a vector LUT.")] = 1,
    per_channel_scale: Annotated[bool, typer.Option(help="Scale each output channel first.")] = False,
    lut_dtype: Annotated[LutDtype | None, typer.Option(help="Quantize the LUT itself.")] = None,
    smaller_group: Annotated[bool, typer.Option(help="Use a smaller group where the size does not divide.")] = False,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Replace weights by indices into look-up tables (k-means and others)."""
    from corepress.coreml import OpPalettizerConfig, palettize_weights

    bits = nbits if nbits is not None or mode is PaletteMode.unique else 4
    chosen = _config(config, lambda: OpPalettizerConfig(
        mode=mode.value, nbits=bits, granularity=granularity.value, group_size=group_size, channel_axis=channel_axis,
        cluster_dim=cluster_dim, enable_per_channel_scale=per_channel_scale, weight_threshold=weight_threshold,
        lut_dtype=lut_dtype.value if lut_dtype else None, smaller_group=smaller_group,
    ))  # fmt: skip
    _run("palettize", model, output, overwrite, as_json, lambda source, progress: palettize_weights(
        source, chosen, joint, target=target, workers=workers, progress=progress
    ), verify, data)  # fmt: skip


@app.command(cls=ForNeuralNetworksToo)
def quantize(
    model: options.Input,
    output: options.Output,
    dtype: Annotated[Dtype, typer.Option(help="Type of the stored integers.")] = Dtype.int8,
    mode: Annotated[LinearMode, typer.Option(help="Symmetric range, or from minimum to maximum.")] = (
        LinearMode.linear_symmetric
    ),
    granularity: Annotated[LinearGranularity, typer.Option(help="One scale for what.")] = LinearGranularity.per_channel,
    block_size: Annotated[int, typer.Option(min=1, help="Elements of a block, along the input channels.")] = 32,
    scale_search: Annotated[bool, typer.Option(help="Search the scales of least squared error.")] = False,
    smaller_block: Annotated[bool, typer.Option(help="Use smaller blocks where the size does not divide.")] = False,
    activations: Annotated[bool, typer.Option("--activations", help="Activations, too, calibrated on --data.")] = False,
    observer: Annotated[Observer, typer.Option(help="How the range of an activation is found.")] = Observer.min_max,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Replace weights by 4- or 8-bit integers with scales; with --activations, compute in 8 bits, too (W8A8)."""
    from corepress.coreml import OpLinearQuantizerConfig, linear_quantize_weights

    chosen = _config(config, lambda: OpLinearQuantizerConfig(
        mode=mode.value, dtype=dtype.value, granularity=granularity.value, block_size=block_size,
        weight_threshold=weight_threshold, scale_search=scale_search, smaller_block=smaller_block,
    ))  # fmt: skip

    def step(source: Model, progress: Any) -> Model:
        if activations:
            source = _calibrated(source, data, mode.value, observer.value)
        return linear_quantize_weights(source, chosen, joint, target=target, workers=workers, progress=progress)

    _run("quantize", model, output, overwrite, as_json, step, verify, data)


@app.command()
def prune(
    model: options.Input,
    output: options.Output,
    sparsity: Annotated[float | None, typer.Option(min=0, max=1, help="Part of the values to set to zero.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, help="Set values up to this magnitude to zero.")] = None,
    minimum_sparsity: Annotated[float, typer.Option(min=0, max=1, help="With --threshold: else stay dense.")] = 0.5,
    n_m: Annotated[str | None, typer.Option("--n-m", help="N:M, zero the N smallest of every M values.")] = None,
    block_size: Annotated[int | None, typer.Option(min=2, help="Zero whole runs of this many channels.")] = None,
    dim: Annotated[int | None, typer.Option(min=0, max=1, help="Axis of --n-m and --block-size.")] = None,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Set small values to zero and store the others with a bit mask."""
    from corepress.coreml import OpMagnitudePrunerConfig, OpThresholdPrunerConfig, prune_weights

    def from_flags() -> Any:
        if sum(given is not None for given in (sparsity, threshold, n_m)) != 1:
            raise ConfigError("prune needs exactly one of --sparsity, --threshold and --n-m (or --config)")
        if threshold is not None:
            return OpThresholdPrunerConfig(threshold, minimum_sparsity, weight_threshold)
        return OpMagnitudePrunerConfig(sparsity, block_size, _ratio(n_m), dim, weight_threshold)

    chosen = _config(config, from_flags)
    _run("prune", model, output, overwrite, as_json, lambda source, progress: prune_weights(
        source, chosen, joint, target=target, workers=workers, progress=progress
    ), verify, data)  # fmt: skip


@app.command(cls=ForNeuralNetworksToo)
def decompress(
    model: options.Input,
    output: options.Output,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    as_json: options.Json = False,
) -> None:
    """Make compressed weights plain float tensors again."""
    from corepress.coreml import decompress_weights

    _run("decompress", model, output, overwrite, as_json, lambda source, progress: decompress_weights(
        source, workers=workers, progress=progress
    ))  # fmt: skip


@app.command()
def compress(
    model: options.Input,
    output: options.Output,
    recipe: Annotated[Path, typer.Option("--recipe", help="A YAML file with the steps; see docs/recipes.md.")],
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Run several steps (prune, palettize, quantize) as a recipe says."""
    from corepress import recipe as recipes

    steps = recipes.load(recipe)
    _run("compress", model, output, overwrite, as_json, lambda source, progress: recipes.run(
        source, steps, target=target, workers=workers, progress=progress
    ), verify, data)  # fmt: skip


@app.command()
def verify(
    original: options.Input,
    compressed: Annotated[Path, typer.Argument(metavar="COMPRESSED", help="What was made of it.")],
    data: options.Data = None,
    per_op: Annotated[bool, typer.Option("--per-op", help="Compare every operation, to find the first wrong.")] = False,
    metric: Annotated[Metric, typer.Option(help="What decides.")] = Metric.snr,
    threshold: Annotated[
        float | None,
        typer.Option(help="The least value of the metric that will do; of max_abs the greatest. [default: by metric]"),
    ] = None,
    min_snr: Annotated[float | None, typer.Option(help="The threshold of --metric snr, in dB. [default: 20]")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many random inputs, without --data.")] = 4,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run two models on the same inputs and compare the outputs; exit code 1 when they are too far apart."""
    from corepress.cli import show
    from corepress.errors import CorepressError
    from corepress.verification import verify as compare

    if min_snr is not None and (metric is not Metric.snr or threshold is not None):
        raise ConfigError("--min-snr is the threshold of --metric snr; use --threshold for other metrics, not both")
    result = compare(
        original, compressed, data, metric=metric.value, threshold=min_snr if threshold is None else threshold,
        per_op=per_op, samples=samples, seed=seed, device=device, function=function,
    )  # fmt: skip
    show.verification(result, as_json)
    if not result.ok:
        raise CorepressError(result.summary)


@app.command()
def run(
    model: options.Input,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="A .npy, .npz or image file, or a number."),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Make random values for the inputs not given.")] = False,
    seed: options.Seed = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run a model once and show what it answers."""
    from corepress import runtime
    from corepress.cli import show
    from corepress.runtime.samples import read_inputs, write_outputs

    program = runtime.load(model, device, function=function)
    inputs = read_inputs(given or [], program.interface, seed if random else None)
    outputs = program.predict(inputs, program.make_state())
    if output is not None:
        write_outputs(output, outputs, overwrite=overwrite)
    show.outputs(outputs, as_json)


@app.command()
def targets(as_json: options.Json = False) -> None:
    """Show what each version of iOS and macOS can hold."""
    import json

    from rich.table import Table

    from corepress.cli import show
    from corepress.targets import COLUMNS, table_rows

    if as_json:
        print(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in table_rows()], indent=2))
        return
    table = Table(*COLUMNS, show_lines=True)
    for row in table_rows():
        table.add_row(*row)
    show.console().print(table)


def _run(
    title: str,
    source: Path,
    output: Path,
    overwrite: bool,
    as_json: bool,
    step: Callable[[Model, Any], Model],
    verify: bool = False,
    data: Path | None = None,
) -> None:
    """Load, apply a step under a progress bar, save, compare what was saved when asked to, report."""
    from corepress.cli import show
    from corepress.mlprogram import load
    from corepress.mlprogram.atomic import check_destination
    from corepress.reports import report

    check_destination(output, overwrite=overwrite)
    if verify or data is not None:
        # Missing PyTorch is said before the work, not after it.
        from corepress import runtime  # noqa: F401
    with show.progress(title) as progress:
        original = load(source)
        model = step(original, progress)
        result = report(model)
        saved = model.save(output, overwrite=overwrite)
    checked = None
    if verify or data is not None:
        from corepress.verification import verify as compare

        checked = compare(original, saved, data)
    show.summary(result, output, as_json, checked)


def _calibrated(model: Model, data: Path | None, mode: str, observer: str) -> Model:
    """The model with quantized activations."""
    if data is None:
        raise ConfigError("--activations needs --data: inputs that are like those of the app")
    from corepress.coreml import OptimizationConfig
    from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations
    from corepress.runtime.features import default_function, interface_of
    from corepress.runtime.samples import read_samples

    interface = interface_of(model.spec.description, default_function(model.spec.description))
    config = OptimizationConfig(OpActivationLinearQuantizerConfig(mode=mode))
    calibrated: Model = linear_quantize_activations(model, config, read_samples(data, interface), observer=observer)
    return calibrated


def _config(path: Path | None, from_flags: Callable[[], Any]) -> OptimizationConfig:
    from corepress.coreml import OptimizationConfig

    return OptimizationConfig(global_config=from_flags()) if path is None else OptimizationConfig.from_yaml(path)


def _ratio(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        n, m = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"--n-m: {text!r} is not of the form N:M, such as 2:4") from error
    return n, m
