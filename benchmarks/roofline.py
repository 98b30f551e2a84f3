"""What the machine could do at best: memory bandwidth, file writing, and the floor these set for a job."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SIZE = 128 << 20


def machine() -> dict[str, float]:
    """Bytes per second: copied in memory by one thread and by all, and written to a temporary file (not synced)."""
    import numpy as np

    source, target = np.ones(SIZE, np.uint8), np.empty(SIZE, np.uint8)
    threads = os.cpu_count() or 1
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool, tempfile.TemporaryFile(buffering=0) as file:
        return {
            "copy_one": SIZE / best(lambda: np.copyto(target, source)),
            "copy_all": SIZE / best(lambda: list(pool.map(lambda pair: np.copyto(*pair), pieces))),
            "write_file": SIZE / best(lambda: (file.seek(0), file.truncate(), file.write(source))),
        }


def best(action: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def floor(bytes_in: int, bytes_out: int, speeds: dict[str, float]) -> float:
    """The least seconds to read a package that is in memory already and to write another one."""
    return bytes_in / speeds["copy_all"] + bytes_out / speeds["write_file"]


if __name__ == "__main__":
    measured = machine()
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(measured))
    else:
        for name, speed in measured.items():
            print(f"{name}: {speed / 1e9:.1f} GB/s")
