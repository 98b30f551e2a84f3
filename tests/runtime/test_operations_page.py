"""The page of operations is up to date."""

from __future__ import annotations

from tools.operations_table import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"
