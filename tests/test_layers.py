"""The arrows between the parts point one way, and no two files import each other (docs/architecture.md)."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest

from tests.layers import ALLOWED, SOURCE, files, imports, part_of, table, within

FILES = files()


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part) -> None:
    for name in (name for name in FILES if part_of(name) == part):
        for other in imports(FILES[name], FILES):
            assert any(within(other, allowed) for allowed in {part, *ALLOWED[part]}), f"{name} imports {other}"


def test_every_file_belongs_to_a_part() -> None:
    assert {part_of(name) for name in FILES} - {""} == set(ALLOWED)


def test_no_two_files_import_each_other_not_even_through_others() -> None:
    graph = {name: imports(path, FILES) - {name} for name, path in FILES.items() if name != "__init__"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_table_of_the_documentation_is_this_one() -> None:
    page = SOURCE.parent.parent / "docs/architecture.md"
    assert table() in page.read_text(encoding="utf-8"), "run `make docs`"
