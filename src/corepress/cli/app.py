"""The commands and their options: those that make models small; the others are in `looking.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from corepress.cli import completion, looking, migrating, options, refining, rotating, searching, settings
from corepress.cli.activations import Activations
from corepress.cli.again import and_refine
from corepress.cli.check import Check
from corepress.cli.declare import Argument, Command, Option
from corepress.cli.guard import Guarded
from corepress.cli.reporting import Page
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
    refine: options.Refine = None,
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
        recipe = page.recipe("palettize", config, limits, method, choice.joint, augment, refine=refine)
    fits = f"--method {method}" if method else ""
    run_step("palettize", model, to, running, step, page, check, fits, recipe, refine=refining.asked(refine))


def quantize(
    model: options.Model,
    to: options.Destination,
    how: settings.Quantization,
    *,
    method: Annotated[
        Literal["gptq"] | None, Option(help="Learn from --data: fit to the layers' outputs (gptq).")
    ] = None,
    augment: options.Augment = None,
    refine: options.Refine = None,
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
            recipe = partial(page.recipe, "quantize", config, limits, method, choice.joint, augment, again, refine)
    run_step("quantize", model, to, running, step, page, check, fits, recipe, told, refine=refining.asked(refine))


def prune(
    model: options.Input,
    to: options.Destination,
    how: settings.Pruning,
    *,
    method: Annotated[
        Literal["sparsegpt", "sparsegpt-global"] | None,
        Option(
            help="Learn from --data: fit to the layers' outputs; --sparsity of each weight (sparsegpt), or of all "
            "together, where it costs least (sparsegpt-global)."
        ),
    ] = None,
    augment: options.Augment = None,
    refine: options.Refine = None,
    choice: options.Choice,
    limits: options.Limits,
    check: Check,
    page: Page,
    running: options.Running,
) -> None:
    """Set small values to zero and store the others with a bit mask."""
    from corepress.formats.opening import load

    source = load(model)
    config = choice.config_of(how.config)
    check_asks(source, [config], choice.config)
    step = of_package("prune_weights", config, choice.joint, limits, running, method, augment)
    recipe = page.recipe("prune", config, limits, method, choice.joint, augment, refine=refine)
    fits = f"--method {method}" if method else ""
    run_step("prune", source, to, running, step, page, check, fits, recipe, refine=refining.asked(refine))


def decompress(model: options.Model, to: options.Destination, page: Page, running: options.Running) -> None:
    """Make compressed weights plain float tensors again."""
    if holds_networks(model):
        step = of_networks(8, "dequantization", running)
    else:
        step = made_dense(running)
    run_step("decompress", model, to, running, step, page, recipe="steps: [decompress]\n")


def compress(
    model: options.Model,
    to: options.Destination,
    recipe: Annotated[Path, Option("--recipe", help="A YAML file with the steps; see docs/recipes.md.")],
    refine: options.Refine = None,
    *,
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
    function = steps.function
    text = and_refine(recipe.read_text(encoding="utf-8"), refine, function)
    last = refining.asked(refine, function)
    if last is None and steps.ends_refining:
        # So that it tells what it gained, and keeps that if it is stopped.
        steps, last = steps.without_last, steps.steps[-1].refining
    run_step("compress", model, to, running, lambda source, progress, samples: recipes.run(
        source, steps, workers=running.workers, progress=progress, sample_data=samples or None, **limits.keywords(),
    ), page, check, learning, text, function=function, refine=last)  # fmt: skip


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


def rotate(
    model: options.Input,
    to: options.Destination,
    seed: Annotated[int, Option("--seed", min=0, help="Another number gives another rotation.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Rotate what flows between the layers of a language model, so that its weights lose less; its answers stay."""
    rotating.run(model, to, seed, as_json)


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


def migrate(
    model: options.Input,
    to: options.Destination,
    precision: Annotated[
        Literal["as_is", "float32", "float16"], Option("--precision", help="Compute in this type instead.")
    ] = "as_is",
    as_json: options.Json = False,
) -> None:
    """Write a Core AI model (.aimodel, iOS 27) that answers as a package does, with its weights as compressed."""
    migrating.run(model, to, precision, as_json)


# All commands, in the order in which one needs them, each with what checks its options.
COMMANDS: tuple[tuple[Callable[..., None], type[Command]], ...] = (
    (looking.info, Command),
    (palettize, TakesNetworks),
    (quantize, TakesNetworks),
    (prune, Checked),
    (decompress, TakesNetworks),
    (compress, TakesNetworks),
    (search, Checked),
    (rotate, Command),
    (refine, Checked),
    (migrate, Command),
    (looking.verify, Checked),
    (looking.compare, Checked),
    (looking.run, Checked),
    (looking.tokenize, Command),
    (looking.lint, Checked),
    (looking.targets, Command),
)
for _function, _kind in COMMANDS:
    app.declare(_function.__name__, partial(_kind, _function))
