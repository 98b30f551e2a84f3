"""What an output may replace, and what is left when a run ends in the middle."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corepress.errors import ConfigError, CorepressError
from corepress.formats import atomic, partials, renaming
from corepress.formats.atomic import check_destination, replacing
from corepress.formats.package import MLMODEL, PACKAGE

MANIFEST = '{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "model.mlmodel"}}}'


def a_package(path: Path, content: str = "old") -> Path:
    (path / "Data").mkdir(parents=True)
    (path / "Manifest.json").write_text(MANIFEST)
    (path / "Data/model.mlmodel").write_text(content)
    return path


def write(destination: Path, meanwhile: Callable[[], object] = lambda: None, **options) -> None:
    with replacing(destination, PACKAGE, **options) as partial:
        a_package(partial / "x", "new").rename(partial / "y")
        for item in (partial / "y").iterdir():
            item.rename(partial / item.name)
        (partial / "y").rmdir()
        meanwhile()


def content(path: Path) -> str:
    return (path / "Data/model.mlmodel").read_text()


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(params=["the system's renames", "ordinary renames"])
def renames(request, monkeypatch) -> None:
    """With and without what only Linux and macOS have."""
    if request.param == "ordinary renames":
        monkeypatch.setattr(renaming, "_special", lambda *_: False)


# What may be replaced.


def test_a_folder_that_is_no_package_is_never_replaced(tmp_path) -> None:
    for name in ("models.mlpackage", "empty.mlpackage"):
        (tmp_path / name).mkdir()
    (tmp_path / "models.mlpackage/notes.txt").write_text("mine")
    (tmp_path / "file.mlpackage").write_text("mine")
    before = everything(tmp_path)
    for name in ("models.mlpackage", "empty.mlpackage", "file.mlpackage"):
        with pytest.raises(CorepressError, match="it is not a model package"):
            write(tmp_path / name, overwrite=True)
    assert everything(tmp_path) == before


def test_a_file_of_another_kind_is_never_replaced(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    a_package(tmp_path / "net.mlmodel")
    for name in ("notes.txt", "net.mlmodel"):
        with pytest.raises(CorepressError), replacing(tmp_path / name, MLMODEL, overwrite=True):
            pass
    (tmp_path / "LOUD.MLMODEL").write_text("old")
    with replacing(tmp_path / "LOUD.MLMODEL", MLMODEL, overwrite=True) as partial:
        partial.write_text("new")
    assert (tmp_path / "LOUD.MLMODEL").read_text() == "new"
    assert (tmp_path / "notes.txt").read_text() == "mine" and content(tmp_path / "net.mlmodel") == "old"


def test_the_parent_and_a_child_of_the_source_are_never_replaced(tmp_path) -> None:
    outer = a_package(tmp_path / "outer.mlpackage")
    source = a_package(outer / "net.mlpackage")
    inner = a_package(source / "inner.mlpackage")
    for destination in (outer, inner, source / "Data/new.mlpackage"):
        with pytest.raises(CorepressError, match="lies inside"):
            write(destination, overwrite=True, sources=[source])
    assert content(outer) == content(source) == content(inner) == "old"


def test_nothing_is_written_into_a_package(tmp_path) -> None:
    package = a_package(tmp_path / "other.mlpackage")
    (tmp_path / "link").symlink_to(package)
    before = everything(tmp_path)
    for destination in (package / "new.mlpackage", package / "Data/new.mlpackage", tmp_path / "link/new.mlpackage"):
        with pytest.raises(CorepressError, match=f"lies inside the package {package}"):
            write(destination, overwrite=True)
    assert everything(tmp_path) == before


def test_links_do_not_hide_a_parent_or_a_child(tmp_path) -> None:
    outer = a_package(tmp_path / "outer.mlpackage")
    source = a_package(outer / "net.mlpackage")
    (tmp_path / "alias.mlpackage").symlink_to(source)
    (tmp_path / "folder").symlink_to(outer)
    for destination, given in (
        (outer, tmp_path / "alias.mlpackage"),
        (tmp_path / "alias.mlpackage/new.mlpackage", source),
        (tmp_path / "folder/net.mlpackage/new.mlpackage", source),
    ):
        with pytest.raises(CorepressError, match="lies inside"):
            write(destination, overwrite=True, sources=[given])
    assert content(outer) == content(source) == "old"


def test_a_package_that_the_source_links_into_is_not_replaced(tmp_path) -> None:
    other = a_package(tmp_path / "other.mlpackage")
    source = a_package(tmp_path / "net.mlpackage")
    (source / "Data/model.mlmodel").unlink()
    (source / "Data/model.mlmodel").symlink_to(other / "Data/model.mlmodel")
    with pytest.raises(CorepressError, match="lies inside"):
        write(other, overwrite=True, sources=[source])
    assert content(other) == "old"


def test_what_a_link_leads_to_is_not_replaced(tmp_path) -> None:
    real = a_package(tmp_path / "real.mlpackage")
    (tmp_path / "link.mlpackage").symlink_to(real)
    (tmp_path / "dangling.mlpackage").symlink_to(tmp_path / "nothing")
    for name in ("link.mlpackage", "dangling.mlpackage"):
        with pytest.raises(CorepressError, match="it is a link to"):
            write(tmp_path / name, overwrite=True)
        with pytest.raises(CorepressError, match="exists already"):
            write(tmp_path / name, overwrite=False)
        assert (tmp_path / name).is_symlink()
    assert content(real) == "old"


def test_the_source_itself_is_replaced_only_when_asked(tmp_path) -> None:
    source = a_package(tmp_path / "net.mlpackage")
    (tmp_path / "alias.mlpackage").symlink_to(source)
    for given in (source, tmp_path / "alias.mlpackage"):
        with pytest.raises(CorepressError, match=r"read from it.*overwrite=True"):
            write(source, overwrite=None, sources=[given])
    assert content(source) == "old"
    write(source, overwrite=True, sources=[source])
    assert content(source) == "new"


@pytest.mark.parametrize(("name", "example"), [("small", "small.mlpackage"), ("empty", "empty/net.mlpackage"),
                                               ("models", "models/net-small.mlpackage"),
                                               ("small.mlmodelc", "small.mlpackage")])  # fmt: skip
def test_a_name_without_the_ending_is_refused_with_one_that_will_do(tmp_path, name, example) -> None:
    source = a_package(tmp_path / "models/net.mlpackage")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        check_destination(tmp_path / name, PACKAGE, overwrite=True, sources=[source])
    assert ".mlpackage" in str(error.value) and str(error.value).endswith(str(tmp_path / example))


# What appears, and what stays.


@pytest.mark.usefixtures("renames")
def test_an_output_is_replaced_whole(tmp_path) -> None:
    package = a_package(tmp_path / "net.mlpackage")
    (package / "extra").write_text("old")
    write(package, overwrite=True)
    assert content(package) == "new" and everything(tmp_path) == {
        "net.mlpackage", "net.mlpackage/Manifest.json", "net.mlpackage/Data", "net.mlpackage/Data/model.mlmodel"
    }  # fmt: skip
    (tmp_path / "net.mlmodel").write_text("old")
    with replacing(tmp_path / "net.mlmodel", MLMODEL, overwrite=True) as partial:
        partial.write_text("new")
    assert (tmp_path / "net.mlmodel").read_text() == "new"
    assert not [name for name in everything(tmp_path) if name.startswith(".")]


@pytest.mark.usefixtures("renames")
@pytest.mark.parametrize("overwrite", [False, None])
def test_what_appears_meanwhile_stays(tmp_path, overwrite) -> None:
    package = tmp_path / "net.mlpackage"
    with pytest.raises(CorepressError, match="written by another program in the meantime"):
        write(package, lambda: a_package(package, "of somebody else"), overwrite=overwrite)
    assert content(package) == "of somebody else"
    file = tmp_path / "net.mlmodel"
    with (
        pytest.raises(CorepressError, match="written by another program in the meantime"),
        replacing(file, MLMODEL, overwrite=overwrite) as partial,
    ):
        partial.write_text("new")
        file.write_text("of somebody else")
    assert file.read_text() == "of somebody else"
    assert not [name for name in everything(tmp_path) if name.startswith(".")]


@pytest.mark.usefixtures("renames")
def test_what_appears_meanwhile_and_is_no_package_stays_even_with_overwrite(tmp_path) -> None:
    package = tmp_path / "net.mlpackage"

    def appear() -> None:
        package.mkdir()
        (package / "notes.txt").write_text("mine")

    with pytest.raises(CorepressError, match="not a model package"):
        write(package, appear, overwrite=True)
    assert (package / "notes.txt").read_text() == "mine"


def test_what_takes_its_place_in_the_last_moment_stays(tmp_path, monkeypatch) -> None:
    """Between the last check and the exchange, the output becomes another folder."""
    package = a_package(tmp_path / "net.mlpackage")
    exchange = atomic._exchange

    def late(one: Path, other: Path) -> bool:
        if content(other) == "old":
            package.rename(tmp_path / "away")
            a_package(package, "of somebody else")
        return exchange(one, other)

    monkeypatch.setattr(atomic, "_exchange", late)
    if not renaming.exchange(a_package(tmp_path / "a"), a_package(tmp_path / "b")):
        pytest.skip("the system can't swap two folders")
    with pytest.raises(CorepressError, match="changed"):
        write(package, overwrite=True)
    assert content(package) == "of somebody else"


def test_all_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, atomic.exclusive

    def fsync(descriptor: int) -> None:
        events.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))
        sync(descriptor)

    def exclusive(old: Path, new: Path) -> None:
        events.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(atomic, "exclusive", exclusive)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not say what a descriptor is of")
    write(tmp_path / "net.mlpackage")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {name.partition("/")[2] for name in before} == {"", "Data", "Data/model.mlmodel", "Manifest.json"}
    assert after == ["."]


# Names and modes.


@pytest.mark.parametrize("letter", ["x", "é", "模"])
def test_names_up_to_the_longest(tmp_path, letter) -> None:
    room = 255 - len(".mlpackage")
    name = letter * (room // len(letter.encode())) + ".mlpackage"
    write(tmp_path / name)
    write(tmp_path / name, overwrite=True)
    assert everything(tmp_path) >= {name} and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CorepressError, match="too long"):
        write(tmp_path / ("xxxxx" + name))


def test_a_name_with_a_null_byte(tmp_path) -> None:
    with pytest.raises(CorepressError, match="null"):
        write(tmp_path / "a\0b.mlpackage")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_modes_are_those_of_new_files_and_of_what_is_replaced(tmp_path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "net.mlpackage")
        assert mode(tmp_path / "net.mlpackage") == 0o750 and mode(tmp_path / "net.mlpackage/Manifest.json") == 0o640
        for kept in (0o700, 0o775, 0o500):
            (tmp_path / "net.mlpackage").chmod(kept)
            write(tmp_path / "net.mlpackage", overwrite=True)
            assert mode(tmp_path / "net.mlpackage") == kept
    finally:
        os.umask(old)
    assert len(list(tmp_path.iterdir())) == 1


# What killed runs leave.

WRITER = """
import sys, time
from pathlib import Path
from corepress.formats.atomic import replacing
from corepress.formats.package import PACKAGE
with replacing(Path(sys.argv[1]), PACKAGE, overwrite=True) as partial:
    (partial / "Manifest.json").write_text("half")
    print(partial, flush=True)
    time.sleep(600)
