"""Texts from files: a line, a paragraph or a line of JSON each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from corepress.errors import DataError, FormatError


def read_texts(paths: Iterable[str | Path]) -> list[str]:
    """The texts in some files, in their order, without empty ones.

    Of `.txt` each line is one; of `.md` each paragraph, apart from others by an empty line; of `.jsonl` what each line
    has under "text", or the line itself where that is a text. Raises DataError where a file is missing or holds none,
    FormatError for other files, and for such that can't be read so.
    """
    return [text for path in paths for text in _read(Path(path))]


def content_of(path: Path, encoding: str = "utf-8") -> str:
    """All of a file. DataError where it is missing, FormatError where it holds no text."""
    try:
        return path.read_text(encoding)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: it can't be read as a text in UTF-8") from error


def _read(path: Path) -> list[str]:
    if path.suffix.lower() not in (".txt", ".md", ".jsonl"):
        raise FormatError(f"{path}: texts are read from .txt (one a line), .md (paragraphs) and .jsonl files")
    content = content_of(path, "utf-8-sig")
    if path.suffix.lower() == ".jsonl":
        parts = _of_json(path, content)
    elif path.suffix.lower() == ".md":
        parts = iter(re.split(r"\n\s*\n", content))
    else:
        parts = iter(content.splitlines())
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise DataError(f"{path}: there is no text in it")
    return found


def _of_json(path: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{path}, line {number}: it is not JSON") from error
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise FormatError(f'{path}, line {number}: it is no text, and has none under "text"')
        yield text
