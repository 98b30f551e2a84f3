"""The command as an installed program: help, versions, completion, and what wrong inputs come to."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from corepress import __version__
from corepress.cli import guard, streams
from corepress.cli.app import app
from tests.cli.test_cli import corepress

DIGITS = Path(__file__).parent.parent.parent / "examples/digits.mlpackage"
COMMANDS = app.list_commands(click.Context(app))


def here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """A command in this process: its exit code, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["corepress", *map(str, arguments)])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(streams, "_document", {})
    monkeypatch.setattr(streams, "_warnings", [])
    log = logging.getLogger("corepress")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(guard.signal, "signal", lambda *_: None)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = guard.run(app)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=["", *COMMANDS])
def test_both_flags_of_help(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, text, _ = here(monkeypatch, *command, "-h")
    assert code == 0 and "Usage: corepress" in text
    assert here(monkeypatch, *command, "--help")[:2] == (0, text)
    if not command:
        assert all(f"  {name} " in text for name in COMMANDS)
        assert "Exit codes: 0 good; 1 the model misses what was asked" in text


def test_without_a_command_there_is_help_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = here(monkeypatch)
    assert (code, out) == (2, "") and "palettize" in err


def test_the_version_and_the_module() -> None:
    assert corepress("--version").stdout == f"corepress {__version__}\n"  # by python -m corepress


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text, _ = here(monkeypatch, "--show-completion", shell)
    assert code == 0 and "_COREPRESS_COMPLETE" in text


def test_completion_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    monkeypatch.setenv("SHELL", "/bin/bash")
    mine = b"alias gr\xfc\xdfe='echo'\r\n# no line end"  # in no encoding that this knows
    (tmp_path / ".bashrc").write_bytes(mine)
    for arguments in (["--install-completion"], ["--install-completion", "bash"]):
        assert here(monkeypatch, *arguments)[0] == 0
    script = tmp_path / ".config/corepress/complete.bash"
    assert (tmp_path / ".bashrc").read_bytes() == mine + f"\nsource '{script}'\n".encode()
    shell = subprocess.run(  # where the command is not on the path, a new shell says nothing
        ["bash", "-c", f"source '{script}'; complete -p corepress"], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "corepress" in shell.stdout and not shell.stderr
    code, _, error = here(monkeypatch, "--install-completion", "tcsh")
    assert code == 2 and "bash, zsh, fish" in error


def offered(words: str, place: int) -> str:
    environment = {
        **os.environ,
        "_COREPRESS_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(place),
    }
    command = [sys.executable, "-c", "import sys; sys.argv = ['corepress']; from corepress.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not done.stderr
    return done.stdout.strip()


def test_what_completion_offers() -> None:
    assert offered("corepress pa", 1) == "plain,palettize"
    assert "plain,--nbits" in offered("corepress palettize --", 2)
    offered("corepress palletize --", 2)  # a mistake prints nothing into the line that is being written


def test_the_version_alone_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, "--version", "info", DIGITS)[:2] == (0, f"corepress {__version__}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="streams are closed by a shell of Unix")
@pytest.mark.parametrize(
    "command,code",
    [("targets >&-", 0), ("info nothing 2>&-", 3), (f"info {DIGITS} >&- 2>&-", 0), ("--help | true", 3)],
)
def test_streams_that_are_closed(command: str, code: int) -> None:
    line = f"set -o pipefail; {sys.executable} -m corepress {command}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


OUT = ["-o", "out.mlpackage"]
# Each: the arguments, the exit code, and what the sentence must hold.
WRONG: list[tuple[list[object], int, str]] = [
    (["info", "nothing"], 3, "nothing"),
    (["info", "folder"], 3, "folder"),
    (["info", "empty"], 3, "empty file"),
    (["info", "text.txt"], 3, "not a Core ML model"),
    (["info", DIGITS, "more"], 2, "more"),
    (["info", "n" * 300 + ".mlpackage"], 3, "nnn"),
    (["info", "bad.npz"], 3, "bad.npz"),
    (["info", "a\0b"], 2, "null byte"),
    (["palettize", DIGITS], 2, "--output"),
    (["palettize", DIGITS, "-o"], 2, "requires an argument"),
    (["compress", DIGITS, *OUT, "--recipe"], 2, "requires an argument"),
    (["palettize", DIGITS, *OUT, "--nbits", 5], 2, "1, 2, 3, 4, 6 or 8"),
    (["palettize", DIGITS, *OUT, "--mode", "unique", "--nbits", 4], 2, "--nbits"),
    (["palettize", DIGITS, *OUT, "--target", "iOS81"], 2, 'Did you mean "iOS18"?'),
    (["palettize", DIGITS, *OUT, "--target", "iOS15"], 2, "iOS16 or newer"),
    (["palettize", DIGITS, *OUT, "--method", "skm"], 2, "--data"),
    (["palettize", DIGITS, *OUT, "--config", "nothing.yaml"], 2, "No such file"),
    (["palettize", DIGITS, *OUT, "--config", "folder"], 2, "directory"),
    (["palettize", DIGITS, *OUT, "--config", "bad.npz"], 2, "not valid YAML"),
    (["palettize", DIGITS, *OUT, "--config", "list.yaml"], 2, "mapping"),
    (["palettize", DIGITS, *OUT, "--config", "linear.yaml"], 2, "palettize takes only OpPalettizerConfig"),
    (["palettize", DIGITS, *OUT, "--config", "misspelt.yaml"], 2, "misspelt.yaml: global_config: OpPalettizer"),
    (["palettize", DIGITS, *OUT, "--config", "empty"], 2, "empty: an optimization config must be"),
    (["palettize", DIGITS, "-o", DIGITS], 3, "--overwrite"),
    (["palettize", DIGITS, "-o", "no/o.mlpackage"], 3, "no such"),
    (["palettize", DIGITS, "-o", "n" * 250 + ".mlpackage"], 3, "too long"),
    (["palettize", DIGITS, "-o", "out.txt"], 2, ".mlpackage"),
    (["quantize", DIGITS, *OUT, "--activations"], 2, "--data"),
    (["quantize", DIGITS, *OUT, "--activations", "--data", "large.npz"], 2, "too large for float16"),
    (["quantize", DIGITS, *OUT, "--observer", "mse"], 2, "needs"),
    (["prune", DIGITS, *OUT], 2, "exactly one"),
    (["prune", DIGITS, *OUT, "--sparsity", 2], 2, "'--sparsity'"),
    (["prune", DIGITS, *OUT, "--sparsity", 0.5, "--n-m", "2:4"], 2, "exactly one"),
    (["prune", DIGITS, *OUT, "--n-m", "0:0"], 2, "--n-m"),
    (["prune", DIGITS, *OUT, "--n-m", "a:b"], 2, "2:4"),
    (["prune", DIGITS, *OUT, "--threshold", "inf"], 2, "finite"),
    (["prune", DIGITS, *OUT, "--threshold", "nan"], 2, "'--thr"),
    (["compress", DIGITS, *OUT], 2, "--recipe"),
    (["compress", DIGITS, *OUT, "--recipe", "list.yaml"], 2, "mapping"),
    (["compress", DIGITS, *OUT, "--recipe", "steps.yaml"], 2, "steps.yaml: step 1 (prune): Invalid value"),
    (["verify", DIGITS], 2, "'COMPRESSED'"),
    (["verify", DIGITS, DIGITS, "--metric", "snrr"], 2, "'cosine'"),
    (["verify", DIGITS, DIGITS, "--data", "no.npz"], 2, "does not exist"),
    (["verify", DIGITS, "nothing"], 3, "nothing"),
    (["verify", DIGITS, DIGITS, "--data", "bad.npz"], 3, "bad.npz"),
    (["verify", DIGITS, DIGITS, "--data", "folder"], 3, "no .npz"),
    (["verify", DIGITS, DIGITS, "--data", "wrong.npz"], 2, "has no array for the input 'image', but foo"),
    (["verify", DIGITS, DIGITS, "--device", "tpu"], 2, "device 'tpu'"),
    (["verify", DIGITS, DIGITS, "--function", "f"], 2, "'f'"),
    (["run", DIGITS], 2, "--random"),
    (["run", DIGITS, "-i", "image"], 2, "NAME=VALUE"),
    (["run", DIGITS, "-i", "img=1"], 2, "the inputs are image"),
    (["run", DIGITS, "-i", "image=1", "-i", "image=2"], 2, "'image' is given twice"),
    (["run", DIGITS, "-i", "image=no.npy"], 3, "no such file"),
    (["run", DIGITS, "-i", "image=abc"], 2, "nor a number"),
    (["run", DIGITS, "-i", "image=object.npy"], 3, "object.npy"),
    (["run", DIGITS, "--random", "-o", "out.txt"], 2, ".npz"),
    (["run", DIGITS, "--random", "--seed", -1], 2, "'--seed'"),
    (["targets", "more"], 2, "more"),
    (["palettise", DIGITS], 2, "Did you mean 'palettize'?"),
    (["--nothing"], 2, "--nothing"),
]


@pytest.fixture
def messy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which becomes the current one, of files that are not what a command takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, content in {
        "empty": b"",
        "text.txt": b"hello",
        "bad.npz": b"PK\x03\x04\xff\xfe",
        "list.yaml": b"- a\n- b\n",
        "steps.yaml": b"steps:\n  - prune: {target_sparsity: 3}\n",
        "misspelt.yaml": b"config_type: OpPalettizerConfig\nglobal_config: {mod: kmeans}\n",
        "linear.yaml": b"config_type: OpLinearQuantizerConfig\nglobal_config: {mode: linear}\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "wrong.npz", foo=np.zeros(3))
    np.savez(tmp_path / "large.npz", image=np.full((1, 1, 8, 8), 1e30, np.float32))
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    return tmp_path


@pytest.mark.parametrize("arguments,code,sentence", WRONG, ids=[" ".join(map(str, wrong[0]))[:60] for wrong in WRONG])
def test_a_wrong_input_gives_one_helpful_sentence(
    arguments: list[object], code: int, sentence: str, messy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(messy.rglob("*"))
    given, out, err = here(monkeypatch, *arguments)
    assert (given, out) == (code, "")
    assert re.fullmatch(r"corepress: [^\n]{5,900}\n", err) and sentence in err, err
    assert "unexpected error" not in err and sorted(messy.rglob("*")) == before
