"""`python -m tests.fuzzing --minutes 5 --seed 0`."""

from __future__ import annotations

import argparse
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.fuzzing.seeds import seeds
from tests.fuzzing.targets import Fuzzer

# An allocation beyond this is an attack that got through.
MEMORY = 12 << 30
CRASH = Path("fuzz-crash")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(seeds(Path(folder)), random.Random(arguments.seed))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        started = time.monotonic()
        try:
            while time.monotonic() < started + 60 * arguments.minutes:
                fuzzer.once()
        except BaseException:
            shutil.rmtree(CRASH, ignore_errors=True)
            shutil.copytree(fuzzer.folder, CRASH)
            print(f"the input (seed {arguments.seed}) is in {CRASH}/", file=sys.stderr)
            raise
        finally:
            shutil.rmtree(fuzzer.folder, ignore_errors=True)
            for name, (given, taken) in sorted(fuzzer.counts.items()):
                print(f"{name:10} {given:8,} inputs, {taken:8,} of them sound")


if __name__ == "__main__":
    main()
