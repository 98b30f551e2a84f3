"""Outputs that appear whole or not at all, and replace nothing but what is of their own kind."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from corepress.errors import ConfigError, OutputError
from corepress.formats.mistaken import package_holding
from corepress.formats.partials import backup_of, create, hold, remove, sweep
from corepress.formats.renaming import exchange as _exchange
from corepress.formats.renaming import exclusive
from corepress.threads import pool

_SYNCED_AT_ONCE = 16


class Kind(NamedTuple):
    """What an output is.

    `name`: as a message calls it; `ending`: that its name must have, or "" for any; `folder`: or else a file;
    `is_one`: whether a path that exists is of this kind, and so may be replaced.
    """

    name: str
    ending: str
    folder: bool
    is_one: Callable[[Path], bool]


def check_destination(
    destination: Path, kind: Kind, *, overwrite: bool | None = False, sources: Sequence[Path] = ()
) -> None:
    """A CorepressError where `destination` can't be written, before any work is done for it.

    `overwrite`: whether what exists may be replaced; None allows all but the sources. `sources`: what the output is
    made of, which may be neither around it nor inside it. Sweeps what killed runs left of the same destination.
    """
    _check_ending(destination, kind, sources)
    parent = destination.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{parent}: no such folder to write {destination.name} into")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent}: no permission to write {destination.name} into it")
    try:
        os.lstat(destination)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise OutputError(f"{destination}: can't write it: {getattr(error, 'strerror', error)}") from error
    for source in sources:
        _check_apart(destination, source)
    if (package := package_holding(destination)) is not None:
        raise OutputError(f"{destination}: it lies inside the package {package}; choose an output outside of it")
    sweep(destination)
    if not os.path.lexists(destination):
        return
    if overwrite is False:
        raise OutputError(f"{destination}: it exists already; choose another output, or replace it with overwrite=True")
    if overwrite is None and any(_same(destination, source) for source in sources):
        raise OutputError(
            f"{destination}: it exists already, and the model was read from it; choose another output, or replace it "
            "with overwrite=True"
        )
    _check_replaceable(destination, kind)


@contextlib.contextmanager
def replacing(
    destination: Path, kind: Kind, *, overwrite: bool | None = False, sources: Sequence[Path] = ()
) -> Iterator[Path]:
    """Yields the path of a temporary sibling, an empty file or folder, to write to; on success it becomes
    `destination` in one step, after all of it is on the disk.

    Arguments are those of `check_destination`. Without `overwrite`, nothing that appears meanwhile is replaced. On any
    error, Ctrl-C included, the sibling is removed. Killed outright, a hidden sibling `.NAME.*.partial` may stay until
    the next run writes the same destination, which is what it was before.
    """
    check_destination(destination, kind, overwrite=overwrite, sources=sources)
    existed = os.path.lexists(destination)
    with _os_errors(destination):
        partial, lock = create(destination, folder=kind.folder)
    try:
        with _os_errors(destination):
            yield partial
            _sync(partial)
            if (existed or overwrite) and os.path.lexists(destination):
                _replace(partial, destination, kind)
            else:
                _appear(partial, destination)
            _sync_folder(destination.absolute().parent)
    finally:
        remove(partial)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def _os_errors(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{destination}: can't write it: {error.strerror or error}") from error


def _check_ending(destination: Path, kind: Kind, sources: Sequence[Path]) -> None:
    if destination.suffix.lower() == kind.ending or not kind.ending:
        return
    if destination.is_dir():
        exists = "it is a folder that exists, not a file; " if not kind.folder else ""
        name = sources[0].stem if sources else "name"
        free = (destination / f"{name}{mark}{kind.ending}" for mark in ("", "-small"))
        example = next((path for path in free if not os.path.lexists(path)), destination / f"other{kind.ending}")
    else:
        exists, example = "", (destination if destination.name else Path("name")).with_suffix(kind.ending)
    raise ConfigError(
        f"{destination}: {exists}the output is {kind.name}, so give it a name with the ending {kind.ending}, such as "
        f"{example}"
    )


def _check_apart(destination: Path, source: Path) -> None:
    """Refuse a destination that lies in the source, or that holds it or one of the files that it links to."""
    parent = destination.absolute().parent.resolve()
    if any(_same(folder, source) for folder in (parent, *parent.parents)):
        raise OutputError(f"{destination}: it lies inside the model {source}, which is never changed")
    for held in (source, *(path for path in source.resolve().rglob("*") if path.is_symlink())):
        if any(_same(folder, destination) for folder in held.resolve().parents) and not _same(destination, source):
            raise OutputError(f"{destination}: {held} lies inside it, so it can't be replaced")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_replaceable(destination: Path, kind: Kind) -> None:
    if destination.is_symlink():
        raise OutputError(f"{destination}: it is a link to {destination.resolve()}; name that path to replace it")
    if not kind.is_one(destination):
        raise OutputError(f"{destination}: it is not {kind.name}, so it is not replaced; choose another output")


def _appear(partial: Path, destination: Path) -> None:
    try:
        exclusive(partial, destination)
    except FileExistsError:
        raise OutputError(
            f"{destination}: it was written by another program in the meantime; choose another output"
        ) from None


def _replace(partial: Path, destination: Path, kind: Kind) -> None:
    old = destination.lstat()
    _check_replaceable(destination, kind)  # once more: it may have become something else
    partial.chmod(stat.S_IMODE(old.st_mode))
    if _exchange(partial, destination):
        if not os.path.samestat(old, partial.lstat()):
            _exchange(partial, destination)
            raise OutputError(f"{destination}: it was changed in the meantime, so it is not replaced; try again")
    elif not kind.folder:
        partial.replace(destination)
    else:
        _replace_in_two_steps(partial, destination)


def _replace_in_two_steps(partial: Path, destination: Path) -> None:
    """The old folder stays whole under a hidden name until the new one is in place."""
    backup = backup_of(partial)
    lock = hold(destination)
    try:
        destination.rename(backup)
        try:
            partial.rename(destination)
        except BaseException:
            backup.rename(destination)
            raise
        remove(backup)
    finally:
        if lock is not None:
            os.close(lock)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    The waiting is done at once for all: a file system commits what several ask for at the same time in one go.
    """
    if not path.is_dir():
        _sync_file(path)
        return
    content = list(os.walk(path))
    waits = [(_sync_file, Path(folder, name)) for folder, _, names in content for name in names]
    waits += [(_sync_folder, Path(folder)) for folder, _, _ in content]
    try:
        with pool(_SYNCED_AT_ONCE) as threads:
            list(threads.map(lambda wait: wait[0](wait[1]), waits))
    except RuntimeError:  # no thread begins when the interpreter ends, or the system has none left
        for sync, place in waits:
            sync(place)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    # Windows, and some file systems, know no such thing as a folder that waits to be written.
    with contextlib.suppress(OSError):
        _sync_file(path)
