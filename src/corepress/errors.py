"""The errors that corepress raises on purpose: a closed family, one class for each thing that a caller can do about it.

Every one is a `CorepressError`, and none is raised as that itself. Its message is one sentence that says what happened,
to which file, weight or argument, and what to do; the command line prints it and ends as `docs/cli.md` says.
A new class belongs here, into the tree below, and into `tests/test_errors.py`.

    CorepressError
    ├── ConfigError             an argument, option, configuration or recipe is unknown, impossible or contradictory
    ├── FormatError             a file can't be read: it is missing, truncated, damaged or hostile
    │   └── UnsupportedError    a file is sound, but of a kind, version, operation or type that corepress does not know
    ├── DataError               values can't be worked with: samples, weights or statistics
    ├── OutputError             the result can't be written where it was asked for
    ├── OrderError              a method was called before the one that it needs
    ├── ResourceError           memory, room on disk or a process was lacking
    ├── MissingDependencyError  a package, or the compiled part of corepress, is not installed
    └── Missed                  all went well, but the model misses what was asked of it

Two more stay inside: `engine.Skip`, by which one weight is left alone and which becomes its reason in the report, and
`fields.UnknownKeyError`, a ConfigError that is a TypeError as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_BEGINNING, _END = 500, 300


def one_line(message: str) -> str:
    """A message that can be printed: names that come from a file may hold anything, and be of any length."""
    if len(message) > _BEGINNING + _END:
        message = f"{message[:_BEGINNING]} ... {message[-_END:]}"
    return "".join(c if c.isprintable() else " " for c in message)


class CorepressError(Exception):
    """The family: catch it to catch everything that corepress raises on purpose.

    Args:
        message: One sentence; what can't be printed in it becomes a space, and the middle of a long one is left out.

    Examples:
        >>> try:
        ...     cto.load("missing.mlpackage")
        ... except cto.CorepressError as error:
        ...     print(type(error).__name__)
        FormatError
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class ConfigError(CorepressError, ValueError):
    """An argument, option, configuration or recipe is unknown, impossible, or contradicts another one.

    Raised before any work is done, wherever that can be known. It is a ValueError, as coremltools raises.

    Examples:
        >>> try:
        ...     cto.coreml.OpPalettizerConfig(nbits=5)
        ... except ValueError as error:
        ...     print(type(error).__name__)
        ConfigError
    """


class FormatError(CorepressError):
    """A file can't be read: it is missing, truncated, damaged or hostile, or not of the kind that its name says.

    Raised by everything that reads a model, a folder of weights or samples, at once or when a damaged part is reached.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("empty.mlmodel").write_bytes(b"")
        >>> try:
        ...     cto.load("empty.mlmodel")
        ... except cto.FormatError:
        ...     print("no model")
        no model
    """


class UnsupportedError(FormatError):
    """A file is sound, as far as one can tell, but of a kind, version, operation or type that corepress does not know.

    Raised where a later version of corepress, or another tool, could do what was asked. It is a FormatError, so that
    callers who need not tell the two apart catch both.

    Examples:
        >>> from corepress.errors import FormatError, UnsupportedError
        >>> issubclass(UnsupportedError, FormatError)
        True
    """


class DataError(CorepressError):
    """Values can't be worked with: a weight, a gradient or a statistic that is not finite, files or loaders that give
    no samples. (Samples in an argument that don't fit the model are a ConfigError.)

    Where it concerns one weight of many, that weight is left alone and the reason is reported.

    Examples:
        >>> from corepress.errors import DataError
        >>> try:
        ...     cto.verify("model.mlpackage", "small.mlpackage", "missing.npz")
        ... except DataError as error:
        ...     print(error)
        missing.npz: no such file or folder
    """


class OutputError(CorepressError):
    """The result can't be written where it was asked for: something else is there, or the system refuses.

    What was there before stays as it was.

    Examples:
        >>> from corepress.errors import OutputError
        >>> try:
        ...     cto.load("small.mlpackage").save("small.mlpackage")
        ... except OutputError:
        ...     print("a model is not written over itself, but with overwrite=True")
        a model is not written over itself, but with overwrite=True
    """


class OrderError(CorepressError):
    """A method was called before the one that it needs, such as `step` before `prepare`.

    Examples:
        >>> from corepress.errors import OrderError
        >>> from corepress.torch.pruning import MagnitudePruner
        >>> try:
        ...     MagnitudePruner(torch.nn.Linear(8, 8)).step()
        ... except OrderError:
        ...     print("call prepare() first")
        call prepare() first
    """


class ResourceError(CorepressError):
    """Memory, room on disk or a process was lacking; with more of it the same call would do.

    Examples:
        >>> from corepress.errors import ResourceError
        >>> issubclass(ResourceError, cto.CorepressError)
        True
    """


class MissingDependencyError(CorepressError, ImportError):
    """A package that a feature needs is not installed, or the compiled part of corepress does not fit this machine.

    The message holds the command that installs it. It is an ImportError.

    Examples:
        >>> from corepress.errors import MissingDependencyError
        >>> issubclass(MissingDependencyError, ImportError)
        True
    """


class Missed(CorepressError):
    """All went well, but the model misses what was asked of it, such as a least SNR. The commands end with exit code 1.

    Examples:
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4, weight_threshold=10**9))
        >>> try:
        ...     cto.coreml.palettize_weights("model.mlpackage", config, strict=True)
        ... except cto.Missed:
        ...     print("no weight is that large")
        no weight is that large
    """


# Packages that some features need: the module, its name among people, and the extra of corepress that installs it.
EXTRAS = {
    "torch": ("PyTorch", "torch"),
    "coremltools": ("coremltools", "convert"),
    "PIL": ("Pillow", "images"),
    "safetensors": ("safetensors", "checkpoints"),
    "tokenizers": ("tokenizers", "texts"),
    "torchao": ("torchao", "pt2e"),
    "ray": ("Ray", "ray"),
    "altair": ("Altair", "report"),
    "jinja2": ("Jinja2", "report"),
    "vl_convert": ("vl-convert", "report"),
    "coreai": ("coreai-core", "coreai"),
    "coreai_torch": ("coreai-torch", "coreai"),
}


def missing(module: str, what: str) -> MissingDependencyError:
    """The error for `what`, which needs one of EXTRAS."""
    name, extra = EXTRAS[module]
    error = MissingDependencyError(f"{what} needs {name}: pip install 'corepress[{extra}]'")
    error.name = module
    return error


def first_line(error: BaseException) -> str:
    """What an error of somebody else says first; its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def importing(what: str) -> Iterator[None]:
    """Around imports: where one of EXTRAS is not installed, the error says that `what` needs it.

    Of several around each other the outermost, which is what the caller asked for, is named.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingDependencyError) as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise missing(module, what) from error
