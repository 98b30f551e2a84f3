"""The commands and their options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from corepress.cli import completion, options, streams
from corepress.cli.check import Check
from corepress.cli.declare import Argument, Command, Option
from corepress.cli.guard import Guarded
from corepress.cli.neural_network import ForNeuralNetworksToo
from corepress.cli.steps import compressed, config_of, option_of, quantize_activations, ratio_of, run_step
from corepress.cli.usage import Checked
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.formats.mlprogram import Model


@click.group(
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    help="Make the weights of Core ML packages small, on any machine.",
    epilog="Exit codes: 0 good; 1 the model misses what was asked of it; 2 wrong usage; 3 anything else; "
    "130 and 143 when stopped. See docs/cli.md, also for the fields of --json.",
)
@click.option("--version", is_flag=True, help="Print the version and exit.")
@completion.option("--install-completion", completion.install, "Install completion for bash, zsh or fish.")
@completion.option("--show-completion", completion.show, "Show completion for bash, zsh or fish.")
@click.pass_context
def app(context: click.Context, version: bool) -> None:
    if version:
        from corepress.version import __version__

        print(f"corepress {__version__}")
        context.exit()
    elif context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        context.exit(2)


def command(kind: type[Command] = Command) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.declare(function.__name__, lambda: kind(function))
        return function

    return register


@command()
def info(
    model: options.Input,
    everything: Annotated[bool, Option("--all", help="List all weights, in program order.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what a model of any kind is, its inputs, outputs and weights, and what can be done with it."""
    from corepress.cli.info import info as show
    from corepress.description import describe

    show(describe(model), everything, as_json)


@command(ForNeuralNetworksToo)
def palettize(
    model: options.Input,
    output: options.Output,
    nbits: Annotated[int | None, Option(help="Bits of an index: 1, 2, 3, 4, 6 or 8. [default: 4]")] = None,
    mode: Annotated[options.PaletteMode, Option(help="How the LUT is made.")] = options.PaletteMode.kmeans,
    granularity: Annotated[
        options.LutGranularity, Option(help="What has a LUT of its own.")
    ] = options.LutGranularity.per_tensor,
    group_size: Annotated[int, Option(min=1, help="Channels of a group.")] = 32,
    channel_axis: Annotated[int | None, Option(help="Axis of the groups; by operation if not given.")] = None,
    cluster_dim: Annotated[int, Option(min=1, help="Length of the entries of a vector LUT.")] = 1,
    per_channel_scale: Annotated[bool, Option(help="Scale each output channel first.")] = False,
    lut_dtype: Annotated[options.LutDtype | None, Option(help="Quantize the LUT itself.")] = None,
    smaller_group: Annotated[bool, Option(help="Use a smaller group where the size does not divide.")] = False,
    method: Annotated[
        options.PaletteMethod | None, Option(help="Fit to --data: layers' outputs, or sensitivities.")
    ] = None,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    strict: options.Strict = False,
    all_constants: options.AllConstants = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.LearningData = None,
    test_data: options.TestData = None,
    metric: options.JudgedBy = None,
    verify_threshold: options.VerifyThreshold = None,
    min_snr: options.MinSnr = None,
    as_json: options.Json = False,
) -> None:
    """Replace weights by indices into look-up tables (k-means and others)."""
    from corepress.coreml import OpPalettizerConfig

    bits = nbits if nbits is not None or mode is options.PaletteMode.unique else 4
    chosen = config_of(config, lambda: OpPalettizerConfig(
        mode=mode.value, nbits=bits, granularity=granularity.value, group_size=group_size, channel_axis=channel_axis,
        cluster_dim=cluster_dim, enable_per_channel_scale=per_channel_scale, weight_threshold=weight_threshold,
        lut_dtype=lut_dtype.value if lut_dtype else None, smaller_group=smaller_group,
    ))  # fmt: skip

    check = Check(verify, data, test_data, metric, verify_threshold, min_snr)
    run_step("palettize", model, output, overwrite, as_json, lambda source, progress, samples: compressed(
        source, "palettize_weights", chosen, joint, method, samples, target=target, workers=workers, progress=progress,
        strict=strict, spare_constants=not all_constants,
    ), check, option_of(method))  # fmt: skip


