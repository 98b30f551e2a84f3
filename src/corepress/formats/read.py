"""What a file holds: it is read and parsed once, and the type of the answer says what can be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from corepress.errors import UnsupportedError
from corepress.formats import mlprogram
from corepress.formats.coreai.asset import ASSET, is_asset
from corepress.formats.kinds import NETWORKS, leaves, refusal
from corepress.formats.package import Package, find_package, read_spec

if TYPE_CHECKING:
    from corepress.formats import neural_network


class Other(NamedTuple):
    """A model that holds neither an ML program nor a neural network, such as a tree ensemble."""

    package: Package
    spec: Any


def read(path: str | Path) -> mlprogram.Model | neural_network.Model | Other:
    """The model in an `.mlpackage`, an `.mlmodel` or an `.aimodel`, of any kind; a pipeline with ML programs is taken
    as one of these, and a Core AI model is seen as one.

    Raises FormatError, in one sentence, for what is no model, or a damaged one.
    """
    if is_asset(Path(path)) or Path(path).suffix.lower() == ASSET.ending:
        from corepress.formats.coreai.model import load as load_asset

        return load_asset(path)
    package = find_package(path)
    spec = read_spec(package)
    kinds = set(leaves(spec))
    if "mlProgram" in kinds:
        return mlprogram.checked(package, spec)
    if not kinds & set(NETWORKS):
        return Other(package, spec)
    from corepress.formats import neural_network  # which a program has no need of

    return neural_network.Model(package, spec)


def load(path: str | Path) -> mlprogram.Model | neural_network.Model:
    """`read`, for what can be compressed and run; an UnsupportedError says what another model is."""
    model = read(path)
    if isinstance(model, Other):
        raise UnsupportedError(f"{model.package.root}: {refusal(model.spec)}")
    return model
