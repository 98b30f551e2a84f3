"""The command `corepress`: thin, it parses, calls the API, and prints. Nothing heavy is imported until it is used."""

from __future__ import annotations

import gc
import sys
from typing import Any


def _command(**settings: Any) -> int | None:
    from corepress.cli.app import app  # under the guard, which words what an import may raise

    code: int | None = app(**settings)
    return code


def main() -> None:
    """Entry point; the exit codes are those of docs/cli.md."""
    try:
        from corepress.cli.guard import run

        code = run(_command)
    except KeyboardInterrupt:
        code = 130
    gc.freeze()  # the process ends: to search what is left for garbage takes a tenth of a short command
    sys.exit(code)
