"""The family of errors is closed, documented, and tells apart what a caller would treat differently."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import errors
from corepress.formats.schema import Model

SOURCE = Path(errors.__file__).parent
EXAMPLE = SOURCE.parent.parent / "examples/digits.mlpackage"
FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CorepressError)]


def test_the_tree_of_the_docstring_names_the_whole_family() -> None:
    named = {line.split()[-1] if "─" not in line else line.split("── ")[1].split()[0] for line in _tree()}
    assert named == {kind.__name__ for kind in FAMILY}


def _tree() -> list[str]:
    return [line for line in (errors.__doc__ or "").splitlines() if "── " in line or line.strip() == "CorepressError"]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_each_is_public_and_says_when_it_is_raised(kind) -> None:
    assert getattr(corepress, kind.__name__) is kind and kind.__name__ in corepress.__all__
    assert kind.__doc__ and kind("one\nline").args[0] == "one line"


def test_none_is_raised_as_the_family_itself() -> None:
    bare = [
        f"{path}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CorepressError"
    ]
    assert not bare, "say which error it is"


def test_a_truncated_file_is_told_from_one_of_an_unknown_kind(tmp_path) -> None:
    package = tmp_path / "cut.mlpackage"
    shutil.copytree(EXAMPLE, package)
    weights = next(package.rglob("weight.bin"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(corepress.FormatError) as truncated:
        corepress.load(package)
    model = Model(specificationVersion=4)
    model.gazetteer = b""
    (tmp_path / "other.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(corepress.UnsupportedError, match="a gazetteer"):
        corepress.load(tmp_path / "other.mlmodel")
    assert not isinstance(truncated.value, corepress.UnsupportedError)


def test_where_it_can_not_be_written_is_an_output_error(tmp_path) -> None:
    (tmp_path / "taken.mlpackage").write_text("not a package")
    with pytest.raises(corepress.OutputError):
        corepress.load(EXAMPLE).save(tmp_path / "taken.mlpackage")


def test_values_that_can_not_be_worked_with_are_a_data_error() -> None:
    from corepress.algorithms.palettize import palettize

    with pytest.raises(corepress.DataError):
        palettize(np.full((4, 4), np.nan, np.float32), 2)
