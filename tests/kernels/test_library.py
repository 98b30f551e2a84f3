"""A library that can't serve is said in one sentence, with its file; each level of instructions gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corepress.kernels import library
from tests.kernels.again import check_kernels

ROOT = Path(__file__).parent.parent.parent
PACK = "import numpy, corepress.weights as w; print(w.pack_bits(numpy.arange(8, dtype=numpy.uint8), 4).tolist())"


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, check=False)


def refusal(program: str = PACK, **environment: str) -> str:
    """What the error of corepress says that ends a program."""
    done = run(program, **environment)
    assert done.returncode == 1 and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    kind, _, said = last.partition(": ")
    assert kind in ("corepress.errors.MissingDependencyError", "corepress.errors.ConfigError")
    return said


def test_a_missing_library(tmp_path) -> None:
    said = refusal(COREPRESS_LIBRARY=str(tmp_path / "gone.so"))
    assert str(tmp_path / "gone.so") in said and "was not built" in said and "pip install" in said


@pytest.mark.parametrize("content", [b"", b"text, not a library", b"\x7fELF" + bytes(60)])
def test_a_file_that_is_no_library(tmp_path, content) -> None:
    file = tmp_path / "damaged.so"
    file.write_bytes(content)
    said = refusal(COREPRESS_LIBRARY=str(file))
    assert f"{file} does not load on this machine" in said and "pip install" in said


@pytest.mark.skipif(sys.platform != "linux", reason="changes the processor in the header of an ELF file")
def test_a_library_for_another_processor(tmp_path) -> None:
    content = bytearray(library.path().read_bytes())
    content[18:20] = (243).to_bytes(2, "little")  # RISC-V
    file = tmp_path / "foreign.so"
    file.write_bytes(content)
    assert f"{file} does not load on this machine" in refusal(COREPRESS_LIBRARY=str(file))


@pytest.mark.skipif(not library.path().with_name("c").exists(), reason="a wheel has no sources")
def test_a_library_that_is_older_than_its_sources(tmp_path) -> None:
    old = tmp_path / library.path().name
    old.write_bytes(library.path().read_bytes())
    os.utime(old, (0, 0))
    said = refusal(COREPRESS_LIBRARY=str(old))
    assert f"{old} is older than its sources" in said and "make kernels" in said


def test_a_library_of_another_version() -> None:
    program = "from corepress.kernels.library import kernel; kernel('of_tomorrow')"
    said = refusal(program)
    assert str(library.path()) in said and "another version" in said and "of_tomorrow" in said


def test_other_machines_are_refused() -> None:
    assert "64-bit, little-endian" in refusal(f"import sys; sys.maxsize = 2**31 - 1; {PACK}")
    assert "64-bit, little-endian" in refusal(f"import sys; sys.byteorder = 'big'; {PACK}")


def test_a_level_that_this_machine_lacks() -> None:
    said = refusal(COREPRESS_CPU="sse9")
    assert "COREPRESS_CPU is 'sse9'" in said and "baseline" in said


def test_the_command_line_says_it_without_a_traceback(tmp_path) -> None:
    command = [sys.executable, "-m", "corepress", "palettize", str(ROOT / "examples/digits.mlpackage"), "--nbits", "4"]
    command += ["-o", str(tmp_path / "out.mlpackage")]
    environment = os.environ | {"COREPRESS_LIBRARY": str(tmp_path / "gone.so")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert str(tmp_path / "gone.so") in done.stderr.replace("\n", "")
    assert not (tmp_path / "out.mlpackage").exists()


@pytest.mark.slow
@pytest.mark.parametrize("level", library.levels()[:-1])
def test_the_kernels_give_the_same_bytes_at_every_level(level) -> None:
    check_kernels("test_same_bytes.py", COREPRESS_CPU=level)


@pytest.mark.slow
@pytest.mark.parametrize("level", library.levels()[:-1])
def test_the_kernels_pass_their_tests_at_every_level(level) -> None:
    check_kernels(COREPRESS_CPU=level)
