"""Which compiler builds the library, and that another one gives the same bits."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.kernels.again import check_kernels

build_kernels = pytest.importorskip("tools.build_kernels", reason="the build needs hatchling")
ROOT = Path(__file__).parent.parent.parent


def needed() -> list[str]:
    """What a build asks to be installed for it."""
    hook = build_kernels.Hook(str(ROOT), {}, None, None, "", "wheel")
    return [requirement.partition(">")[0] for requirement in hook.dependencies()]


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A PATH on which nothing lies."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("COREPRESS_TARGET", raising=False)
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


def test_without_a_compiler_pip_fetches_one(bare) -> None:
    assert build_kernels.system_compiler() is None
    assert needed() == ["ziglang"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for a compiler")
def test_a_compiler_that_lacks_the_headers_is_none(bare) -> None:
    program(bare / "cc", 'echo "stdint.h: No such file" >&2; exit 1')
    assert build_kernels.system_compiler() is None
    assert needed() == ["ziglang"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for a compiler")
def test_the_compiler_of_the_system_and_of_cc(bare, monkeypatch) -> None:
    program(bare / "gcc", "exit 0")
    program(bare / "mine", "exit 0")
    assert build_kernels.system_compiler()[0] == "gcc" and needed() == []
    monkeypatch.setenv("CC", "mine -m64")
    assert build_kernels.system_compiler()[:2] == ["mine", "-m64"] and needed() == []


def test_a_compiler_of_cc_that_does_not_work_is_said(bare, monkeypatch) -> None:
    program(bare / "gcc", "exit 0")
    monkeypatch.setenv("CC", "gone --fast")
    with pytest.raises(SystemExit, match=r"CC is 'gone --fast', which can't compile"):
        needed()
    monkeypatch.setenv("CC", " ")
    assert needed() == []


def test_another_system_needs_zig(monkeypatch) -> None:
    monkeypatch.setenv("COREPRESS_TARGET", "windows-arm64")
    assert needed() == ["ziglang"]


def test_a_source_that_does_not_compile_leaves_the_library(tmp_path) -> None:
    sources, output = tmp_path / "c", tmp_path / "library.so"
    sources.mkdir()
    (sources / "wrong.c").write_text("this is no C\n")
    (sources / "cpu.c").write_text("int corepress_level(void) { return 0; }\n")
    output.write_bytes(b"what was there")
    with pytest.raises(SystemExit, match=r"wrong\.c"):
        build_kernels.build(sources, output)
    assert output.read_bytes() == b"what was there"


def test_an_editable_install_builds_what_is_older_than_its_sources_only(tmp_path, monkeypatch) -> None:
    kernels, built = tmp_path / build_kernels.KERNELS, []
    (kernels / "c").mkdir(parents=True)
    source, library = kernels / "c" / "cpu.c", kernels / build_kernels.native().file
    source.touch()
    monkeypatch.delenv("COREPRESS_TARGET", raising=False)
    monkeypatch.setattr(build_kernels, "build", lambda sources, output: built.append(output.touch()))
    hook = build_kernels.Hook(str(tmp_path), {}, None, None, "", "wheel")
    for _ in range(2):
        hook.initialize("editable", {})
    assert len(built) == 1
    os.utime(library, (0, 0))
    hook.initialize("editable", {})
    assert len(built) == 2


@pytest.mark.slow
def test_clang_gives_the_same_bytes(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ziglang")
    library = tmp_path / build_kernels.native().file
    build_kernels.build(ROOT / build_kernels.KERNELS / "c", library, build_kernels.native())
    check_kernels(COREPRESS_LIBRARY=str(library))
