"""A Core ML model of neural networks: its protobuf, with the changes that are not saved yet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from google.protobuf.message import EncodeError

from corepress.errors import OutputError, UnsupportedError
from corepress.formats.atomic import replacing
from corepress.formats.kinds import leaves, refusal
from corepress.formats.neural_network.layers import LayerWeight, find_weights, networks
from corepress.formats.package import MLMODEL, Package, find_package, read_spec


class Model:
    """A model of the older kind, as corepress holds it. Make one with `load`; compressing gives a new one.

    Attributes:
        package: Where it was loaded from, or None.
        spec: Its protobuf, in the messages of `neural_network.proto`.
        origin: The model as it was loaded, before the first compression.
        skipped: By name, why the last compression left a weight as it was.
        changed: The weights that it did not.

    Examples:
        >>> network = cto.neural_network.load("net.mlmodel")
        >>> network.save("copy.mlmodel").size() == network.size()
        True
    """

    core_ai = False
    """As of the other kind of models: whether it is one of Core AI."""

    def __init__(self, package: Package | None, spec: Any, origin: Model | None = None, source: Path | None = None):
        self.package = package
        self.spec = spec
        self.origin = origin
        self.skipped: dict[str, str] = {}
        self.changed = 0
        self._source = source or self.path  # stays when the model is saved

    @property
    def path(self) -> Path | None:
        """The file or package that the model was loaded from."""
        return self.package.root if self.package else None

    @property
    def spec_version(self) -> int:
        """The specification version: 1 for iOS11 to 6 for iOS15."""
        return int(self.spec.specificationVersion)

    def weights(self) -> list[LayerWeight]:
        """Every weight of a layer that can be quantized, in the order of the layers."""
        return list(find_weights(self.spec))

    def size(self) -> int:
        """Bytes of all files, as they are or would be after `save`."""
        other = 0
        if self.package and self.package.is_folder:
            paths = (self.package.root / relative for relative in self.package.files())
            other = sum(path.stat().st_size for path in paths if path != self.package.spec)
        return other + int(self.spec.ByteSize())

    def copy(self) -> Model:
        """An independent model of the same content."""
        spec = type(self.spec)()
        spec.CopyFrom(self.spec)
        return Model(self.package, spec, self.origin or self, self._source)

    def save(self, path: str | Path, *, overwrite: bool | None = None) -> Model:
        """Write the model, whole or not at all.

        Args:
            path: Where to. What is not a model itself, and what a link leads to, is never replaced.
            overwrite: By default a model that exists at `path` is replaced, but not the one that this model was read
                from; True replaces that, too, and False nothing.

        Returns:
            The model as it lies there.

        Raises:
            OutputError: If the destination can't be written.
            ConfigError: If its name has not the ending of its kind (.mlmodel or .mlpackage).
        """
        destination = Path(path)
        kind = self.package.kind if self.package is not None else MLMODEL
        sources = () if self._source is None else (self._source,)
        with replacing(destination, kind, overwrite=overwrite, sources=sources) as partial:
            data = serialized(self.spec, str(destination))
            if self.package is not None and self.package.is_folder:
                _copy(self.package, partial)
                (partial / self.package.spec.relative_to(self.package.root)).write_bytes(data)
            else:
                partial.write_bytes(data)
        self.package = find_package(destination)
        return self


def load(path: str | Path) -> Model:
    """Read an `.mlmodel`, or an `.mlpackage`, that holds neural networks, by themselves or in pipelines.

    Args:
        path: The file or package.

    Returns:
        The model, to look at, to compress and to save.

    Raises:
        FormatError: For anything else.

    Examples:
        >>> network = cto.neural_network.load("net.mlmodel")
        >>> [(weight.layer_type, weight.shape) for weight in network.weights()]
        [('innerProduct', (4, 8))]
    """
    package = find_package(path)
    return checked(Model(package, read_spec(package)), str(package.root))


def checked(model: Model, name: str) -> Model:
    """The model, if it holds networks; `name` stands in the UnsupportedError."""
    if not any(True for _ in networks(model.spec)):
        if "mlProgram" in leaves(model.spec):
            raise UnsupportedError(
                f"{name}: it holds an ML program, not a neural network; corepress.coreml compresses it"
            )
        raise UnsupportedError(f"{name}: {refusal(model.spec)}")
    return model


def serialized(spec: Any, name: str) -> bytes:
    """The bytes of a protobuf; an OutputError, which names it, where it is too large for one."""
    try:
        return bytes(spec.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise OutputError(f"{name}: a protobuf can't hold the model: {error}") from error


def _copy(package: Package, folder: Path) -> None:
    """All files but the protobuf."""
    for relative in package.files():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if package.root / relative != package.spec:
            shutil.copyfile(package.root / relative, target)
