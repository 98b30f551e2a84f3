"""The command `corepress`: thin, it parses, calls the API, and prints. Nothing heavy is imported until it is used."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: bad input gives one sentence on standard error and exit code 1, never a traceback."""
    from corepress.cli.app import app
    from corepress.errors import CorepressError

    try:
        app(prog_name="corepress")
    except CorepressError as error:
        print(f"corepress: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
