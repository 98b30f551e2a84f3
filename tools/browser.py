"""Opens pages in a headless Chromium of the system, by Playwright: for pictures of pages, and for tests of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESKTOP = 390, 1280


@dataclass
class Opened:
    """A page that is open: `page` is Playwright's; `said`: what came to the console, errors included; `requests`: the
    addresses that it asked for, itself among them."""

    page: Any
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def cut_off(self) -> list[str]:
        """The beginnings of tables that are wider than the window, with all that is folded open."""
        self.page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        wider = "[...document.querySelectorAll('.wide')].filter(table => table.scrollWidth > table.clientWidth)"
        return list(self.page.evaluate(f"{wider}.map(table => table.innerText.slice(0, 40))"))


def chromium() -> str | None:
    """The path of Chromium; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The pages are our own, and in containers there is no sandbox.
        running = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, path: Path, width: int = DESKTOP, scheme: str = "light") -> Iterator[Opened]:
    """A report in a window of some width, "light" or "dark", with its charts drawn."""
    page = running.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(page)
    page.on("console", lambda message: found.said.append(message.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    try:
        page.goto(path.absolute().as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        yield found
    finally:
        page.close()