"""


def writer(destination: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(destination)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.skipif(partials.fcntl is None, reason="the system has no locks that end with the process")
@pytest.mark.parametrize("length", [3, 240])
def test_partials_of_killed_runs_are_swept_and_those_of_others_are_not(tmp_path, length) -> None:
    destination = tmp_path / ("n" * length + ".mlpackage")
    dead, left = writer(destination)
    alive, held = writer(destination)
    other, foreign = writer(tmp_path / "other.mlpackage")
    try:
        for process in (dead, other):
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert left.exists() and held.exists() and foreign.exists()
        write(destination)
        assert not left.exists() and foreign.exists()
        assert (held / "Manifest.json").read_text() == "half"
    finally:
        alive.kill()
        for process in (dead, alive, other):
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    write(destination, overwrite=True)
    assert not held.exists() and content(destination) == "new"


def test_an_old_package_that_was_moved_away_is_put_back(tmp_path) -> None:
    destination = tmp_path / "net.mlpackage"
    backup = a_package(tmp_path / ".net.mlpackage.0123abcd.old")
    with pytest.raises(CorepressError, match="exists already"):
        write(destination, overwrite=False)
    assert content(destination) == "old" and not backup.exists()
    write(destination, overwrite=True)
    assert content(destination) == "new"


def test_an_old_package_is_swept_when_there_is_a_new_one(tmp_path) -> None:
    destination = a_package(tmp_path / "net.mlpackage", "newer")
    backup = a_package(tmp_path / ".net.mlpackage.0123abcd.old")
    mine = a_package(tmp_path / ".net.mlpackage.mine.old")
    with pytest.raises(CorepressError):
        write(destination, overwrite=False)
    assert content(destination) == "newer" and mine.exists()
    assert not backup.exists() or partials.fcntl is None


def test_killed_between_the_two_steps_of_a_system_without_exchange(tmp_path, monkeypatch) -> None:
    """The old package comes back although the process had no time to put it back."""
    monkeypatch.setattr(renaming, "_special", lambda *_: False)
    destination = a_package(tmp_path / "net.mlpackage")
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if self.suffix in (".partial", ".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        atomic._replace_in_two_steps(a_package(tmp_path / ".net.mlpackage.0123abcd.partial", "new"), destination)
    monkeypatch.setattr(Path, "rename", rename)
    assert not destination.exists()
    partials.sweep(destination)
    assert content(destination) == "old" and len(list(tmp_path.iterdir())) == 1