@command(ForNeuralNetworksToo)
def quantize(
    model: options.Input,
    output: options.Output,
    dtype: Annotated[
        options.Dtype, Option(help="Type of the stored integers; float16: of neural networks.")
    ] = options.Dtype.int8,
    mode: Annotated[options.LinearMode, Option(help="Symmetric range, or from minimum to maximum.")] = (
        options.LinearMode.linear_symmetric
    ),
    granularity: Annotated[
        options.LinearGranularity, Option(help="What has a scale of its own.")
    ] = options.LinearGranularity.per_channel,
    block_size: Annotated[int, Option(min=1, help="Elements of a block, along the input channels.")] = 32,
    scale_search: Annotated[bool, Option(help="Search the scales of least squared error.")] = False,
    smaller_block: Annotated[bool, Option(help="Use smaller blocks where the size does not divide.")] = False,
    method: Annotated[options.LinearMethod | None, Option(help="Fit to the layers' outputs on --data.")] = None,
    activation_aware_scale: Annotated[
        bool, Option("--activation-aware-scale", help="With --method: scale channels first, as AWQ does.")
    ] = False,
    activations: Annotated[
        bool, Option("--activations", help="Activations of 8 bits, too, signed as --dtype is; needs --data.")
    ] = False,
    observer: Annotated[
        options.Observer, Option(help="How the range of an activation is found.")
    ] = options.Observer.min_max,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    strict: options.Strict = False,
    all_constants: options.AllConstants = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.LearningData = None,
    test_data: options.TestData = None,
    metric: options.JudgedBy = None,
    verify_threshold: options.VerifyThreshold = None,
    min_snr: options.MinSnr = None,
    as_json: options.Json = False,
) -> None:
    """Replace weights by 4- or 8-bit integers with scales; with --activations, compute in 8 bits, too (W8A8)."""
    from corepress.coreml import OpLinearQuantizerConfig

    if dtype is options.Dtype.float16:
        raise ConfigError(f"--dtype float16: {model} is no neural network; ML programs get their type when converted")
    chosen = config_of(config, lambda: OpLinearQuantizerConfig(
        mode=mode.value, dtype=dtype.value, granularity=granularity.value, block_size=block_size,
        weight_threshold=weight_threshold, scale_search=scale_search, smaller_block=smaller_block,
    ))  # fmt: skip
    more = {"activation_aware_scale": True} if activation_aware_scale else {}

    def step(source: Model, progress: Any, samples: Any) -> Model:
        if activations:
            source = quantize_activations(
                source, samples, chosen, observer.value,
                target=target, workers=workers, progress=progress, strict=strict,
            )  # fmt: skip
        return compressed(
            source, "linear_quantize_weights", chosen, joint, method, samples,
            target=target, workers=workers, progress=progress, strict=strict, spare_constants=not all_constants, **more,
        )  # fmt: skip

    check = Check(verify, data, test_data, metric, verify_threshold, min_snr)
    fits = option_of(method) or ("--activations" if activations else "")
    run_step("quantize", model, output, overwrite, as_json, step, check, fits)


@command(Checked)
def prune(
    model: options.Input,
    output: options.Output,
    sparsity: Annotated[float | None, Option(min=0, max=1, help="Part of the values to set to zero.")] = None,
    threshold: Annotated[float | None, Option(min=0, help="Set values up to this magnitude to zero.")] = None,
    minimum_sparsity: Annotated[float, Option(min=0, max=1, help="With --threshold: else stay dense.")] = 0.5,
    n_m: Annotated[str | None, Option("--n-m", help="N:M, zero the N smallest of every M values.")] = None,
    block_size: Annotated[int | None, Option(min=2, help="Zero whole runs of this many channels.")] = None,
    dim: Annotated[int | None, Option(min=0, max=1, help="Axis of --n-m and --block-size.")] = None,
    method: Annotated[options.PruneMethod | None, Option(help="Fit to the layers' outputs on --data.")] = None,
    weight_threshold: options.Threshold = 2048,
    config: options.Config = None,
    joint: options.Joint = False,
    strict: options.Strict = False,
    all_constants: options.AllConstants = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.LearningData = None,
    test_data: options.TestData = None,
    metric: options.JudgedBy = None,
    verify_threshold: options.VerifyThreshold = None,
    min_snr: options.MinSnr = None,
    as_json: options.Json = False,
) -> None:
    """Set small values to zero and store the others with a bit mask."""
    from corepress.coreml import OpMagnitudePrunerConfig, OpThresholdPrunerConfig

    def from_flags() -> Any:
        if sum(given is not None for given in (sparsity, threshold, n_m)) != 1:
            raise ConfigError("prune needs exactly one of --sparsity, --threshold and --n-m (or --config)")
        if threshold is not None:
            return OpThresholdPrunerConfig(threshold, minimum_sparsity, weight_threshold)
        return OpMagnitudePrunerConfig(sparsity, block_size, ratio_of(n_m), dim, weight_threshold)

    chosen = config_of(config, from_flags)

    check = Check(verify, data, test_data, metric, verify_threshold, min_snr)
    run_step("prune", model, output, overwrite, as_json, lambda source, progress, samples: compressed(
        source, "prune_weights", chosen, joint, method, samples, target=target, workers=workers, progress=progress,
        strict=strict, spare_constants=not all_constants,
    ), check, option_of(method))  # fmt: skip


