"""Where the parts of a model lie on disk: an `.mlpackage` folder, or a bare `.mlmodel` file.

Links are followed where nothing can come of it. The manifest, the protobuf and the weight files that it names are read
through a link to any file, since only what is of these formats passes their checks. Any other file is copied unread, so
its link may only lead to a file of the package, or into a folder `blobs` beside a folder above it, as in the cache of
Hugging Face. Links to folders are refused. Outputs hold files only.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.atomic import Kind, check_destination
from corepress.formats.coreai.asset import ASSET, is_asset
from corepress.formats.kinds import kind_of
from corepress.formats.mistaken import refuse, refuse_pointer
from corepress.formats.schema import Model as ModelProto

MANIFEST = "Manifest.json"
MODEL_PREFIX = "@model_path/"
# protobuf can't hold a larger message.
MAX_SPEC_BYTES = (1 << 31) - 1
# Names in a file may be of any length.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 200


class Package(NamedTuple):
    """The files of one model.

    `root`: the folder or file that the user named; `spec`: the file that holds the protobuf.
    """

    root: Path
    spec: Path

    @property
    def is_folder(self) -> bool:
        return self.root != self.spec

    @property
    def kind(self) -> Kind:
        """What it is, and what a model that was made from it is saved as."""
        return PACKAGE if self.is_folder else MLMODEL

    def weight_path(self, file_name: str) -> Path:
        """The file that `@model_path/...` names; refuses names that lead out of the package."""
        if not file_name.startswith(MODEL_PREFIX):
            raise FormatError(f"{self.spec}: weight file {_SHORT.repr(file_name)} does not start with {MODEL_PREFIX}")
        return _inside(self.spec.parent, file_name.removeprefix(MODEL_PREFIX), self.spec)

    def files(self, checked: Iterable[Path] = ()) -> Iterator[Path]:
        """All files, relative to `root`, in a fixed order; links that lead where they may not are refused.

        `checked`: files that were read and checked, as the manifest and the protobuf are.
        """
        checked = {self.spec, self.root / MANIFEST, *checked}
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink():
                self._check_link(path, path in checked)
            if path.is_file():
                yield path.relative_to(self.root)

    def _check_link(self, link: Path, checked: bool) -> None:
        target = link.resolve()
        if not target.is_file():
            what = "leads to a folder; replace it by that folder" if target.is_dir() else "leads to no file"
            raise FormatError(f"{link}: a symbolic link in a package that {what}")
        root = self.root.resolve()
        stores = [folder / "blobs" for folder in root.parents]
        if not checked and not target.is_relative_to(root) and target.parent not in stores:
            raise FormatError(
                f"{link}: a symbolic link that leads out of the package; replace it by the file that it points to"
            )


def is_package(path: Path) -> bool:
    """Is it a folder whose manifest names a root model?"""
    try:
        return path.is_dir() and bool(_root_item(path / MANIFEST))
    except FormatError:
        return False


PACKAGE = Kind("a model package", ".mlpackage", True, is_package)
MLMODEL = Kind(
    "a bare .mlmodel file", ".mlmodel", False, lambda path: path.is_file() and path.suffix.lower() == ".mlmodel"
)


def check_output(output: Path, source: Path, *, overwrite: bool | None) -> None:
    """A CorepressError where what is made of the model at `source` can't be written to `output`, before the work."""
    kind = ASSET if is_asset(source) else find_package(source).kind
    check_destination(output, kind, overwrite=overwrite, sources=(source,))


def find_package(path: str | Path) -> Package:
    """Find the model below `path`; every claim of a manifest is checked.

    Raises FormatError, with advice, for the things that are often given instead.
    """
    root = Path(path)
    refuse(root)
    if root.is_file():
        return Package(root, root)
    manifest_path = root / MANIFEST
    if not manifest_path.is_file():
        raise FormatError(f"{root}: not an .mlpackage: it has no {MANIFEST}")
    item = _root_item(manifest_path)
    spec = _inside(root / "Data", item, manifest_path)
    if not spec.is_file():
        raise FormatError(f"{manifest_path}: its root model {_SHORT.repr(item)} is missing")
    return Package(root, spec)


def read_spec(package: Package) -> Any:
    """Parse the protobuf of a model: the message `Model`."""
    data = _content(package)
    try:
        spec = ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise FormatError(f"{package.spec}: not a Core ML model, or a damaged one") from error
    if not data or not spec.HasField("specificationVersion") or not kind_of(spec):
        raise FormatError(f"{package.spec}: not a Core ML model: no version or no model in it")
    return spec


def _content(package: Package) -> bytes:
    """The bytes of the protobuf."""
    try:
        if package.spec.stat().st_size > MAX_SPEC_BYTES:
            raise UnsupportedError(f"{package.spec}: larger than 2 GiB, so not a protobuf model")
        data = package.spec.read_bytes()
    except OSError as error:
        raise FormatError(f"{package.spec}: can't read it: {error.strerror}") from error
    refuse_pointer(package.spec, data)
    return data


def _root_item(manifest_path: Path) -> str:
    try:
        data = manifest_path.read_bytes()
        refuse_pointer(manifest_path, data)
        manifest = json.loads(data)  # as bytes: then in any Unicode encoding, with a mark of it or without
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
    """`folder / relative`, refused when it leaves the folder; the file itself may be a link."""
    parts = PurePosixPath(relative)
    path = folder / parts
    shown = _SHORT.repr(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise FormatError(f"{named_in}: the path {shown} leads out of the package")
    try:
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise FormatError(f"{named_in}: the path {shown} leads out of the package through a link")
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # said where it is needed
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, no text of the system
        raise FormatError(f"{named_in}: the path {shown} can't be looked up: {error.__class__.__name__}") from error
    return path


def bytes_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, links to them included: nothing is read, so that they may lead
    anywhere."""
    paths = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in paths if file.is_file())
