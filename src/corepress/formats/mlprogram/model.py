"""A Core ML model: its protobuf, its weight files, and the changes that are not saved yet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.atomic import replacing
from corepress.formats.blobs import BlobFile, BlobRecord, PendingBlob, chunks_of, place, write_blobs
from corepress.formats.dtypes import DType, dtype_of
from corepress.formats.kinds import refusal
from corepress.formats.mlprogram.program import program_models, programs, values
from corepress.formats.mlprogram.values import (
    MIN_BLOB_ELEMENTS,
    check_blob,
    immediate_value,
    packed_bytes,
    typed_value,
)
from corepress.formats.mlprogram.weight import Weight, find_weights
from corepress.formats.package import MODEL_PREFIX, Package, find_package, read_spec
from corepress.formats.spill import Spill
from corepress.weights import CompressedWeight

DEFAULT_WEIGHT_FILE = "@model_path/weights/weight.bin"
# Offsets with this bit set are numbers of blobs in the spill file, until the model is saved.
PENDING = 1 << 63
# The blobs of a weight file, by the offsets by which the program refers to them.
Blobs = dict[int, BlobRecord | PendingBlob]


class Model:
    """A model as corepress holds it: what was read, and edits on top. Compressing gives a new `Model`.

    Weights stay in their file and are read through a memory map; new ones wait in a temporary file. Make one with
    `corepress.load`.

    Attributes:
        origin: The model as it was loaded, before the first compression.
        skipped: By function and output name, why the last compression left a weight as it was.
        changed: The weights that were written anew since `origin`.
        unfitted: Why the samples of a calibrated compression have no part in a weight.
        few: Of weights that were fitted to few samples, to how many independent vectors.

    Examples:
        >>> model = cto.load("model.mlpackage")
        >>> [weight.name for weight in model.weights() if len(weight.shape) == 2]
        ['hidden_weight_to_fp16', 'scores_weight_to_fp16']
        >>> model.save("copy.mlpackage").size() == model.size()
        True
    """

    core_ai = False
    """Whether it is a Core AI model, and not a package of Core ML."""

    def __init__(
        self, package: Package, spec: Any, files: dict[str, BlobFile], spill: Spill, origin: Model | None = None
    ):
        self.package = package
        self.spec = spec
        self.origin = origin
        self.skipped: dict[tuple[str, str], str] = {}
        self.changed: frozenset[tuple[str, str]] = frozenset()
        self.unfitted: dict[tuple[str, str], str] = {}
        self.few: dict[tuple[str, str], str] = {}
        self._files = files
        self._spill = spill

    @property
    def path(self) -> Path:
        """The package or file that the model was loaded from."""
        return self.package.root

    @property
    def spec_version(self) -> int:
        """The specification version: 6 for iOS15 to 9 for iOS18 (see `corepress.targets`).

        Of a pipeline the highest of all its ML programs and its own: some converters wrote 5 around newer programs.
        """
        return max(int(model.specificationVersion) for model in (self.spec, *program_models(self.spec)))

    def weights(self) -> list[Weight]:
        """Every constant tensor and compressed weight: name, shape, type, compression, bits, bytes, consumers."""
        return find_weights(self)

    def copy(self) -> Model:
        """An independent model with the same content; weight data is shared, not copied."""
        spec = type(self.spec)()
        spec.CopyFrom(self.spec)
        copied = Model(self.package, spec, self._files, self._spill, self.origin or self)
        copied.changed, copied.unfitted, copied.few = self.changed, dict(self.unfitted), dict(self.few)
        return copied

    # Where values find their data: the `BlobSource` of `corepress.formats.mlprogram.values`.

    def record(self, file: str, offset: int) -> BlobRecord | PendingBlob:
        """The record of the blob that a value refers to."""
        if offset & PENDING:
            return self._spill[offset ^ PENDING]
        return self._file(file).record(offset)

    def data(self, file: str, record: BlobRecord | PendingBlob) -> NDArray[np.uint8]:
        """The stored bytes of a blob."""
        if isinstance(record, PendingBlob):
            return self._spill.read(record)
        return self._file(file).data(record)

    def release(self, file: str, offset: int) -> None:
        """Let go of the memory of a blob that was read."""
        if not offset & PENDING:
            blobs = self._file(file)
            blobs.release(blobs.record(offset))

    def store(self, array: NDArray[Any], bits: int | None = None, file: str = DEFAULT_WEIGHT_FILE) -> Any:
        """Keep an array for `save` and return the MIL value that stands for it.

        Small arrays, and all arrays of a bare `.mlmodel`, which has no weight file, become inline values.
        """
        dtype = dtype_of(array.dtype, bits)
        if dtype.blob is None or not self.package.is_folder:
            return immediate_value(array, dtype=dtype)
        return self._kept(array, dtype, file)

    def _kept(self, array: NDArray[Any], dtype: DType, file: str) -> Any:
        """An array for `save`, in place where it is small."""
        if array.size < MIN_BLOB_ELEMENTS:
            return immediate_value(array, dtype=dtype)
        packed = packed_bytes(array, dtype)
        number = self._spill.append(dtype, packed, packed.size * 8 - array.size * dtype.bits)
        value = typed_value(dtype, array.shape)
        value.blobFileValue.fileName = file
        value.blobFileValue.offset = PENDING | number
        return value

    def storable(self, form: NDArray[Any] | CompressedWeight) -> NDArray[Any] | CompressedWeight:
        """A form with the same values that this kind of model can store: for a package the form itself."""
        return form

    def _file(self, name: str) -> BlobFile:
        if name not in self._files:
            path = self.package.weight_path(name)
            if not self.package.is_folder or not path.is_file():
                raise FormatError(f"{path}: the weight file is missing")
            self._files[name] = BlobFile(path)
        return self._files[name]

    def check(self) -> None:
        """Check every reference into the weight files: offsets, sizes, types, shapes, overlaps."""
        used: dict[str, set[int]] = {}
        for value in values(self.spec):
            kind = value.WhichOneof("value")
            if kind == "blobFileValue":
                reference = value.blobFileValue
                blob = self.record(reference.fileName, reference.offset)
                check_blob(value, blob, f"{self.path}: blob at offset {reference.offset}")
                used.setdefault(reference.fileName, set()).add(reference.offset)
            elif kind == "immediateValue":
                _refuse_hidden_blobs(value, self.path)
        for name, offsets in used.items():
            self._file(name).check_overlaps(offsets)

    def _weight_paths(self) -> dict[Path, BlobFile]:
        return {file.path: file for file in self._files.values()}

    def _weight_path(self, name: str) -> Path:
        return self._files[name].path if name in self._files else self.package.weight_path(name)

    def _placed(self) -> tuple[Any, dict[str, Blobs], dict[str, int]]:
        """The protobuf as it will be saved; for each weight file the blobs that it will hold, in the order in which the
        program first names them; and the sizes of the files that are written anew.

        A file that nothing refers to any more stays, empty, since the manifest names its folder.
        """
        spec = type(self.spec)()
        spec.CopyFrom(self.spec)
        references = list(_references(spec))
        layout: dict[str, Blobs] = {name: {} for name in self._files}
        for blob in references:
            blobs = layout.setdefault(blob.fileName, {})
            if blob.offset not in blobs:
                blobs[blob.offset] = self.record(blob.fileName, blob.offset)
        offsets: dict[str, dict[int, int]] = {}
        sizes = {}
        for name, blobs in layout.items():
            if not blobs or any(offset & PENDING for offset in blobs):
                placed, sizes[name] = place(blob.nbytes for blob in blobs.values())
                offsets[name] = dict(zip(blobs, placed, strict=True))
        for blob in references:
            if blob.fileName in offsets:
                blob.offset = offsets[blob.fileName][blob.offset]
        return spec, layout, sizes

    def size(self) -> int:
        """Bytes of all files of the package, as it lies on disk or would after `save`."""
        spec, _, sizes = self._placed()
        total: int = spec.ByteSize() + sum(sizes.values())
        if self.package.is_folder:
            # Weight files count as they were when they were opened: the package may be another's meanwhile.
            total += sum(file.size for name, file in self._files.items() if name not in sizes)
            counted = {self._weight_path(name) for name in {*sizes, *self._files}} | {self.package.spec}
            paths = (self.package.root / relative for relative in self.package.files(self._weight_paths()))
            total += sum(path.stat().st_size for path in paths if path not in counted)
        return total

    def save(self, path: str | Path, *, overwrite: bool | None = None) -> Model:
        """Write the model, whole or not at all: a crash leaves the old model or the new one, never a mixture.

        Args:
            path: Where to. What is not a model itself, and what a link leads to, is never replaced.
            overwrite: By default a model that exists at `path` is replaced, but not the one that this model was read
                from; True replaces that, too, and False nothing.

        Returns:
            The model as it lies there.

        Raises:
            OutputError: If the destination can't be written.
            ConfigError: If its name has not the ending of its kind: .mlpackage, or .mlmodel for a model that was read
                from such a file.
        """
        destination = Path(path)
        with replacing(destination, self.package.kind, overwrite=overwrite, sources=self._sources()) as partial:
            spec, layout, sizes = self._placed()
            if self.package.is_folder:
                self._write_package(partial, spec, layout, sizes)
            else:
                partial.write_bytes(spec.SerializeToString())
        # What was written is known: to read and check it anew would prove nothing.
        root = self.package.root
        package = Package(destination, destination / self.package.spec.relative_to(root))
        saved = Model(package, spec, {}, Spill(), self.origin)
        for name in layout:
            saved._file(name)  # now, so that it is read as it is even if another one takes its place
        saved.skipped, saved.changed = dict(self.skipped), self.changed
        saved.unfitted, saved.few = dict(self.unfitted), dict(self.few)
        return saved

    def _sources(self) -> list[Path]:
        return [model.path for model in (self, self.origin) if model is not None]

    def _write_package(self, folder: Path, spec: Any, layout: dict[str, Blobs], sizes: dict[str, int]) -> None:
        replaced = {self._weight_path(name) for name in sizes} | {self.package.spec}
        for inner in self.package.root.rglob("*"):
            if inner.is_dir():  # empty ones, too, which a manifest may name
                (folder / inner.relative_to(self.package.root)).mkdir(parents=True, exist_ok=True)
        kept = self._weight_paths()
        for relative in self.package.files(kept):
            source, target = self.package.root / relative, folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if source in replaced:
                continue
            if source in kept:  # as it was when it was checked: another save may have replaced it meanwhile
                with target.open("wb") as file:
                    kept[source].copy_to(file)
            else:
                shutil.copyfile(source, target)
        for name in sizes:
            target = folder / self._weight_path(name).relative_to(self.package.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb", buffering=1 << 18) as file:
                write_blobs(file, self._contents(name, layout[name]), len(layout[name]))
        (folder / self.package.spec.relative_to(self.package.root)).write_bytes(spec.SerializeToString())

    def _contents(self, name: str, blobs: Blobs) -> Iterator[tuple[BlobRecord | PendingBlob, Iterator[Any]]]:
        for offset, blob in blobs.items():
            yield blob, self._chunks(name, blob)
            self.release(name, offset)

    def _chunks(self, name: str, blob: BlobRecord | PendingBlob) -> Iterator[Any]:
        if isinstance(blob, PendingBlob):
            yield from self._spill.chunks(blob)
        else:
            yield from chunks_of(self._file(name).data(blob))


def load(path: str | Path | os.PathLike[str]) -> Model:
    """Read an `.mlpackage`, or a bare `.mlmodel`, that holds ML programs: `formats/opening.py` says more."""
    package = find_package(Path(path))
    return checked(package, read_spec(package))


def checked(package: Package, spec: Any) -> Model:
    """The model that was read from a package; the errors are those of `load`."""
    if not any(True for _ in programs(spec)):
        raise UnsupportedError(f"{package.root}: {refusal(spec)}")
    _name_alike(package, spec)
    model = Model(package, spec, {}, Spill())
    model.check()
    return model


def _references(spec: Any) -> Iterator[Any]:
    return (value.blobFileValue for value in values(spec) if value.WhichOneof("value") == "blobFileValue")


def _name_alike(package: Package, spec: Any) -> None:
    """One name for each weight file: "./weights/weight.bin" is "weights/weight.bin" as well, and is written once."""
    folder = package.spec.parent
    references: dict[str, list[Any]] = {}
    for blob in _references(spec):
        references.setdefault(blob.fileName, []).append(blob)
    for name, blobs in references.items():
        alike = MODEL_PREFIX + package.weight_path(name).relative_to(folder).as_posix()
        for blob in blobs if alike != name else ():
            blob.fileName = alike


def _refuse_hidden_blobs(value: Any, path: Path) -> None:
    """Lists, tuples and dictionaries are not looked into: a weight file named there could not be kept in step."""
    immediate = value.immediateValue
    kind = immediate.WhichOneof("value")
    if kind in ("tuple", "list", "dictionary") and b"@model_path" in getattr(immediate, kind):
        raise UnsupportedError(f"{path}: a {kind} in the program refers to a weight file, which corepress can't edit")
