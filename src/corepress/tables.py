"""Tables of names that people type again, into a configuration above all: they are never cut and are no markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_ENDLESS = 1 << 20


class NamesTable(Table):
    """A rich table whose first column holds names.

    Where the terminal is too narrow for it, the columns of `lesser` go, the first of them first; after that the names
    go on in the next line, and so do the `sentences`. Every cell is literal text: brackets in a name are no markup.
    """

    def __init__(self, *titles: str, lesser: Sequence[str] = (), sentences: Sequence[str] = ()):
        super().__init__()
        self.lesser, self.sentences = lesser, sentences
        for number, title in enumerate(titles):
            self.add_column(title, overflow="fold", no_wrap=bool(number) and title not in sentences)

    def add_row(self, *cells: str) -> None:  # type: ignore[override]
        super().add_row(*map(Text, cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self
        for title in self.lesser:
            if table.__rich_measure__(console, options.update(width=_ENDLESS)).maximum <= options.max_width:
                break
            table = table._without(title)
        yield from super(NamesTable, table).__rich_console__(console, options)

    def _without(self, title: str) -> NamesTable:
        kept = [column for column in self.columns if column.header != title]
        table = NamesTable(*(str(column.header) for column in kept), lesser=self.lesser, sentences=self.sentences)
        for row in zip(*(column.cells for column in kept), strict=True):
            table.add_row(*map(str, row))
        return table


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Labels, each with its text, under each other; the text is literal and folded."""
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    table.columns[1].overflow = "fold"
    for label, text in rows:
        table.add_row(Text(label, "bold"), Text(text))
    return table
