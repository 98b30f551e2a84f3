"""A model of Core ML as other processes and machines get it: as files, or as the bytes of these."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corepress.formats.package import MLMODEL
from corepress.formats.read import load

Files = Mapping[str, bytes]


class Handed:
    """A model in a temporary folder of its own, into which it is written when somebody asks for it."""

    def __init__(self, model: Any, folder: Path):
        self._model, self._folder = model, folder
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where the model lies, as it is now in memory."""
        if self._path is None:
            package = self._model.package
            # One that was made of a specification has no package.
            kind = MLMODEL if package is None else package.kind
            self._path = self._folder / f"model{kind.ending}"
            self._model.copy().save(self._path)
        return self._path

    def files(self) -> Files:
        """The bytes of each file, by its place under the folder."""
        found = [self.path] if self.path.is_file() else sorted(path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in found}

    def digest(self) -> str:
        """A text that is the same for models of the same content."""
        found = hashlib.sha256()
        for name, content in self.files().items():
            found.update(f"{name} {len(content)} ".encode())
            found.update(content)
        return found.hexdigest()


@contextmanager
def handed(model: Any) -> Iterator[Handed]:
    """The model, for as long as somebody may ask for it."""
    with tempfile.TemporaryDirectory(prefix="corepress-") as folder:
        yield Handed(model, Path(folder))


def opened(source: Path | Files) -> Any:
    """The model that was handed over; that of files lies in a temporary folder until this process ends."""
    if isinstance(source, Path):
        return load(source)
    folder = tempfile.TemporaryDirectory(prefix="corepress-")
    _folders.append(folder)
    for name, content in source.items():
        path = Path(folder.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return load(Path(folder.name) / next(iter(source)).partition("/")[0])


_folders: list[tempfile.TemporaryDirectory[str]] = []
