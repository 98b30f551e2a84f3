"""One HTML file that needs nothing: where it may be written, how a template becomes it, and words for numbers in it.

Names and texts come from files of others: the templates escape all of them, and what they make may load nothing (its
Content-Security-Policy).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corepress.errors import importing, one_line
from corepress.formats.atomic import Kind, check_destination, replacing
from corepress.metrics import worded
from corepress.sizes import size
from corepress.version import __version__

PAGE = Kind("a page", ".html", False, lambda path: path.is_file() and path.suffix.lower() == ".html")


def check(path: Path, *, overwrite: bool = False, sources: Sequence[Path] = ()) -> None:
    """A CorepressError where no page can be written there, before any work is done: also for what is not installed."""
    check_destination(path, PAGE, overwrite=overwrite, sources=sources)
    with importing("a report"):
        import altair  # noqa: F401
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401


def write(path: Path, content: str, *, overwrite: bool = False) -> None:
    """Write a page, whole or not at all."""
    with replacing(path, PAGE, overwrite=overwrite) as partial:
        partial.write_text(content, encoding="utf-8")


def render(template: str, *, charts: Mapping[str, Any], **content: Any) -> str:
    """A template of this folder, filled. `charts`: specifications by the names that the template gives their places."""
    with importing("a report"):
        import jinja2

    from corepress.reports import figures

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("corepress.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"size": size, "decibels": decibels, "short": short, "number": number}
    made = f"corepress {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    library = figures.library() if charts else ""
    return environment.get_template(template).render(charts=charts, library=library, made=made, **content)


def decibels(value: float | None) -> str:
    """An SNR for people."""
    if value is None or math.isnan(value):
        return "-"
    return "nothing lost" if value == math.inf else "all lost" if value == -math.inf else f"{value:.1f} dB"


def number(value: float | None) -> str:
    """A number with the digits that a table has room for."""
    return "-" if value is None else f"{value:.4g}"


def measured(metric: str, value: float | None) -> str:
    """The value of a metric, with its unit."""
    if value is None:
        return "-"
    _, unit = worded(metric)
    if unit == " dB":
        return decibels(value)
    return f"{value:.5f}" if metric == "cosine" else f"{value:.4g}{unit}"


def label(metric: str) -> str:
    """The name of a metric, or of somebody's own, with its unit."""
    return ",".join(worded(metric)).rstrip(",")


def short(name: str) -> str:
    """A name that may be of any length, as far as it is shown."""
    text = one_line(name)
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"
