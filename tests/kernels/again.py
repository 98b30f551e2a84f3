"""The tests of the kernels once more, in a process with another library or another level of instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_ABOUT_THE_LIBRARY = ("test_library.py", "test_build.py")


def check_kernels(pattern: str = "test_*.py", **environment: str) -> None:
    """Run those of some files, by default all, but for those of the library itself."""
    files = [str(file) for file in sorted(HERE.glob(pattern)) if file.name not in _ABOUT_THE_LIBRARY]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parent.parent, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
