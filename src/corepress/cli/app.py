"""The commands and their options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from corepress.cli import completion, options, refining, rotating, searching, settings, streams
from corepress.cli.activations import Activations
from corepress.cli.check import Check
from corepress.cli.declare import Argument, Command, Option
from corepress.cli.guard import Guarded
from corepress.cli.reporting import OverwritePage, Page
from corepress.cli.steps import check_asks, holds_networks, made_dense, of_networks, of_package, run_step
from corepress.cli.usage import Checked, TakesNetworks

if TYPE_CHECKING:
    from corepress.coreml.activations.exceptions import Found


@click.group(
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    help="Make the weights of Core ML packages small, on any machine.",
    epilog="Exit codes: 0 good; 1 the model misses what was asked of it; 2 wrong usage; 3 anything else; "
    "130 and 143 when stopped. docs/cli.md says more, and lists the fields of --json.",
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


@command(TakesNetworks)
def palettize(
    model: options.Model,
    to: options.Destination,
    how: settings.Palettization,
    *,
    method: Annotated[
        Literal["lut-gptq", "skm"] | None,
        Option(help="Learn from --data: fit to the layers' outputs (lut-gptq), or weigh by sensitivity (skm)."),
    ] = None,
    augment: options.Augment = None,
    choice: options.Choice,
    limits: options.Limits,
    check: Check,
    page: Page,
    running: options.Running,
) -> None:
    """Replace weights by indices into look-up tables (k-means and others)."""
    recipe = ""
    if holds_networks(model):
        step = of_networks(*how.of_network(), running, choice, limits)
    else:
        config = choice.config_of(how.config)
        check_asks(model, [config], choice.config)
        step = of_package("palettize_weights", config, choice.joint, limits, running, method, augment)
        recipe = page.recipe("palettize", config, limits, method, choice.joint, augment)
    run_step("palettize", model, to, running, step, page, check, f"--method {method}" if method else "", recipe)


@command(TakesNetworks)
def quantize(
    model: options.Model,
    to: options.Destination,
    how: settings.Quantization,
    *,
    method: Annotated[
        Literal["gptq"] | None, Option(help="Learn from --data: fit to the layers' outputs (gptq).")
    ] = None,
    augment: options.Augment = None,
    activation_aware_scale: Annotated[
        bool, Option("--activation-aware-scale", help="With --method: scale input channels first, as AWQ does.")
    ] = False,
    both: Activations,
    choice: options.Choice,
    limits: options.Limits,
    check: Check,
    page: Page,
    running: options.Running,
) -> None:
    """Replace weights by 4- or 8-bit integers with scales; with --activations, compute in 8 bits, too (W8A8)."""
    fits = f"--method {method}" if method else "--activations" if both.activations else ""
    recipe: str | Callable[[], str] = ""
    told: list[Found] = []
    if holds_networks(model):
        step = of_networks(*how.of_network(), running, choice, limits)
    else:
        config = choice.config_of(how.config)
        check_asks(model, [config], choice.config, both.activations)
        more = {"activation_aware_scale": True} if activation_aware_scale else {}
        step = of_package("linear_quantize_weights", config, choice.joint, limits, running, method, augment, **more)
        again = None
        if both.activations:
            step = both.beside(step, config, check, limits, running, told.append)
            again = partial(both.again, config, model, check, told)
        if not more:
            # Which exceptions were found is known afterwards.
            recipe = partial(page.recipe, "quantize", config, limits, method, choice.joint, augment, again)
    run_step("quantize", model, to, running, step, page, check, fits, recipe, told)


@command(Checked)
def prune(
    model: options.Input,
    to: options.Destination,
    how: settings.Pruning,
    *,
    method: Annotated[
        Literal["sparsegpt"] | None, Option(help="Learn from --data: fit to the layers' outputs (sparsegpt).")
    ] = None,
    augment: options.Augment = None,
    choice: options.Choice,
    limits: options.Limits,
    check: Check,
    page: Page,
    running: options.Running,
) -> None:
    """Set small values to zero and store the others with a bit mask."""
    from corepress.formats.mlprogram import load

    source = load(model)
    config = choice.config_of(how.config)
    check_asks(source, [config], choice.config)
    step = of_package("prune_weights", config, choice.joint, limits, running, method, augment)
    recipe = page.recipe("prune", config, limits, method, choice.joint, augment)
    run_step("prune", source, to, running, step, page, check, f"--method {method}" if method else "", recipe)


@command(TakesNetworks)
def decompress(model: options.Model, to: options.Destination, page: Page, running: options.Running) -> None:
    """Make compressed weights plain float tensors again."""
    if holds_networks(model):
        step = of_networks(8, "dequantization", running)
    else:
        step = made_dense(running)
    run_step("decompress", model, to, running, step, page, recipe="steps: [decompress]\n")


@command(TakesNetworks)
def compress(
    model: options.Model,
    to: options.Destination,
    recipe: Annotated[Path, Option("--recipe", help="A YAML file with the steps; see docs/recipes.md.")],
    limits: options.Limits,
    check: Check,
    page: Page,
    running: options.Running,
) -> None:
    """Run several steps (prune, palettize, quantize, activations, refine) as a recipe says; also on older networks."""
    from corepress import recipe as recipes

    steps = recipes.load(recipe, networks=holds_networks(model))
    learns = any(step.activations is not None for step in steps.steps)
    configs = [step.config for step in steps.steps if step.refining is None]
    check_asks(model, configs, recipe, learns)
    learning = next((f"{step.learns_by} of the recipe" for step in steps.steps if step.learns_by), "")
    run_step("compress", model, to, running, lambda source, progress, samples: recipes.run(
        source, steps, workers=running.workers, progress=progress, sample_data=samples or None, **limits.keywords(),
    ), page, check, learning, recipe.read_text(encoding="utf-8"), function=steps.function)  # fmt: skip


@command(Checked)
def search(
    model: options.Input,
    to: options.Destination,
    aim: searching.Aim,
    data: Annotated[
        Path, Option("--data", "--sample-data", exists=True, help="Inputs like those of the app: an .npz, images.")
    ],
    among: searching.Among,
    test_data: Annotated[
        Path | None, Option("--test-data", exists=True, help="Other inputs, for the final number.")
    ] = None,
    recipe: Annotated[
        Path | None, Option("--recipe", help="Write the recipe of the result to this .yaml file.")
    ] = None,
    seed: Annotated[int, Option("--seed", min=0, help="Of the random signs in the prediction.")] = 0,
    device: options.Device = "cpu",
    function: options.Function = None,
    *,
    ways: searching.Ways,
    page: Page,
    running: options.Running,
) -> None:
    """Find for each weight the form with which the model fits a size, or keeps its answers, best."""
    searching.run(
        model, to, recipe, page, running, data=data, test_data=test_data, seed=seed, device=device, function=function,
        **aim.keywords(), **among.keywords(), **ways.keywords(),
    )  # fmt: skip


@command()
def rotate(
    model: options.Input,
    to: options.Destination,
    seed: Annotated[int, Option("--seed", min=0, help="Another number gives another rotation.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Rotate what flows between the layers of a language model, so that its weights lose less; its answers stay."""
    rotating.run(model, to, seed, as_json)


