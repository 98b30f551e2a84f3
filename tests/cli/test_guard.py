"""Whatever goes wrong: one sentence on standard error, the documented exit code, and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from corepress.cli.guard import Terminated, failure_of
from corepress.errors import ConfigError, CorepressError, FormatError, Missed
from tests.cli.test_cli import corepress
from tests.process import python

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"


@pytest.mark.parametrize("error,kind,code", [
    (Missed("too far"), "missed", 1), (ConfigError("which?"), "usage", 2), (FormatError("damaged"), "format", 3),
    (CorepressError("can't"), "failed", 3), (MemoryError(), "memory", 3), (RecursionError(), "format", 3),
    (zipfile.BadZipFile("x"), "format", 3), (OSError(28, "No space left on device"), "system", 3),
    (BrokenPipeError(), "pipe", 3), (ModuleNotFoundError("no", name="torch"), "missing", 3),
    (ModuleNotFoundError("no", name="corepress.nothing"), "unforeseen", 3), (KeyError("x"), "unforeseen", 3),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory", 3),
    (KeyboardInterrupt(), "interrupted", 130), (Terminated(), "interrupted", 143),
])  # fmt: skip
def test_every_error_has_its_kind_and_exit_code(error: BaseException, kind: str, code: int) -> None:
    failure = failure_of(error)
    assert (failure.kind, failure.exit_code) == (kind, code)
    assert bool(failure.message) == (kind != "pipe")


def raising(statement: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, where reading a model raises."""
    code = (
        f"import sys; sys.argv = {['corepress', *map(str, arguments)]!r}\n"
        f"import corepress.formats.read as m\ndef read(path):\n {statement}\nm.read = read\n"
        "from corepress.cli import main; main()"
    )
    return python(code)


@pytest.mark.parametrize("statement,sentence,code", [
    ("raise MemoryError", "there is not enough memory", 3),
    ("raise PermissionError(13, 'Permission denied', 'a [b].bin')", "a [b].bin: Permission denied", 3),
    ("return read(path)", "nested too deeply", 3), ("import nothing_of_the_kind", "pip install nothing_of_the_kind", 3),
    ("1 / 0", "an unexpected error occurred (ZeroDivisionError: division by zero); please report it", 3),
    ("raise KeyboardInterrupt", "stopped", 130),
])  # fmt: skip
def test_no_traceback(statement: str, sentence: str, code: int) -> None:
    done = raising(statement, "info", DIGITS)
    assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr
    assert re.fullmatch(r"corepress: .+\n", done.stderr) and sentence in done.stderr
    error = json.loads(raising(statement, "info", DIGITS, "--json").stdout)["error"]
    assert error["exit_code"] == code and sentence in error["message"]


def test_the_traceback_is_there_for_who_asks(monkeypatch) -> None:
    monkeypatch.setenv("COREPRESS_TRACEBACK", "1")
    done = raising("1 / 0", "info", DIGITS)
    assert "Traceback" in done.stderr and "COREPRESS_TRACEBACK=1" in done.stderr and done.returncode == 3


@pytest.mark.parametrize("arguments,code", [
    (["info", "nothing.mlpackage"], 3), (["info"], 2), (["inform", "x"], 2), (["info", DIGITS, "--nothing"], 2),
    (["quantize", DIGITS, "-o", "o.mlpackage", "--config", "nothing.yaml"], 2),
    (["compress", DIGITS, "-o", "o.mlpackage", "--recipe", "nothing.yaml"], 2),
    (["quantize", DIGITS, "-o", "o.mlpackage", "--dtype", "int5"], 2), (["prune", DIGITS, "-o", "o.mlpackage"], 2),
    (["verify", DIGITS, DIGITS, "--metric", "max_abs", "--threshold", "-1"], 2),
    (["verify", DIGITS, DIGITS, "--metric", "top1", "--threshold", "1.5"], 2),
    (["verify", DIGITS, DIGITS, "--min-snr", "nan"], 2),
    (["palettize", DIGITS, "-o", "o.mlpackage", "--metric", "cosine", "--verify-threshold", "7"], 2),
])  # fmt: skip
def test_errors_are_json_as_well(arguments: list[object], code: int, tmp_path: Path) -> None:
    done = corepress(*arguments, "--json", check=False, cwd=tmp_path)
    result = json.loads(done.stdout)
    assert result["schema"] == 2 and result["warnings"] == []
    assert result["error"]["exit_code"] == done.returncode == code
    assert done.stderr == f"corepress: {result['error']['message']}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option,value,sentence", [
    ("--nbits", "four", "'--nbits' / '--bits': it must be a whole number"),
    ("--group-size", 0, "'--group-size': it must be greater"),
    ("--mode", "kmean", "'--mode': 'kmean' is not one of 'kmeans'"),
])  # fmt: skip
def test_values_that_make_no_sense(option: str, value: object, sentence: str) -> None:
    done = corepress("palettize", DIGITS, "-o", "o.mlpackage", option, value, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert sentence in done.stderr and done.stderr.endswith("(see corepress palettize --help)\n")


def test_a_damaged_file_of_arrays(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.npz", tmp_path / "good.npz"
    np.savez(good, image=np.zeros((1, 1, 28, 28), np.float32))
    bad.write_bytes(good.read_bytes()[:-60])
    done = corepress("verify", DIGITS, DIGITS, "--data", bad, check=False)
    assert done.returncode == 3 and "bad.npz" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="POSIX's files and pipes")
@pytest.mark.parametrize("json_flag", ["", "--json"])
def test_standard_output_that_can_not_be_written(json_flag: str) -> None:
    command = f"{sys.executable} -m corepress info {json_flag} {DIGITS}"
    closed = subprocess.run(f"{command} | true; exit ${{PIPESTATUS[0]}}", shell=True, capture_output=True,
                            text=True, executable="/bin/bash")  # fmt: skip
    assert (closed.returncode, closed.stderr) == (3, "")
    full = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert full.returncode == 3
    assert re.fullmatch(r"corepress: [^\n]*No space left on device\n", full.stderr)


def test_what_the_pages_say_of_kinds() -> None:
    """docs/cli.md names every kind of failure."""
    source = (ROOT / "src/corepress/cli/guard.py").read_text()
    kinds = set(re.findall(r'Failure\(\s*"(\w+)"', source))
    assert len(kinds) > 8
    page = (ROOT / "docs/cli.md").read_text()
    assert {kind for kind in kinds if f"`{kind}`" not in page} == set()