@command(ForNeuralNetworksToo)
def decompress(
    model: options.Input,
    output: options.Output,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    as_json: options.Json = False,
) -> None:
    """Make compressed weights plain float tensors again."""
    from corepress.coreml import decompress_weights

    run_step("decompress", model, output, overwrite, as_json, lambda source, progress, _: decompress_weights(
        source, workers=workers, progress=progress
    ))  # fmt: skip


@command(Checked)
def compress(
    model: options.Input,
    output: options.Output,
    recipe: Annotated[Path, Option("--recipe", help="A YAML file with the steps; see docs/recipes.md.")],
    strict: options.Strict = False,
    all_constants: options.AllConstants = False,
    target: options.Target = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = None,
    verify: options.Verify = False,
    data: options.LearningData = None,
    test_data: options.TestData = None,
    metric: options.JudgedBy = None,
    verify_threshold: options.VerifyThreshold = None,
    min_snr: options.MinSnr = None,
    as_json: options.Json = False,
) -> None:
    """Run several steps (prune, palettize, quantize) as a recipe says."""
    from corepress import recipe as recipes

    steps = recipes.load(recipe)
    check = Check(verify, data, test_data, metric, verify_threshold, min_snr)
    learning = next((f"method: {step.method} of the recipe" for step in steps.steps if step.method), "")
    run_step("compress", model, output, overwrite, as_json, lambda source, progress, samples: recipes.run(
        source, steps, target=target, workers=workers, progress=progress,
        strict=strict, spare_constants=not all_constants, sample_data=samples or None,
    ), check, learning)  # fmt: skip


@command(Checked)
def verify(
    original: options.Input,
    compressed: Annotated[Path, Argument(metavar="COMPRESSED", help="What was made of it.")],
    data: options.Data = None,
    per_op: Annotated[bool, Option("--per-op", help="Compare every operation, to find the first wrong.")] = False,
    stage: Annotated[
        str | None,
        Option(help="Compare what goes into this stage of a pipeline (name or index; -1 is the last)."),
    ] = None,
    metric: Annotated[options.Metric, Option(help="What decides.")] = options.Metric.snr,
    threshold: Annotated[
        float | None,
        Option(help="The least value of the metric that will do; of kl and max_abs the greatest. [default: by metric]"),
    ] = None,
    min_snr: Annotated[float | None, Option(help="The threshold of --metric snr, in dB. [default: 20]")] = None,
    samples: Annotated[int, Option(min=1, help="How many random inputs, without --data.")] = 4,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run two models on the same inputs and compare the outputs; exit code 1 when they are too far apart."""
    from corepress.cli import show
    from corepress.errors import Missed
    from corepress.verification import verify as compare

    if min_snr is not None and (metric is not options.Metric.snr or threshold is not None):
        raise ConfigError("--min-snr is the threshold of --metric snr; use --threshold for other metrics, not both")
    result = compare(
        original, compressed, data, metric=metric.value, threshold=min_snr if threshold is None else threshold,
        per_op=per_op, samples=samples, seed=seed, device=device, function=function,
        stage=int(stage) if stage is not None and stage.removeprefix("-").isdecimal() else stage,
    )  # fmt: skip
    show.verification(result, as_json)
    if not result.ok:
        raise Missed(result.summary)


@command(Checked)
def run(
    model: options.Input,
    given: Annotated[
        list[str] | None,
        Option("--input", "-i", metavar="NAME=VALUE", help="A .npy, .npz or image file, or a number."),
    ] = None,
    random: Annotated[bool, Option("--random", help="Make random values for the inputs not given.")] = False,
    seed: options.Seed = 0,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the outputs to this .npz file.")] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run a model once and show what it answers."""
    from corepress import runtime
    from corepress.cli import show
    from corepress.formats.atomic import check_destination
    from corepress.runtime.domains import domains
    from corepress.runtime.samples import NPZ, read_inputs, write_outputs

    if output is not None:
        check_destination(output, NPZ, overwrite=overwrite)
    program = runtime.load(model, device, function=function)
    inputs = read_inputs(given or [], program.interface, seed if random else None, domains(program))
    outputs = program.predict(inputs, program.make_state())
    if output is not None:
        write_outputs(output, outputs, overwrite=overwrite)
    show.outputs(outputs, as_json)


@command()
def targets(as_json: options.Json = False) -> None:
    """Show what each version of iOS and macOS can hold."""
    from corepress.cli import show
    from corepress.targets import COLUMNS, table_rows

    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows()]
    if as_json:
        streams.document({"targets": rows})
    else:
        show.targets(rows)