@command(Checked)
def refine(
    original: options.Input,
    small: Annotated[Path, Argument(metavar="SMALL", help="The package that was made of it, compressed.")],
    to: options.Destination,
    learning: refining.Learning,
    device: options.Device = "cpu",
    function: options.Function = None,
    *,
    page: Page,
    as_json: options.Json = False,
) -> None:
    """Let a compressed package learn from data to answer as its original does; its size and its forms stay."""
    refining.run(original, small, to, page, as_json, learning, device=device, function=function)


@command(Checked)
def verify(
    original: options.Input,
    compressed: Annotated[Path, Argument(metavar="COMPRESSED", help="The model that was made of it.")],
    *,
    data: options.Data = None,
    per_op: Annotated[
        bool, Option("--per-op", help="Compare every operation, to find the first that went wrong.")
    ] = False,
    stage: Annotated[
        str | None,
        Option(help="Compare what goes into this stage of a pipeline: its name or index; -1 is the last."),
    ] = None,
    metric: Annotated[options.Metric, Option(help="What decides whether the models are near enough.")] = "snr",
    threshold: Annotated[float | None, Option(help=options.THRESHOLD)] = None,
    min_snr: options.MinSnr = None,
    tokens: Annotated[
        str | None,
        Option(help="Of a language model, the input that holds tokens. [default: the one that looks up the words]"),
    ] = None,
    logits: Annotated[
        str | None,
        Option(help="Of a language model, the output with a number for each token that may follow. [default: found]"),
    ] = None,
    samples: options.RandomInputs = 4,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    function: options.Function = None,
    page: Page,
    overwrite: OverwritePage = False,
    as_json: options.Json = False,
) -> None:
    """Run two models on the same inputs and compare the outputs; exit code 1 if they are too far apart."""
    from corepress.cli import show
    from corepress.errors import Missed
    from corepress.verification import verify as compare

    page.check([original, compressed], overwrite=overwrite)
    watch = page.watch(original, function)
    result = compare(
        original, compressed, data,
        metric=metric, threshold=options.threshold_of(metric, threshold, min_snr, "--threshold"),
        per_op=per_op, samples=samples, seed=seed, device=device, function=function, tokens=tokens, logits=logits,
        stage=int(stage) if stage is not None and stage.removeprefix("-").isdecimal() else stage, watch=watch,
    )  # fmt: skip
    page.write_verification(original, compressed, result, watch, overwrite=overwrite)
    show.verification(result, as_json, page.facts())
    if not result.ok:
        raise Missed(result.summary)


