"""The page is whole: every section, no more than it should hold, whatever names the files of others have."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from corepress.errors import OutputError
from corepress.reports import Report
from corepress.reports.document import check, write
from corepress.reports.page import page
from corepress.searching.result import Activations
from tests.reports.made import HOSTILE, rows, search, verification, written


class Seen(HTMLParser):
    """The headings, the texts outside of scripts, and what a browser would load."""

    def __init__(self, text: str):
        super().__init__()
        self.headings: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        if self._inside in ("h2",) and data.strip():
            self.headings.append(data.strip())
        if self._inside not in ("script", "style"):
            self.texts.append(data)


def charts(text: str) -> list[str]:
    """What is drawn, as JSON."""
    return re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)


def named_charts(text: str) -> dict[str, str]:
    """The same, by the names of the charts."""
    return dict(re.findall(r'<script type="application/json" id="chart-(\w+)">(.*?)</script>', text))


def test_every_section_is_there_and_those_without_values_are_not(tmp_path: Path) -> None:
    seen = Seen(written(tmp_path, 10).read_text(encoding="utf-8"))
    assert seen.headings == [
        "What it answers",
        "Where it breaks",
        "Weights along the network",
        "The values of a weight",
        "Left alone",
        "To repeat it",
    ]
    report = Report((), 10, 10, "iOS16", "iOS16")
    assert Seen(page("decompress", report, names=("a", "b"))).headings == ["To repeat it"]


def test_a_search_says_which_operations_compute_with_integers() -> None:
    left = Activations(
        54, 50, ("add_<b>4</b>",), ("dense_1", "dense_2", "dense_3"), "output", True, False, {"snr": 30.0}
    )
    report = Report(rows(2), 10, 10, "iOS18", "iOS18")
    text = " ".join(Seen(page("search", report, names=("a", "b"), search=replace(search(), activations=left))).texts)
    assert "50 of 54 operations compute with 8-bit activations; add_<b>4</b> would do too much harm" in text
    assert "dense_1, dense_2, dense_3 have no weights of 8-bit integers" in text


def test_a_search_shows_its_front_and_what_it_predicted() -> None:
    report = Report(rows(10), 80_000, 20_000, "iOS16", "iOS18")
    text = page("search", report, names=("a", "b"), search=search())
    assert Seen(text).headings[0] == "What each size can have"
    assert "That is what was asked for" in text and "it has SNR 24.0 dB" in text and "&lt;i&gt;it" in text
    drawn = {name: json.loads(chart)["datasets"]["rows"] for name, chart in named_charts(text).items()}
    # A model without any error has no place on a scale of decibels.
    assert [(point["size"], point["chosen"]) for point in drawn["front"]] == [(0.01, False), (0.02, True)]
    # A hundredth of the energy is 20 dB.
    assert [(row["name"], row["level"]) for row in drawn["harm"]] == [("layer_9_weight", 20.0)]


def test_names_of_others_are_text_and_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path, 10).read_text(encoding="utf-8")
    seen = Seen(text)
    assert set(seen.loads) == {"data:,"}
    assert "img" not in seen.tags
    # As many scripts as the template has: one for each chart, the library, and its use.
    assert seen.tags.count("script") == len(re.findall(r'id="chart-', text)) + 2 == 6
    shown = "".join(seen.texts)
    assert HOSTILE[0] in shown and HOSTILE[3] in shown
    assert "a" * 200 not in text.split("<script>")[0], "long names are shortened"
    assert "<b>small</b>" in shown
    assert not any("$schema" in chart for chart in charts(text)), "an address that somebody might look up"


def test_the_first_that_breaks_is_marked(tmp_path: Path) -> None:
    text = written(tmp_path, 20).read_text(encoding="utf-8")
    # 60 - 50 n / 20 is below 20 first for n = 17.
    assert "<b>linear</b> <code>layer_17_weight</code> (17.5 dB)" in text
    assert text.count('"first": true') == 1


def test_a_large_network_takes_no_more_room_than_it_may(tmp_path: Path) -> None:
    small, large, larger = (written(tmp_path, count).stat().st_size for count in (10, 2000, 10_000))
    assert large < small + 2_000_000
    assert larger < small + 2_500_000
    text = (tmp_path / "10000.html").read_text(encoding="utf-8")
    assert "Drawn are the 3000 of 10000 weights that lost most" in text
    assert "The 100 weights of 10000 that lost most" in text
    assert "40 of 8750 are here" in text
    worst = Seen(text)
    assert "layer_8_weight" in "".join(worst.texts) and "layer_9999_weight" not in "".join(worst.texts)


def test_numbers_that_are_not_finite_are_words(tmp_path: Path) -> None:
    from dataclasses import replace

    changed = [row for row in rows(10) if row.changed]
    lost = [float("inf"), float("-inf"), float("nan")]
    report = Report(tuple(replace(row, snr=snr) for row, snr in zip(changed, lost, strict=False)), 1, 1, "", "")
    text = page("prune", report, names=("a", "b"))
    assert "nothing lost" in text and "all lost" in text
    assert charts(text) and not any(re.search(r"\b(NaN|Infinity)\b", chart) for chart in charts(text))


def test_a_page_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    check(path)
    write(path, "one")
    with pytest.raises(OutputError, match="it exists already"):
        check(path)
    with pytest.raises(OutputError, match="it exists already"):
        write(path, "two")
    write(path, "three", overwrite=True)
    assert path.read_text() == "three" and [one.name for one in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match=r"ending \.html"):
        check(tmp_path / "page.txt")


def test_where_nothing_breaks_the_heading_does_not_say_so() -> None:
    report = Report(rows(3), 10, 10, "iOS18", "iOS18")
    good = tuple(replace(row, snr=40.0) for row in verification(3).operations)
    text = page("verify", report, names=("a", "b"), verification=replace(verification(3), operations=good))
    headings = Seen(text).headings
    assert "Values on the way" in headings and "Where it breaks" not in headings
    assert "None of the 3 values" in text


def test_a_page_of_a_search_says_which_weights_its_bits_count() -> None:
    report = Report(rows(8), 65536, 20000, "iOS18", "iOS18")
    text = " ".join(Seen(page("search", report, names=("a", "b"), search=search())).texts)
    assert "bits per compressible weight" in text and "over all weights" in text
    assert f"the new model has {report.bits_per_weight:.2f}" in text
    assert "10.00 kB" in text and "bits/weight" not in text


def test_what_a_search_found_prints_as_its_verdict() -> None:
    assert str(search()) == search().summary
    assert "4.00 bits per compressible weight, SNR 24 dB" in str(search())
