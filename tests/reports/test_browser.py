"""The page in a browser: it draws without an error or a request, in any window, light, dark and on paper."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tools.browser import DESKTOP, PHONE, opened

from corepress.reports import Report
from corepress.reports.page import page
from tests.reports.made import models, rows, search, verification, written

INK = {"light": "rgb(28, 30, 33)", "dark": "rgb(230, 232, 235)"}
COLOR = "element => getComputedStyle(element).fill"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module", params=[10, pytest.param(2000, marks=pytest.mark.slow)])
def path(request: pytest.FixtureRequest, folder: Path) -> Path:
    return written(folder, request.param)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (PHONE, "dark"),
        (DESKTOP, "light"),
        pytest.param(PHONE, "light", marks=pytest.mark.slow),
        pytest.param(DESKTOP, "dark", marks=pytest.mark.slow),
    ],
)
def test_it_draws_without_an_error_or_a_request(browser: Any, path: Path, width: int, scheme: str) -> None:
    with opened(browser, path, width, scheme) as found:
        page = found.page
        assert found.said == [] and found.requests == [path.as_uri()]
        assert page.evaluate("window.broken") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert found.cut_off == []
        drawn = page.query_selector_all(".chart svg")
        assert len(drawn) == len(page.query_selector_all(".chart")) == 4
        for chart in drawn:
            assert 250 < chart.bounding_box()["width"] <= width
            assert chart.query_selector(".role-axis-title text").evaluate(COLOR) == INK[scheme]
        assert page.evaluate("document.querySelectorAll('.chart svg .mark-symbol path').length") > 20


@pytest.mark.parametrize(
    "snr", [math.inf, 30.0, *(pytest.param(snr, marks=pytest.mark.slow) for snr in (math.nan, -math.inf))]
)
def test_numbers_that_can_not_be_drawn_are_no_error(browser: Any, folder: Path, snr: float) -> None:
    """Such as those of a model that answers exactly the same: then nothing breaks, and nothing is lost."""
    few = tuple(replace(row, snr=snr) for row in rows(3))
    values = tuple(replace(row, snr=snr) for row in verification(3).operations)
    checked = replace(verification(3), operations=values)
    nothing = tuple(replace(point, quality={"snr": math.inf}) for point in search().points)
    path = folder / "odd.html"
    report = Report(few, 10, 10, "iOS18", "iOS18")
    found = replace(search(), points=nothing)
    text = page("search", report, names=("a", "b"), models=models(3), verification=checked, search=found)
    path.write_text(text, encoding="utf-8")
    with opened(browser, path) as seen:
        assert seen.said == []
        places = "document.querySelectorAll('.chart').length"
        assert seen.page.evaluate(f"document.querySelectorAll('.chart svg').length === {places}")


def test_the_worst_weight_is_shown_until_another_is_chosen(browser: Any, path: Path) -> None:
    with opened(browser, path) as found:
        page = found.page
        visible = "[...document.querySelectorAll('[data-weight]')].filter(e => !e.hidden).map(e => e.dataset.weight)"
        marks = "document.querySelectorAll('[data-chart=histogram] .mark-rect path').length"
        assert page.evaluate(visible) == ["0"]
        assert page.evaluate(marks) >= 80
        page.select_option("#weight", "3")
        page.wait_for_function(f"{visible}.join() === '3'")
        assert page.evaluate(marks) >= 80
        assert found.said == []


def test_it_prints_in_the_colours_of_paper(browser: Any, path: Path) -> None:
    with opened(browser, path, DESKTOP, "dark") as found:
        page = found.page
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        text = page.query_selector(".chart .role-axis-title text")
        assert text.evaluate(COLOR) == "rgb(0, 0, 0)"
        assert not page.query_selector("select").is_visible()
        page.emulate_media(media="screen", color_scheme="dark")
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert page.evaluate("document.querySelector('details').open"), "what is folded is printed, too"
