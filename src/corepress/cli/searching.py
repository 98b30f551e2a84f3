"""The options of `corepress search`, what they ask for, and what it shows."""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from corepress.cli import streams
from corepress.cli.declare import Option
from corepress.cli.options import Augment, Destination, Refine, Running
from corepress.cli.reporting import Page
from corepress.cli.words import translate
from corepress.errors import ConfigError, Missed

if TYPE_CHECKING:
    from corepress.linting.rule import Group
    from corepress.searching.result import Result


@dataclass(frozen=True)
class Aim:
    """The goal: one of these, and how it is measured."""

    max_size: Annotated[
        str | None, Option("--max-size", help="Bytes that the whole model may have, such as 10MB or 500kB.")
    ] = None
    bits: Annotated[
        float | None,
        Option("--bits", min=0, help="Stored bits per compressible weight: for each of their elements, on average."),
    ] = None
    min_snr: Annotated[float | None, Option("--min-snr", help="The least SNR of the outputs, in dB.")] = None
    min_cosine: Annotated[
        float | None, Option("--min-cosine", min=-1, max=1, help="The least cosine of the outputs with the original's.")
    ] = None
    max_drop: Annotated[float | None, Option("--max-drop", min=0, help="How much of --metric may be lost.")] = None
    metric: Annotated[
        str | None,
        Option(
            "--metric", metavar="METRIC",
            help="One of kl, perplexity and top1, as verify has them; or FILE.py:NAME, a function in a Python file: of "
            "a sample's outputs and the sample, or of the model, of which more is better.",
        ),
    ] = None  # fmt: skip

    def keywords(self) -> dict[str, Any]:
        """As `corepress.search` takes them."""
        named = self.metric is not None and ":" not in self.metric
        return {**vars(self), "metric": self.metric if named or self.metric is None else function_in(self.metric)}


@dataclass(frozen=True)
class Among:
    """What a weight may become, and how it is made."""

    forms: Annotated[
        str | None,
        Option("--forms", help="Some of palettized,quantized,sparse,joint,outliers. [default: the first four]"),
    ] = None
    min_group: Annotated[
        int, Option("--min-group", min=1, help="The fewest channels that may share a look-up table.")
    ] = 8
    method: Annotated[
        Literal["plain", "fitted"],
        Option("--method", help="Whether what is made learns from --data, which takes longer."),
    ] = "plain"
    augment: Augment = None
    cost: Annotated[
        Literal["size", "speed"],
        Option("--cost", help="With speed, forms that are slow on phones count as more bytes in the choice."),
    ] = "size"
    safe: Annotated[
        bool, Option("--safe", help="Leave out forms that devices are reported to get wrong, as lint would say.")
    ] = False
    activations: Annotated[
        bool,
        Option("--activations", help="Quantize activations to 8 bits, too, in as many operations as the goal allows."),
    ] = False
    activation_loss: Annotated[
        float | None,
        Option(
            "--activation-loss", metavar="DB",
            help="With --activations: the SNR that they may cost, in dB; weights leave so much of a goal. "
            "[default: what they are measured to cost, and at most 3]",
        ),
    ] = None  # fmt: skip
    refine: Refine = None
    points: Annotated[int, Option("--points", min=1, help="How many models of the front are measured.")] = 12
    target: Annotated[
        str | None, Option("--target", help="Raise the model to this system first, for example iOS18.")
    ] = None

    def keywords(self) -> dict[str, Any]:
        """As `corepress.search` takes them."""
        given = {word: value for word, value in vars(self).items() if value is not None}
        if self.forms is not None:
            given["forms"] = [word.strip() for word in self.forms.split(",")]
        return given


