"""What `corepress refine` does and shows, and `--refine` of the commands that compress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from corepress.cli import streams
from corepress.cli.declare import Option
from corepress.cli.options import Destination
from corepress.cli.reporting import Page
from corepress.cli.words import translate

if TYPE_CHECKING:
    from corepress.refining.options import Refining
    from corepress.refining.result import Refinement


@dataclass(frozen=True)
class Learning:
    """From what is learnt, and for how long."""

    data: Annotated[
        Path, Option("--data", "--sample-data", exists=True, help="Inputs like those of the app: an .npz, images.")
    ]
    test_data: Annotated[
        Path | None, Option("--test-data", exists=True, help="Other inputs, for the numbers at the end.")
    ] = None
    steps: Annotated[
        int | None, Option("--steps", min=1, help="So many steps. [default: 400, or what --time allows]")
    ] = None
    time: Annotated[str | None, Option("--time", help="End after this time, such as 90s, 10m or 1h.")] = None
    batch: Annotated[int, Option("--batch", min=1, help="Samples in a step.")] = 16
    augment: Annotated[
        bool,
        Option("--augment/--no-augment", help="Learn from new samples, too, that are made of those of --data."),
    ] = True
    seed: Annotated[int, Option("--seed", min=0, help="Of the order of the samples, and of new ones.")] = 0
    resume: Annotated[
        Path | None,
        Option("--resume", metavar="DIR", help="Keep in this folder how far it is, and go on from what it holds."),
    ] = None


def run(
    original: Path, small: Path, to: Destination, page: Page, as_json: bool, learning: Learning, **keywords: Any
) -> None:
    """Refine, save the model with its page, and show what was gained."""
    from corepress.cli import show as screen
    from corepress.formats.opening import load
    from corepress.formats.package import check_output
    from corepress.refining.refine import refine

    for source in (original, small):
        check_output(to.output, source, overwrite=to.overwrite)
    page.check((original, small, to.output), overwrite=to.overwrite)
    exact, given = load(original), load(small)
    with screen.progress("refine") as progress:
        result, stop = _even_if_stopped(
            lambda: refine(exact, given, learning.data, progress=progress, **_of(learning), **keywords)
        )
        result.model.save(to.output, overwrite=to.overwrite)
    if page.report is not None:
        from corepress.reports import report

        page.write(
            "refine", report(result.model), overwrite=to.overwrite, names=(original.name, to.output.name),
            models=(exact, result.model), verification=result.after, basis=translate(result.basis),
            notes=result.notes,
        )  # fmt: skip
    show(result, to.output, as_json, page.facts())
    give_up(stop, result, to.output)


def asked(refine: str | None, function: str | None = None) -> Refining | None:
    """What --refine says. `function`: the one that samples are for, if that was said."""
    from corepress.refining.options import at_last

    return None if refine is None else at_last(refine, function)


def at_last(
    how: Refining, original: Any, small: Any, samples: Any, progress: Any
) -> tuple[Refinement, BaseException | None]:
    """A refinement of what a command made; and what stopped it, if so."""
    from corepress.refining.refine import refine

    keywords = how.keywords()
    return _even_if_stopped(lambda: refine(original, small, samples, progress=progress, **keywords))


def give_up(stop: BaseException | None, result: Refinement | None, output: Path) -> None:
    """End as a command does that was stopped, once the best until then is written; nothing if it was not."""
    if stop is not None and result is not None:
        raise type(stop)(f"stopped: {output} is the best until then: {result.summary}")


def _even_if_stopped(work: Callable[[], Refinement]) -> tuple[Refinement, BaseException | None]:
    from corepress.engine import Stopped

    try:
        return work(), None
    except Stopped as stopped:
        return stopped.result, stopped.__cause__


def _of(learning: Learning) -> dict[str, Any]:
    return {word: value for word, value in vars(learning).items() if word != "data"}


def show(result: Refinement, output: Path, as_json: bool, more: dict[str, str]) -> None:
    """What was gained, for people or as JSON. `more`: further files that were written, by field."""
    if as_json:
        streams.document({"output": str(output), **more, **result.to_dict()})
        return
    from corepress.cli.show import facts
    from corepress.cli.terminal import console

    console().print(result.table())
    facts([
        ("written to", str(output)),
        ("result", result.summary),
        ("measured on", translate(result.basis)),
        ("loss held back", "{:.4g} -> {:.4g}".format(*result.loss)),
        ("learnt", f"{result.learnt} constants"),
        *((name, f"stays as it is: {translate(reason)}") for name, reason in result.frozen.items()),
        *((label, path) for label, path in more.items()),
    ])  # fmt: skip
