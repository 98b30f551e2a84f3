"""The charts of a page, as specifications of Vega-Lite that Altair makes; the page holds them with the library that
draws them.

Colours are variables of the page's style sheet, so that charts follow its light, dark and printed forms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from corepress.errors import importing
from corepress.json_numbers import plain

with importing("a report"):
    import altair as alt
    import vl_convert

Rows = Sequence[Mapping[str, Any]]
INK, LINE, BLUE, ORANGE, BAD = "var(--ink)", "var(--line)", "var(--blue)", "var(--orange)", "var(--bad)"
# Altair checks and copies the data that it is given, which takes seconds; so it is given their names only.
_ROWS, _EXTRA = alt.NamedData(name="rows"), alt.NamedData(name="extra")
# Decibels beyond these look the same as these.
_LOWEST, _HIGHEST = -20.0, 100.0


@functools.cache
def library() -> str:
    """The JavaScript that draws the charts, for a script element: Vega, Vega-Lite and vega-embed (BSD-3-Clause)."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", version if version in known else None)
    return str(code).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def bits(rows: Rows, count: int) -> dict[str, Any]:
    """Bits of each of `count` weights along the network. Rows have `place`, `name`, `bits`, `form` and `size`."""
    return _along(rows, count, "bits", "stored bits per weight", BLUE, ["form", "size"])


def damage(rows: Rows, count: int) -> dict[str, Any]:
    """What each weight lost, in dB, along the network. Rows have `place`, `name`, `snr`, `form` and `size`."""
    shown = [_shown(row) for row in rows]
    return _along(shown, count, "level", "SNR of the weight, dB", ORANGE, ["SNR", "form", "size"])


def harm(rows: Rows, count: int) -> dict[str, Any]:
    """The SNR that a search predicts of the outputs, were one weight alone changed. Rows are as for `damage`."""
    shown = [_shown(row) for row in rows]
    return _along(shown, count, "level", "predicted SNR of outputs, dB", ORANGE, ["SNR", "form", "size"])


def operations(rows: Rows, limit: float, first_wrong: str | None) -> dict[str, Any]:
    """SNR of each operation in program order, with the first below the limit marked. Rows have `place`, `name`, `kind`
    and `snr`."""
    shown = [{**_shown(row), "first": row["name"] == first_wrong} for row in rows]
    chart = alt.Chart(_ROWS)
    x = alt.X("place:Q", title="operations in program order", axis=alt.Axis(format="d"))
    y = alt.Y("level:Q", title="SNR, dB")
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("name", "kind", "SNR")]
    line = chart.mark_line(color=BLUE, strokeWidth=1).encode(x, y)
    points = chart.mark_circle(size=30, opacity=1).encode(
        x, y, color=alt.condition("datum.first", alt.value(BAD), alt.value(BLUE)), tooltip=tooltip,
        size=alt.condition("datum.first", alt.value(160), alt.value(24)),
    )  # fmt: skip
    name = chart.transform_filter("datum.first").mark_text(align="left", dx=10, dy=12, color=BAD).encode(
        x, y, text=alt.value("breaks here first")
    )  # fmt: skip
    rule = alt.Chart(_EXTRA).mark_rule(color=BAD, strokeDash=[4, 4]).encode(alt.Y("limit:Q"))
    # Vega warns of a layer that has nothing to show.
    layers = line + points + rule + name if any(row["first"] for row in shown) else line + points + rule
    return _sized(layers, 240, shown, [{"limit": limit}])


def histogram(bins: Rows, marks: Rows, first: str) -> dict[str, Any]:
    """How the values of one weight are spread, with its table or grid marked. `bins` have `weight`, `low`, `high` and
    `share` (of the values, in %); `marks` have `weight`, `value` and `strength`, from 0 to 1. The chart's parameter
    `weight` says which one is shown."""
    chosen = "datum.weight == weight"
    low = alt.X("low:Q", bin="binned", title="value", axis=alt.Axis(format=".3~g"), scale=alt.Scale(nice=False))
    bars = alt.Chart(_ROWS).transform_filter(chosen).mark_bar(color=BLUE, opacity=0.75).encode(
        low, x2="high:Q", y=alt.Y("share:Q", title="% of the values", stack=None),
        tooltip=[alt.Tooltip("low:Q", format=".4g", title="from"), alt.Tooltip("high:Q", format=".4g", title="to"),
                 alt.Tooltip("share:Q", format=".3g", title="% of the values")],
    )  # fmt: skip
    entries = alt.Chart(_EXTRA).transform_filter(chosen).mark_rule(color=ORANGE).encode(
        alt.X("value:Q"), tooltip=[alt.Tooltip("value:Q", format=".5g", title="stored value")],
        opacity=alt.Opacity("strength:Q", scale=None),
    )  # fmt: skip
    chart = alt.layer(bars, entries).add_params(alt.param(name="weight", value=first))
    return _sized(chart, 240, bins, marks)


