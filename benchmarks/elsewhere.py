"""A measurement in a process of its own, so that none has the memory, the caches or the luck of another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def elsewhere(script: str | Path, *arguments: object) -> list[dict[str, Any]]:
    """The lines of JSON that a script prints; whatever else libraries say there is left out."""
    command = [sys.executable, str(script), *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
