"""Work that goes on after it was stopped or killed: what its folder is of, so that nothing else is mixed in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from corepress.errors import ConfigError, OutputError
from corepress.sequences import Sample
from corepress.split import digest


def digest_of(*parts: Iterable[Sample]) -> str:
    """A text that is the same for the same samples in the same parts and order."""
    found = hashlib.sha256()
    for part in parts:
        samples = list(part)
        found.update(f"{len(samples)} ".encode())
        for sample in samples:
            found.update(digest(sample))
    return found.hexdigest()


def folder_for(resume: str | Path) -> Path:
    """The folder that work is kept in; it is made if there is none. Raises OutputError where that can't be."""
    folder = Path(resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"resume={str(folder)!r} can't be used: {error.strerror}") from error
    return folder


def check_same(folder: Path, work: str, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise ConfigError where what a folder holds is of other work than that of now; the message says what differs.

    Args:
        folder: The folder.
        work: What it is called, such as "search".
        before: What that in the folder depends on, by words for people, such as "model" and "data".
        now: The same of now.
    """
    if changed := [word for word in now if before.get(word) != now[word]]:
        others = " and ".join(f"other {word}" for word in changed)
        raise ConfigError(f"resume={str(folder)!r} is of a {work} with {others}: give the same or another folder")
