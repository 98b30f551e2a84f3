"""A Core AI model as everything that compresses knows models: weights to read and to replace."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, OutputError, first_line
from corepress.formats.atomic import Kind, replacing
from corepress.formats.blobs import BlobRecord, PendingBlob
from corepress.formats.coreai import library
from corepress.formats.coreai.asset import ASSET, HASH, METADATA, PROGRAM, metadata
from corepress.formats.coreai.inserting import insert, pairs
from corepress.formats.coreai.kept import Kept, from_metadata
from corepress.formats.coreai.reading import CONSTANTS
from corepress.formats.coreai.view import View, view_of
from corepress.formats.coreai.writing import constant, storable
from corepress.formats.dtypes import dtype_of
from corepress.formats.features import Interface
from corepress.formats.mlprogram.model import PENDING, Model
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import read_tensor
from corepress.formats.mlprogram.weight import Weight, references
from corepress.formats.package import Package, bytes_on_disk
from corepress.formats.spill import Spill
from corepress.weights import CompressedWeight


class AssetPackage(Package):
    """The files of a Core AI model."""

    @property
    def kind(self) -> Kind:
        return ASSET


class AssetModel(Model):
    """A `.aimodel` as a `Model`: its program seen as an ML program, in which weights are compressed.

    Constants change, and pairs of `quantize` and `dequantize` are put in. `save` puts them into a copy of Core AI's own
    program, and leaves all else as it is.
    """

    core_ai = True
    _spec: Any

    def __init__(
        self,
        package: Package,
        program: Any,
        view: View | None = None,
        spec: Any = None,
        spill: Spill | None = None,
        origin: Model | None = None,
    ):
        super().__init__(package, spec, {}, spill or Spill(), origin)
        self._program = program
        if view is not None:
            self._view = view

    @cached_property
    def _view(self) -> View:
        """Made when it is asked for: of a model that was saved often nothing is."""
        return view_of(self._program)

    @property
    def spec(self) -> Any:
        """See `Model`."""
        if self._spec is None:
            self._spec = _copied(self._view.spec)
        return self._spec

    @spec.setter
    def spec(self, spec: Any) -> None:
        self._spec = spec

    def copy(self) -> AssetModel:
        """See `Model.copy`."""
        spec = _copied(self.spec)
        copied = AssetModel(self.package, self._program, self._view, spec, self._spill, self.origin or self)
        copied.changed, copied.unfitted, copied.few = self.changed, dict(self.unfitted), dict(self.few)
        return copied

    def interface(self, function: str) -> Interface:
        """What a function that is called from outside takes and gives, in Core AI's own words."""
        return self._view.interfaces[function]

    def kept(self, function: str) -> Kept | None:
        """What a migration noted of a function, if one did."""
        return from_metadata(metadata(self.path).get("creatorDefinedMetadata") or {}, function)

    def record(self, file: str, offset: int) -> BlobRecord | PendingBlob:
        """See `Model.record`."""
        if file != CONSTANTS or offset & PENDING:
            return super().record(file, offset)
        held = self._view.constants[offset]
        nbytes = -(-int(np.prod(held.shape)) * held.dtype.bits // 8)
        return BlobRecord(held.dtype, offset, nbytes, -int(np.prod(held.shape)) * held.dtype.bits % 8)

    def data(self, file: str, record: BlobRecord | PendingBlob) -> NDArray[np.uint8]:
        """See `Model.data`."""
        if isinstance(record, PendingBlob):
            return super().data(file, record)
        held = self._view.constants[record.offset]
        return library.constant_bytes(held.operation, held.dtype, held.shape)

    def release(self, file: str, offset: int) -> None:
        """Nothing is kept of what was read."""

    def store(self, array: NDArray[Any], bits: int | None = None, file: str = CONSTANTS) -> Any:
        """See `Model.store`."""
        return self._kept(array, dtype_of(array.dtype, bits), file)

    def check(self) -> None:
        """The library has checked the program."""

    @property
    def is_saved(self) -> bool:
        """Whether the model on disk, from which it was read, is the same."""
        return not (self._changed_weights() or self._changed_numbers() or pairs(self.spec, self._view))

    def size(self) -> int:
        """Bytes of all files; of a model that is not saved yet what they will be, but for what describes constants."""
        total = bytes_on_disk(self.path)
        changed = self._changed_weights()
        before = {(weight.function, weight.output): weight.stored_bytes for weight in self._on_disk() if changed}
        return total + sum(weight.stored_bytes - before[weight.function, weight.output] for weight in changed)

    def storable(self, form: NDArray[Any] | CompressedWeight) -> NDArray[Any] | CompressedWeight:
        """See `Model.storable`."""
        return storable(form)

    def save(self, path: str | Path, *, overwrite: bool | None = None) -> AssetModel:
        """See `Model.save`; all else stays as it is, and the metadata, too."""
        destination = Path(path)
        program = copy.deepcopy(self._program)
        places = library.operations(program)
        if pairs(self.spec, self._view):
            insert(self.spec, view_of(program), self)
        changed = [((weight.function, weight.output), weight.read()) for weight in self._changed_weights()]
        with replacing(destination, ASSET, overwrite=overwrite, sources=self._sources()) as partial:
            for place, form in (*changed, *self._changed_numbers()):
                operation = places[self._view.places[place]]
                with library.inserting(operation):
                    value = library.reshaped(constant(form), library.type_of(operation).shape)
                library.replace(operation, value)
            try:
                library.save(program, self.path, partial)
            except Exception as error:  # of all kinds
                raise OutputError(f"{destination}: Core AI can't write it: {first_line(error)}") from error
            for other in self.path.iterdir():
                if other.is_file() and other.name not in (PROGRAM, HASH, METADATA):
                    shutil.copyfile(other, partial / other.name)
        saved = load(destination, checked=True)
        saved.origin = self.origin
        saved.skipped, saved.changed = dict(self.skipped), self.changed
        saved.unfitted, saved.few = dict(self.unfitted), dict(self.few)
        return saved

    def _on_disk(self) -> list[Weight]:
        return AssetModel(self.package, self._program, self._view, self._view.spec, self._spill).weights()

    def _changed_weights(self) -> list[Weight]:
        """Those that are not as the program on disk has them."""
        return [weight for weight in self.weights() if any(held.offset & PENDING for held in references(weight.node))]

    def _changed_numbers(self) -> list[tuple[tuple[str, str], NDArray[Any]]]:
        """The same of constants that are too small to be weights, such as the scale of activations: where each is, and
        what it holds now."""
        before, now = (dict(_numbers(spec)) for spec in (self._view.spec, self.spec))
        changed = {place: value for place, value in now.items() if place in before and value != before[place]}
        return [(place, read_tensor(value, self, place[1])) for place, value in changed.items()]


def load(path: str | Path, *, checked: bool = False) -> AssetModel:
    """Read an `.aimodel`; `checked`: it was written here. Raises FormatError for what is no sound one."""
    root = Path(path)
    program = library.load(root, checked=checked)
    model = AssetModel(AssetPackage(root, root / PROGRAM), program)
    if not checked:
        try:
            model.spec  # noqa: B018
        except RuntimeError as error:  # of the library: a name that is no UTF-8
            raise FormatError(f"{root}: Core AI can't read it: {first_line(error)}") from error
    return model


def _numbers(spec: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Small constants, which are held in place: by function and name the value of each."""
    for node in nodes(spec):
        held = node.operand("val") if node.is_const and node.op.outputs else None
        if held is not None and held.value is not None and held.value.WhichOneof("value") == "immediateValue":
            yield (str(node.function), node.op.outputs[0].name), held.value


def _copied(spec: Any) -> Any:
    copied = type(spec)()
    copied.CopyFrom(spec)
    return copied
