"""A Core ML model of neural networks: its protobuf, with the changes that are not saved yet."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError, EncodeError

from corepress.errors import ConfigError, FormatError, OutputError, UnsupportedError
from corepress.formats.atomic import replacing
from corepress.formats.kinds import leaves, refusal
from corepress.formats.neural_network.layers import LayerWeight, find_weights, networks
from corepress.formats.package import MLMODEL, Package, find_package, read_spec
from corepress.formats.schema import Model as ModelProto


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
            data = _serialized(self.spec, str(destination))
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
    return _checked(Model(package, read_spec(package)), str(package.root))


def as_model(source: Any) -> Model:
    """The model of a path, a specification or an `MLModel`; a `Model` is its own."""
    if isinstance(source, Model):
        return source
    return load(source) if isinstance(source, str | Path) else _own(source)[0]


def takes_any_model(function: Callable[..., Model]) -> Callable[..., Any]:
    """Let a function of a `Model`, which it may change, take any kind of model, which stays as it is.

    A path or a `Model` gives a `Model`; a specification, or an `MLModel` of coremltools, gives the same.
    """

    @functools.wraps(function)
    def wrapper(source: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(source, Model):
            return function(source.copy(), *args, **kwargs)
        if isinstance(source, (str, Path)):
            return function(load(source).copy(), *args, **kwargs)
        own, message = _own(source)
        return _as_given(function(own.copy(), *args, **kwargs), source, message)

    return wrapper


def _own(source: Any) -> tuple[Model, Any]:
    """A `Model` that shares nothing with a specification or an `MLModel`, and the class of the specification."""
    spec = spec_of(source)
    if spec is None:
        raise ConfigError(
            f"a path, a specification, an MLModel or a corepress model is needed, not {type(source).__name__}"
        )
    own = ModelProto()
    try:
        own.ParseFromString(spec.SerializeToString())
    except (DecodeError, EncodeError) as error:
        raise FormatError(f"the specification can't be read: {error}") from error
    return _checked(Model(None, own), "the specification"), type(spec)


def _as_given(result: Model, given: Any, message: Any) -> Any:
    spec = message()
    spec.ParseFromString(_serialized(result.spec, "the result"))
    if not is_mlmodel(given):
        return spec
    import coremltools  # present, since `given` came from there

    return coremltools.models.MLModel(spec, compute_units=given.compute_unit, skip_model_load=given.__proxy__ is None)


def is_mlmodel(source: Any) -> bool:
    """Is it an `MLModel` of coremltools?"""
    # Whoever holds one has imported coremltools; corepress never does so by itself.
    module = sys.modules.get("coremltools.models.model")
    return module is not None and isinstance(source, module.MLModel)


def spec_of(source: Any) -> Any:
    """The specification, as coremltools holds it, of an `MLModel` or of itself; else None."""
    spec = source.get_spec() if is_mlmodel(source) else source
    descriptor = getattr(type(spec), "DESCRIPTOR", None)
    return spec if getattr(descriptor, "full_name", "") == "CoreML.Specification.Model" else None


def _checked(model: Model, name: str) -> Model:
    if not any(True for _ in networks(model.spec)):
        if "mlProgram" in leaves(model.spec):
            raise UnsupportedError(
                f"{name}: it holds an ML program, not a neural network; corepress.coreml compresses it"
            )
        raise UnsupportedError(f"{name}: {refusal(model.spec)}")
    return model


def _serialized(spec: Any, name: str) -> bytes:
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