def front(points: Rows, label: str) -> dict[str, Any]:
    """Size against quality: the best that was found for each size. Points have `size` (MB), `quality`, `bits` and
    `chosen`."""
    chart = alt.Chart(_ROWS)
    x = alt.X("size:Q", title="size, MB", axis=alt.Axis(tickCount=8), scale=alt.Scale(zero=False))
    y = alt.Y("quality:Q", title=label, scale=alt.Scale(zero=False))
    titles = {"size": "size, MB", "quality": label, "bits": "bits per compressible weight"}
    tooltip = [alt.Tooltip(f"{name}:Q", format=".4g", title=title) for name, title in titles.items()]
    line = chart.mark_line(color=BLUE, strokeWidth=1.5).encode(x, y)
    circles = chart.mark_circle(opacity=1).encode(
        x, y, color=alt.condition("datum.chosen", alt.value(ORANGE), alt.value(BLUE)),
        size=alt.condition("datum.chosen", alt.value(220), alt.value(60)), tooltip=tooltip,
    )  # fmt: skip
    name = chart.transform_filter("datum.chosen").mark_text(align="left", dx=12, dy=14, color=ORANGE).encode(
        x, y, text=alt.value("chosen")
    )  # fmt: skip
    return _sized(line + circles + name if any(point["chosen"] for point in points) else line + circles, 300, points)


def models(points: Rows, label: str) -> dict[str, Any]:
    """Several packages of one model, size against quality. Points have `size` (MB), `quality` and `letter`."""
    chart = alt.Chart(_ROWS)
    x = alt.X("size:Q", title="size, MB", axis=alt.Axis(tickCount=8), scale=alt.Scale(zero=False, padding=30))
    y = alt.Y("quality:Q", title=label, scale=alt.Scale(zero=False, padding=20))
    tooltip = [alt.Tooltip("letter:N"), alt.Tooltip("name:N"), *(
        alt.Tooltip(f"{name}:Q", format=".4g") for name in ("size", "quality")
    )]  # fmt: skip
    circles = chart.mark_circle(size=120, opacity=1, color=BLUE).encode(x, y, tooltip=tooltip)
    letters = chart.mark_text(dy=-14, fontWeight="bold").encode(x, y, text="letter:N")
    return _sized(circles + letters, 300, points)


def _along(rows: Rows, count: int, field: str, title: str, color: str, facts: Sequence[str]) -> dict[str, Any]:
    whole = alt.Scale(domain=[-0.5, count - 0.5], nice=False)
    chart = alt.Chart(_ROWS).encode(
        alt.X("place:Q", title="weights in program order", axis=alt.Axis(format="d", tickMinStep=1), scale=whole),
        alt.Y(f"{field}:Q", title=title),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("name", *facts)] + [alt.Tooltip(f"{field}:Q", format=".4g")],
    )
    stems, heads = chart.mark_rule(color=color, opacity=0.35), chart.mark_circle(color=color, opacity=1, size=36)
    return _sized(stems + heads, 180, rows)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with `level`, its SNR as far as it is drawn, and `SNR`, its SNR in words."""
    snr = row["snr"]
    if snr is None or math.isnan(snr):
        return {**row, "snr": None, "level": None, "SNR": "-"}
    words = "nothing lost" if snr == math.inf else f"{snr:.1f} dB"
    return {**row, "snr": None, "level": min(max(snr, _LOWEST), _HIGHEST), "SNR": words}


def _sized(chart: Any, height: int, rows: Rows, extra: Rows = ()) -> dict[str, Any]:
    """The chart as wide as its place, in the colours of the page, with its data."""
    text = {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11}
    lines = {"gridColor": LINE, "domainColor": LINE, "tickColor": LINE}
    made = chart.properties(width="container", height=height, background="transparent").configure(
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        font="system-ui, sans-serif", axis=alt.AxisConfig(**text, **lines), view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(color=INK, fontSize=12),
    )  # fmt: skip
    specification: dict[str, Any] = made.to_dict()
    specification.pop("$schema", None)  # an address, which nobody needs to look up
    specification["datasets"] = {"rows": plain(list(rows)), "extra": plain(list(extra))}
    return specification
