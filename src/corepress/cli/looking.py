"""The commands that make no model: they show what one is, run it, and compare it with others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from corepress.cli import options, streams
from corepress.cli.declare import Argument, Option
from corepress.cli.reporting import OverwritePage, Page


def info(
    model: options.Input,
    everything: Annotated[bool, Option("--all", help="List all weights, in program order.")] = False,
    coreai: Annotated[
        bool, Option("--coreai", help="Show instead what `migrate` could bring over to Core AI, and what not.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what a model of any kind is, its inputs, outputs and weights, and what can be done with it."""
    if coreai:
        from corepress.cli.migrating import foresee

        foresee(model, as_json)
        return
    from corepress.cli.info import info as show
    from corepress.description import describe

    show(describe(model), everything, as_json)


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


def tokenize(
    model: options.Input,
    texts: Annotated[
        list[Path] | None,
        Argument(
            metavar="[TEXTS]...",
            help="Texts: .txt (one a line), .md (paragraphs) or .jsonl files.  [default: those of corepress]",
        ),
    ] = None,
    *,
    tokenizer: Annotated[
        Path, Option("--tokenizer", exists=True, help="The tokenizer.json of the model, or a folder that holds one.")
    ],
    to: options.Destination,
    length: Annotated[
        int | None,
        Option(min=1, help="Tokens of a sample. [default: all that the model takes, up to 128; of steps 64]"),
    ] = None,
    prompt: Annotated[
        int | None, Option(min=1, help="Of a model with a state, tokens of the first step. [default: half of them]")
    ] = None,
    count: Annotated[int | None, Option(min=1, help="At most so many samples. [default: all]")] = None,
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Make samples of texts for a model of language: what --data of the other commands takes."""
    from corepress.cli.tokenizing import run as make

    make(model, texts or [], tokenizer, to, as_json, length=length, prompt=prompt, count=count, function=function)


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
    data: Annotated[
        Path | None,
        Option(
            "--data",
            exists=True,
            help="All inputs: an .npz file, an image, or a folder. Of a sequence all steps are run.",
        ),
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the outputs to this .npz file.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file of --output if it exists.")] = False,
    device: options.Device = "cpu",
    function: options.Function = None,
    as_json: options.Json = False,
) -> None:
    """Run a model once, or through the steps of a sequence, and show its outputs."""
    from corepress import runtime
    from corepress.cli import show
    from corepress.formats.atomic import check_destination
    from corepress.runtime.domains import domains
    from corepress.runtime.samples import NPZ, only_sample, read_inputs, write_outputs

    if output is not None:
        check_destination(output, NPZ, overwrite=overwrite)
    program = runtime.load(model, device, function=function)
    if data is not None:
        sample = only_sample(data, program.interface)
    else:
        sample = read_inputs(given or [], program.interface, seed if random else None, domains(program))
    answers = program.run_sequence(sample)
    if output is not None:
        write_outputs(output, answers, overwrite=overwrite)
    show.outputs(answers, as_json)


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


def targets(as_json: options.Json = False) -> None:
    """Show what each version of iOS and macOS can hold."""
    from corepress.cli import show
    from corepress.targets import COLUMNS, table_rows

    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows()]
    if as_json:
        streams.document({"targets": rows})
    else:
        show.targets(rows)
