"""From a Core ML model to a Core AI model (`.aimodel`, iOS 27), without the source of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corepress.engine import Progress
from corepress.errors import CorepressError, UnsupportedError
from corepress.fields import some
from corepress.formats.atomic import check_destination, replacing
from corepress.formats.coreai.asset import ASSET
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.formats.read import load as read_model
from corepress.migrating.constants import know_operations
from corepress.migrating.exporting import exported, said
from corepress.migrating.functions import Function, functions_of
from corepress.migrating.writing import converted, obstacles, save
from corepress.runtime.precision import Precision

# Steps after those of the functions: the conversion, and the file.
_LAST = 2


@dataclass(frozen=True)
class Migration:
    """What came of a migration.

    Args:
        path: The Core AI model.
        functions: Its functions.
        compressed: How many weights it stores compressed, as the package does.
        notes: Sentences on what is not as it was.

    Examples:
        >>> found = cto.migrate("model.mlpackage", "model.aimodel")
        >>> found.compressed, found.notes
        (0, ())
    """

    path: Path
    functions: tuple[str, ...]
    compressed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prospect:
    """What would come of a migration.

    Args:
        functions: The functions that a Core AI model would have.
        compressed: How many weights it would store compressed, as the package does.
        notes: Sentences on what would not be as it is.
        obstacles: Sentences on what can't be brought over; a migration is possible where there are none.

    Examples:
        >>> cto.foresee_migration("model.mlpackage").obstacles
        ()
    """

    functions: tuple[str, ...]
    compressed: int
    notes: tuple[str, ...]
    obstacles: tuple[str, ...]


def migrate(
    model: str | Path | Model | Networks,
    output: str | Path,
    *,
    precision: str = "as_is",
    overwrite: bool | None = False,
    progress: Progress | None = None,
) -> Migration:
    """Write a Core AI model, for iOS 27 and macOS 27, that answers as a Core ML model does.

    The program goes through PyTorch (`torch.export`) and coreai-torch. Compressed weights stay compressed, with the
    same indices, tables, integers, scales and masks, and weights that functions share are written once. Each function
    becomes one of the same name, a pipeline becomes one function, and a state becomes a state that its function
    changes. Shapes stay flexible. What Core AI has no place for, such as that an input is an image, and the labels of
    a classifier, is kept in the metadata, where `corepress.runtime.load` finds it. `corepress.verify(model, output)`
    compares the two: ours with Apple's runtime.

    Args:
        model: A path, a `corepress.Model` or a `corepress.neural_network.Model`: an ML program, a neural network, or a
            pipeline of these.
        output: The `.aimodel` to write, a folder.
        precision: "as_is" keeps the types of the package; "float32" or "float16" computes in that type instead.
        overwrite: Whether to replace a Core AI model that exists.
        progress: Called with the number of steps done, of all, and a name: each function, the conversion, the file.

    Returns:
        What was written, and what is not as it was.

    Raises:
        UnsupportedError: For a model with something that Core AI, or coreai-torch, has no form for; the message names
            all such operations.
        OutputError: For an output that can't be written.
        MissingDependencyError: Without PyTorch or coreai-torch.

    Examples:
        >>> found = cto.migrate("model.mlpackage", "model.aimodel")
        >>> found.functions
        ('main',)
        >>> cto.verify("model.mlpackage", "model.aimodel").ok
        True
    """
    prepared = _prepared(model, precision, Path(output), overwrite, progress)
    if prepared.obstacles:
        raise UnsupportedError(f"{prepared.source.path}: {'; '.join(prepared.obstacles)}")
    destination, sources = Path(output), _sources(prepared.source)
    with replacing(destination, ASSET, overwrite=overwrite, sources=sources) as partial:
        save(prepared.program, prepared.functions, prepared.source, partial)
    if progress is not None:
        progress(steps := len(prepared.functions) + _LAST, steps, "written")
    return Migration(destination, prepared.names, prepared.compressed, prepared.notes)


def foresee_migration(model: str | Path | Model | Networks, *, precision: str = "as_is") -> Prospect:
    """Say what `migrate` can't bring over of a model, and what changes: it does all but write.

    Args:
        model: As for `migrate`.
        precision: As for `migrate`.

    Returns:
        What would come of it.

    Raises:
        UnsupportedError: For a model that can't be run.
        MissingDependencyError: Without PyTorch or coreai-torch.

    Examples:
        >>> found = cto.foresee_migration("model.mlpackage")
        >>> found.functions, found.compressed, found.notes
        (('main',), 0, ())
    """
    prepared = _prepared(model, precision)
    return Prospect(prepared.names, prepared.compressed, prepared.notes, prepared.obstacles)


@dataclass(frozen=True)
class _Prepared:
    """A migration before it is written. `program`: that of coreai-torch; None where something can't be brought over."""

    source: Any
    functions: tuple[Function, ...]
    program: Any
    notes: tuple[str, ...]
    obstacles: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(function.name for function in self.functions)

    @property
    def compressed(self) -> int:
        return len({key for function in self.functions for key in function.weights})


def _prepared(
    model: str | Path | Model | Networks,
    precision: str,
    output: Path | None = None,
    overwrite: bool | None = None,
    progress: Progress | None = None,
) -> _Prepared:
    know_operations("a migration to Core AI")
    source = model if isinstance(model, Model | Networks) else read_model(model)
    if output is not None:
        check_destination(output, ASSET, overwrite=overwrite, sources=_sources(source))
    if isinstance(source, Model) and source.core_ai:
        raise UnsupportedError(f"{source.path}: it is a Core AI model already")
    functions = tuple(functions_of(source, Precision(precision)))
    notes, missing, found = [], [], []
    for number, function in enumerate(functions):
        if progress is not None:
            progress(number, len(functions) + _LAST, function.name)
        try:
            own = exported(function)
        except CorepressError:
            raise
        except Exception as error:  # of all kinds
            missing.append(f"function {function.name!r} can't be migrated: {said(error)}")
            continue
        found.append(own)
        notes += [*own.notes, *_notes(function)]
        missing += obstacles(own)
    program = None
    if not missing:
        if progress is not None:
            progress(len(functions), len(functions) + _LAST, "converted")
        program, reason = converted(found)
        missing += [reason] if reason else []
    return _Prepared(source, functions, program, tuple(dict.fromkeys(notes)), tuple(missing))


def _sources(source: Model | Networks) -> tuple[Path, ...]:
    return () if source.path is None else (Path(source.path),)


def _notes(function: Function) -> Iterator[str]:
    interface = function.interface
    for feature in (*interface.inputs, *interface.outputs):
        if feature.kind == "image":
            yield f"image {feature.name!r} is an array of its pixels, 0 to 255 ({feature.color}), for Core AI"
    if interface.label:
        yield f"the label {interface.label!r} is not given, but the probabilities; the classes stand in the metadata"
    if wider := function.wider:
        yield f"{some(wider)}: integers take 4 or 8 bits, as Core AI has no others with a scale"