@dataclass(frozen=True)
class Ways:
    """Where the work is done, and from where it goes on."""

    jobs: Annotated[
        int, Option("--jobs", min=1, help="Processes that measure models; each loads the model by itself.")
    ] = 1
    ray: Annotated[
        str | None,
        Option(
            "--ray", metavar="ADDRESS", help="Measure on this Ray cluster: auto, local, HOST:PORT, ray://HOST:PORT."
        ),
    ] = None
    resume: Annotated[
        Path | None,
        Option("--resume", metavar="DIR", help="Keep what is measured in this folder, and go on from what it holds."),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """As `corepress.search` takes them."""
        return dict(vars(self))


def run(path: Path, to: Destination, recipe: Path | None, page: Page, running: Running, **keywords: Any) -> None:
    """Search, save what was chosen with its recipe and page, show it; raises Missed where the goal is missed."""
    from corepress.cli import show as screen
    from corepress.engine import Stopped
    from corepress.formats.atomic import check_destination
    from corepress.formats.package import check_output
    from corepress.formats.read import load
    from corepress.searching.recipes import RECIPE
    from corepress.searching.search import search

    original = load(path)
    check_output(to.output, path, overwrite=to.overwrite)
    page.check((path, to.output), overwrite=to.overwrite)
    if recipe is not None:
        check_destination(recipe, RECIPE, overwrite=to.overwrite)
    stop: BaseException | None = None
    with screen.progress("search") as progress:
        try:
            result = search(original, workers=running.workers, progress=progress, **keywords)
        except Stopped as stopped:
            result, stop = stopped.result, stopped.__cause__
        result.model.save(to.output, overwrite=to.overwrite)
    try:
        more = _beside(path, to, recipe, page, original, result, keywords)
    except KeyboardInterrupt as late:
        raise type(late)(f"stopped: {to.output} is written, what was to stand beside it may be missing") from late
    show(result, to.output, running.as_json, more, keywords["safe"], keywords["method"] == "plain")
    if stop is not None:
        raise type(stop)(f"stopped: {to.output} is the best that the search had found: {result.summary}")
    if not result.met:
        raise Missed(f"{result.summary}; {to.output} is the best that was found, and is written all the same")


def _beside(
    path: Path, to: Destination, recipe: Path | None, page: Page, original: Any, result: Result, keywords: Any
) -> dict[str, str]:
    """Write the recipe and the page, as far as they are asked for; by field, where they are."""
    from corepress.reports import report
    from corepress.searching.recipes import as_yaml, write

    if recipe is not None:
        learning = (result.activations, result.refinement)
        fits = keywords["method"] == "fitted" or any(step is not None for step in learning)
        learns = ["--data", keywords["data"]] if fits else []
        words = ["corepress", "compress", path, "-o", to.output, "--recipe", recipe, *learns]
        again = shlex.join(map(str, words))
        write(result.recipe, recipe, overwrite=to.overwrite, comment=f"{result.summary}\n{again}")
    if page.report is not None:
        page.write(
            "search", report(result.model), overwrite=to.overwrite, names=(path.name, to.output.name), search=result,
            models=(original, result.model), recipe=as_yaml(result.recipe),
        )  # fmt: skip
    return {**({} if recipe is None else {"recipe": str(recipe)}), **page.facts()}


def function_in(given: str) -> Callable[..., Any]:
    """The function that FILE.py:NAME means; a ConfigError where there is none."""
    file, _, name = given.rpartition(":")
    if not file or not name:
        raise ConfigError(f"--metric {given}: it must be FILE.py:NAME, the name of a function in a Python file")
    if not Path(file).is_file():
        raise ConfigError(f"--metric {given}: there is no file {file}")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--metric {given}: {file} can't be read: {error}") from error
    return FromFile(file, name, text)


class FromFile:
    """A function of a Python file, which other processes and machines make anew of the text of the file."""

    def __init__(self, file: str, name: str, text: str):
        self._made_of = (file, name, text)
        found: dict[str, Any] = {"__name__": "corepress_metric", "__file__": file}
        try:
            exec(compile(text, file, "exec"), found)
        except Exception as error:
            raise ConfigError(
                f"--metric {file}:{name}: {file} can't be run: {type(error).__name__}: {error}"
            ) from error
        self._function = found.get(name)
        if not callable(self._function):
            raise ConfigError(f"--metric {file}:{name}: {file} has no function {name!r}")
        functools.update_wrapper(self, self._function)  # its name, and its parameters

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        return FromFile, self._made_of


def show(result: Result, output: Path, as_json: bool, more: dict[str, str], safe: bool, plain: bool) -> None:
    """The front, and what was chosen, for people or as JSON.

    `more`: further files that were written, by field. `safe`, `plain`: whether that was asked for.
    """
    from corepress.cli.show import facts, reported, reported_data
    from corepress.linting.stored import of_changed

    hazards = of_changed(result.model)
    if as_json:
        streams.document({"output": str(output), **more, **result.to_dict(), **reported_data(hazards)})
        return
    from corepress.cli.terminal import console

    console().print(result.table())
    facts([
        ("written to", str(output)),
        ("chosen", result.summary),
        ("forms", _forms(result)),
        *([("activations", result.activations.summary)] if result.activations else []),
        *([("refined", result.refinement.summary)] if result.refinement else []),
        ("measured on", _basis(result)),
        *reported(hazards),
        *((label, path) for label, path in more.items()),
        *(("note", translate(note)) for note in result.notes),
        *(("hint", hint) for hint in _hints(result, hazards, safe, plain)),
    ])  # fmt: skip


# With fewer bits for each weight, forms that learn from samples keep far more of the answers.
_COARSE = 5.0


def _hints(result: Result, hazards: Sequence[Group], safe: bool, plain: bool) -> Iterator[str]:
    """What else there is to try with an ML program."""
    from corepress.formats.mlprogram import Model

    if not isinstance(result.model, Model):
        return
    if not safe and any(rule.severity != "no gain" for rule, _ in hazards):
        yield "--safe leaves out forms that devices are reported to get wrong, or to be slow with"
    if plain and result.chosen.bits < _COARSE:
        yield "--method fitted learns from --data, which takes longer and at few bits keeps more of the answers"


def _basis(result: Result) -> str:
    """On what the numbers were measured."""
    chosen_by, tested = (result.samples[part] for part in ("chosen", "tested"))
    front = f"{chosen_by} sample{'s' if chosen_by > 1 else ''} that the choice was made by"
    if result.tested:
        return f"the front: {front}; the chosen model: {tested} that nothing saw before"
    return f"{front}: give more, or others (--test-data), for a number that nothing was made by"


def _forms(result: Result) -> str:
    """How many weights got each form, most first."""
    counted = Counter(weight.form for weight in result.chosen.weights)
    return "\n".join(f"{count} x {form}" for form, count in counted.most_common())
