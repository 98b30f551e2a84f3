"""The page that a command writes on request, about what it did and measured: `--report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from corepress.cli.declare import Option
from corepress.cli.words import translate

if TYPE_CHECKING:
    from corepress.cli.again import Beside
    from corepress.cli.options import Limits
    from corepress.coreml import OptimizationConfig
    from corepress.reports import Report
    from corepress.reports.answers import Answers
    from corepress.reports.comparison import Comparison
    from corepress.verification import Verification


OverwritePage = Annotated[bool, Option("--overwrite", help="Replace the page of --report if it exists.")]


@dataclass(frozen=True)
class Page:
    """Whether a command writes a page about what it did. `check` comes before the work, `write` after it."""

    report: Annotated[
        Path | None,
        Option("--report", help="Write a page with charts to this .html file: one file that opens anywhere."),
    ] = None

    def check(self, sources: Sequence[Path] = (), *, overwrite: bool = False) -> None:
        """A CorepressError where the page can't be written; `sources`: the models, which it may not lie in."""
        if self.report is not None:
            from corepress.reports.document import check

            check(self.report, overwrite=overwrite, sources=sources)

    def watch(self, model: Any, function: str | None = None) -> Answers | None:
        """What watches a verification for the page, if there is one."""
        if self.report is None:
            return None
        from corepress.reports.answers import Answers
        from corepress.runtime.load import interface

        return Answers(interface(model, function))

    def recipe(
        self,
        kind: str,
        config: OptimizationConfig,
        limits: Limits,
        method: str | None,
        joint: bool,
        augment: int | None = None,
        beside: Callable[[], Beside] | None = None,
        refine: str | None = None,
    ) -> str:
        """The recipe that does the same, for the page; empty without one. (A first step compresses nothing further.)
        What is asked of all steps is no part of a recipe, and stands above it.

        `beside`: gives the step on activations, if there is one. `refine`: what --refine says.
        """
        if self.report is None or joint:
            return ""
        from corepress.cli.again import recipe_of

        text = recipe_of(kind, config, limits.target, method, beside and beside(), augment, refine)
        return f"# with --all-constants\n{text}" if text and limits.all_constants else text

    def write(self, task: str, weights: Report, *, overwrite: bool = False, **content: Any) -> None:
        """Write the page, if it was asked for. `content`: as `corepress.reports.page.page` takes it."""
        if self.report is None:
            return
        from corepress.linting import lint
        from corepress.reports.document import write
        from corepress.reports.page import page

        if models := content.get("models"):
            content["findings"] = lint(models[1])
        made = page(task, weights, command=command_line(), translate=translate, **content)
        write(self.report, made, overwrite=overwrite)

    def write_verification(
        self, original: Path, compressed: Path, result: Verification, watch: Answers | None, *, overwrite: bool = False
    ) -> None:
        """The same for two models that were compared."""
        if self.report is None:
            return
        from corepress.formats.read import load
        from corepress.reports.rows import between

        models = load(original), load(compressed)
        self.write(
            "verify", between(*models), overwrite=overwrite, names=(original.name, compressed.name), models=models,
            verification=result, basis=_basis(result), answers=watch,
        )  # fmt: skip

    def write_comparison(self, comparison: Comparison, *, overwrite: bool = False) -> None:
        """The same for several models that were compared."""
        if self.report is None:
            return
        from corepress.reports.comparison_page import comparison_page
        from corepress.reports.document import write

        made = comparison_page(comparison, command=command_line(), translate=translate)
        write(self.report, made, overwrite=overwrite)

    def facts(self) -> dict[str, str]:
        """What JSON says of the page."""
        return {} if self.report is None else {"report": str(self.report)}


def _basis(result: Verification) -> str:
    return f"{result.counted}: random inputs" if result.weak else f"{result.counted} of --data"


def command_line() -> str:
    """The command as it was typed, quoted for a shell."""
    return shlex.join(["corepress", *sys.argv[1:]])
