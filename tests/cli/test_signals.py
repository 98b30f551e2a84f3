"""Ctrl-C and SIGTERM at every stage: the documented exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"

# At each stage the process sends itself the signal: when it imports a module, or when it calls a function.
AT = """
import importlib, os, sys
number, stage, sys.argv = {number}, {stage!r}, {argv!r}
signalled = []

def strike(*args, **kwargs):
    if not signalled:
        signalled.append(True)
        os.kill(os.getpid(), number)
    return original(*args, **kwargs)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == stage and not signalled:
            signalled.append(True)
            os.kill(os.getpid(), number)

if ":" in stage:
    module, _, names = stage.partition(":")
    owner = importlib.import_module(module)
    *outer, last = names.split(".")
    for name in outer:
        owner = getattr(owner, name)
    original = getattr(owner, last)
    setattr(owner, last, strike)
else:
    sys.meta_path.insert(0, Finder())
from corepress.cli import main
main()
"""
STAGES = {
    "import of the commands": "corepress.cli.app",
    "import of NumPy": "numpy",
    "import of PyTorch": "torch",
    "load": "corepress.formats.package:read_spec",
    "compress": "corepress.formats.mlprogram:Model.store",
    "report": "corepress.reports.rows:_snr",
    "save": "corepress.formats.atomic:_appear",
    "verify": "corepress.runtime.program:Program.predict",
}
# The shell's background jobs, which the tests may be one of, ignore SIGINT, and so would theirs.
HEEDING = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="POSIX's signals")
@pytest.mark.parametrize("stage,name", [(stage, "SIGINT") for stage in STAGES] + [
    (stage, "SIGTERM") for stage in ("load", "compress", "save")
])  # fmt: skip
def test_stopped_at_a_stage(stage: str, name: str, tmp_path: Path) -> None:
    if stage in ("import of PyTorch", "verify"):
        pytest.importorskip("torch")
    code = {"SIGINT": 130, "SIGTERM": 143}[name]
    argv = ["corepress", "quantize", str(DIGITS), "-o", str(tmp_path / "out.mlpackage"), "--json"]
    argv += ["--verify"] if stage in ("import of PyTorch", "verify") else []  # the others needn't wait for PyTorch
    script = AT.format(number=getattr(signal, name).value, stage=STAGES[stage], argv=argv)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          preexec_fn=HEEDING, env=environment)  # fmt: skip
    assert done.stderr == "corepress: stopped\n"
    assert done.returncode == code
    assert json.loads(done.stdout)["error"] == {"kind": "interrupted", "message": "stopped", "exit_code": code}
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["out.mlpackage"] if stage == "verify" else [])


DROPPED = """
import os, signal, sys, time
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
import corepress.formats.read
def read(path):
    Dropping()
    time.sleep(20)
    print("went on")
corepress.formats.read.read = read
sys.argv = ["corepress", "info", "examples/digits.mlpackage"]
from corepress.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX's signals")
def test_ctrl_c_in_a_place_where_python_drops_it_counts_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True,
                          preexec_fn=HEEDING, cwd=ROOT)  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (130, "corepress: stopped\n", "")
