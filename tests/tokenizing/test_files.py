"""Texts are read from files as people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from corepress.errors import DataError, FormatError
from corepress.tokenizing.files import read_texts


def test_lines_paragraphs_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n\r\n  Two. \r\n")
    (tmp_path / "b.md").write_text("# Title\nFirst\npart.\n\n \nSecond.\n")
    (tmp_path / "c.jsonl").write_text('{"text": "A \\n b", "id": 1}\n\n"Alone."\n')
    found = read_texts([tmp_path / name for name in ("b.md", "a.txt", "c.jsonl")])
    assert found == ["# Title\nFirst\npart.", "Second.", "One.", "Two.", "A \n b", "Alone."]


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("a.txt", b" \n", DataError, "there is no text in it"),
        ("a.txt", b"\xff\xfe\x00", FormatError, "UTF-8"),
        ("a.csv", b"a", FormatError, "from .txt"),
        ("a.jsonl", b'"a"\n{', FormatError, "line 2: it is not JSON"),
        ("a.jsonl", b'{"txt": "a"}', FormatError, 'line 1: it is no text, and has none under "text"'),
        ("a.jsonl", b'{"text": 5}', FormatError, "line 1"),
    ],
)
def test_what_is_refused(name: str, content: bytes, error: type[Exception], match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=match):
        read_texts([tmp_path / name])
