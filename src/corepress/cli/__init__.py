"""The command `corepress`: it parses, calls the API, and prints.

| file | what is in it |
| --- | --- |
| `app.py` | the commands: for each a function, whose parameters are its arguments and options |
| `options.py`, `settings.py`, `check.py` | options that several commands share, and groups of them, as dataclasses |
| `declare.py` | makes a command of such a function |
| `usage.py` | the table of options that have no effect without others, beside others, or for neural networks |
| `steps.py` | read, compress, save, compare, report: what the compressing commands have in common |
| `show.py`, `info.py`, `terminal.py`, `streams.py` | tables, progress, JSON, warnings |
| `guard.py`, `words.py` | errors become one sentence and an exit code, in the words of the command line |
| `completion.py`, `committed.py` | completion by the shell; the hook of pre-commit |

A command may import every part of corepress, but in its function, when it is called: `corepress --help` must import
nothing heavy (`tests/cli/test_cli.py` checks it). No other part imports this one.

To add a command:

1. `app.py`: a function with `@command()`, named as the command. Its docstring is the help. Each parameter is annotated
   with `Annotated[type, Option(help="A sentence.")]`, or is one of `options.py`. It calls the API, and raises
   `errors.Missed` where a model misses what was asked of it. With `as_json: options.Json` it hands what it found to
   `streams.document`, and prints it otherwise. Where options need others, it is `@command(Checked)`, with a row of
   `usage.TABLE`.
2. `docs/cli.md`: a section named as the command, which lists the fields of its JSON; a row of the table in `README.md`;
   a line in `CHANGELOG.md`.
3. `tests/cli/test_NAME.py`: run it with `tests.cli.test_cli.corepress`, and its refusals with `fails`.
"""

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
