"""Where the parts of a model lie on disk: an `.mlpackage` folder, or a bare `.mlmodel` file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf.message import DecodeError

from corepress.errors import FormatError
from corepress.mlprogram.schema import Model as ModelProto

MANIFEST = "Manifest.json"
MODEL_PREFIX = "@model_path/"
# protobuf can't hold a larger message.
MAX_SPEC_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Package:
    """The files of one model.

    `root`: the folder or file that the user named; `spec`: the file that holds the protobuf.
    """

    root: Path
    spec: Path

    @property
    def is_folder(self) -> bool:
        return self.root != self.spec

    def weight_path(self, file_name: str) -> Path:
        """The file that `@model_path/...` names; refuses names that lead out of the package."""
        if not file_name.startswith(MODEL_PREFIX):
            raise FormatError(f"{self.spec}: weight file {file_name!r} does not start with {MODEL_PREFIX}")
        return _inside(self.spec.parent, file_name.removeprefix(MODEL_PREFIX), self.spec)

    def files(self) -> Iterator[Path]:
        """All files, relative to `root`, in a fixed order."""
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink():
                raise FormatError(f"{path}: a symbolic link in a package; replace it by the file it points to")
            if path.is_file():
                yield path.relative_to(self.root)


def find_package(path: str | Path) -> Package:
    """Find the model below `path`; every claim of a manifest is checked."""
    root = Path(path)
    if root.is_file():
        return Package(root, root)
    if not root.is_dir():
        raise FormatError(f"{root}: no such file or folder")
    manifest_path = root / MANIFEST
    if not manifest_path.is_file():
        raise FormatError(f"{root}: not an .mlpackage: it has no {MANIFEST}")
    item = _root_item(manifest_path)
    spec = _inside(root / "Data", item, manifest_path)
    if not spec.is_file():
        raise FormatError(f"{manifest_path}: its root model {item!r} is missing")
    return Package(root, spec)


def read_spec(package: Package, message: Any = ModelProto) -> Any:
    """Parse the protobuf of a model; `message` is the class to parse it with."""
    try:
        if package.spec.stat().st_size > MAX_SPEC_BYTES:
            raise FormatError(f"{package.spec}: larger than 2 GiB, so not a protobuf model")
        data = package.spec.read_bytes()
    except OSError as error:
        raise FormatError(f"{package.spec}: can't read it: {error.strerror}") from error
    spec = message()
    try:
        spec.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise FormatError(f"{package.spec}: not a Core ML model, or damaged: {error}") from error
    if not data or not spec.HasField("specificationVersion") or spec.WhichOneof("Type") is None:
        raise FormatError(f"{package.spec}: not a Core ML model: no version or no model in it")
    return spec


def _root_item(manifest_path: Path) -> str:
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        path = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{manifest_path}: not valid JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise FormatError(f"{manifest_path}: it names no root model") from error
    except OSError as error:
        raise FormatError(f"{manifest_path}: can't read it: {error.strerror}") from error
    if not isinstance(path, str):
        raise FormatError(f"{manifest_path}: the path of the root model is not text")
    return path


def _inside(folder: Path, relative: str, named_in: Path) -> Path:
    """`folder / relative`, refused when it leaves the folder."""
    parts = PurePosixPath(relative)
    path = folder / parts
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise FormatError(f"{named_in}: the path {relative!r} leads out of the package")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FormatError(f"{named_in}: the path {relative!r} leads out of the package through a link")
    return path