@command(Checked)
def compare(
    original: options.Input,
    compressed: Annotated[list[Path], Argument(metavar="COMPRESSED...", help="One or more that were made of it.")],
    *,
    data: options.Data = None,
    metric: Annotated[options.Metric, Option(help="What is drawn beside the size.")] = "snr",
    samples: options.RandomInputs = 4,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    function: options.Function = None,
    page: Page,
    overwrite: OverwritePage = False,
    as_json: options.Json = False,
) -> None:
    """Show several packages of one model side by side: size, answers, systems, hazards."""
    from corepress.cli import show
    from corepress.reports.comparison import compare as compared

    models = [original, *compressed]
    page.check(models, overwrite=overwrite)
    with show.progress("compare") as progress:
        result = compared(
            models, data, metric=metric, samples=samples, seed=seed, device=device, function=function, progress=progress
        )
    page.write_comparison(result, overwrite=overwrite)
    show.comparison(result, as_json, page.facts())


@command(Checked)
def run(
    model: options.Input,
    given: Annotated[
        list[str] | None,
        Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input and its value: a .npy, .npz or image file, or a number.",
        ),
    ] = None,
    random: Annotated[bool, Option("--random", help="Make random values for the inputs that are not given.")] = False,
    seed: options.Seed = 0,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the outputs to this .npz file.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file of --output if it exists.")] = False,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run a model once and show its outputs."""
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


@command(Checked)
def lint(
    model: options.Input,
    device: Annotated[
        Literal["ane", "gpu", "cpu"] | None,
        Option(help="Only what concerns the Neural Engine (ane), the GPU or the CPU. [default: all of them]"),
    ] = None,
    target: Annotated[
        str | None,
        Option("--target", help="The oldest system on which the model will run. [default: the oldest that reads it]"),
    ] = None,
    sarif: Annotated[
        Path | None, Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0; - prints them.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file of --sarif if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what in a model devices are reported to get wrong, or to be slow with; exit code 1 if there is anything."""
    from corepress.cli import show
    from corepress.errors import Missed
    from corepress.linting import lint as check
    from corepress.linting.sarif import check_output, write

    to_file = sarif is not None and str(sarif) != "-"
    if sarif is not None and to_file:
        check_output(sarif, overwrite)
    found = check(model, device, target)
    if sarif is not None:
        write(found.to_sarif(), sarif if to_file else None, overwrite)
    if sarif is None or to_file:
        show.findings(found, as_json)
    if found.items:
        raise Missed(found.summary)


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
