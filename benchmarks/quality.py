"""How good models still are when they are compressed, by corepress and by coremltools: writes `docs/quality.md`.

    python benchmarks/quality.py                  # all, about half an hour on two cores
    python benchmarks/quality.py --tasks digits   # this part anew; the others stay as they were measured last
    python benchmarks/quality.py --quick          # prints a part, from less data, in 2 minutes

all-MiniLM-L6-v2 with its real weights (see tests/minilm.py for what to install), and two small networks that read
digits. The files of MNIST (http://yann.lecun.com/exdb/mnist) are in `data/mnist`, or where the variable MNIST says.
Seconds are of one run of each, so they only tell large differences.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from quality_methods import OURS, PEER, Method, OnModule, Result, methods
from quality_tasks import ROOT, Task, digits, encoder, mnist_network

OUTPUT = ROOT / "docs" / "quality.md"
CACHE = Path(tempfile.gettempdir(), "corepress-quality")
Row = tuple[Method, Result | str | None, Result | str | None]

INTRODUCTION = """\
# How good compressed models are

Made by `python benchmarks/quality.py`: corepress beside coremltools 9.0, on the same model, with the same configuration
and the same data. "Bits" are those stored for each compressed weight, its share of tables, scales and masks included,
counted the same way for both; two numbers where they differ, most often as coremltools left weights alone (blocks that
don't divide, embeddings). Biases and normalizations stay as they are; layer-wise methods (GPTQ, SparseGPT) leave
embeddings alone, too. What has no peer is an addition of corepress; `scale_search`, `activation_aware_scale`
and `match_original` are set beside the peer's run without them. "dB": the signal-to-noise ratio of the outputs
(embeddings, logits), up to one common factor, 6 dB for each halving of the error. It tells apart what a count of images
cannot: one image of digits is 0.0028. Of small networks two or three dB are chance; single values decide. Seconds are
of one run on a machine of two cores, calibration included.

- MiniLM: all-MiniLM-L6-v2, the mean cosine of its embeddings to those of the float32 model over {tests} sentences;
  calibrated on {calibration} others.
- digits, MNIST: the fraction of test images that a small convolutional network gets right, calibrated on {images}
  training images.
- Losses for sensitivities (`SKMPalettizer`), the same for both: of MiniLM the embedding on a random direction, one for
  each sentence, so that mean squared gradients are the diagonal of J^T J; of the others the cross-entropy.
- `calibrated`: `corepress.coreml.calibrated`, which learns from a package and samples, without PyTorch's model. Its
  numbers are those of the compressed package in `corepress.runtime`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and sentences; prints, and writes nothing")
    parser.add_argument("--only", default="", help="only methods whose name contains this; prints as well")
    parser.add_argument("--tasks", default="digits,MNIST,MiniLM", help="only these")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    CACHE.mkdir(exist_ok=True)
    quick = options.quick
    sizes = {"tests": 32 if quick else 128, "calibration": 32 if quick else 256, "images": 64 if quick else 256}
    makers: dict[str, Callable[[], Task]] = {
        "digits": lambda: digits(sizes["images"]),
        "MNIST": lambda: mnist_network(CACHE, sizes["images"], epochs=1),
        "MiniLM": lambda: encoder(CACHE, sizes["calibration"], sizes["tests"]),
    }
    bits = {"MiniLM": (4,)} if quick else {"MiniLM": (8, 6, 4, 3, 2)}
    with _progress() as progress:
        for title, make in makers.items():
            if title in options.tasks.split(","):
                with _silence():
                    task = make()
                chosen = methods(bits.get(title, (4, 2) if quick else (8, 6, 4, 3, 2, 1)))
                chosen = [method for method in chosen if options.only in method.name]
                found = section(task, compare(task, chosen, progress))
                if quick or options.only:
                    print(found, flush=True)
                else:
                    Path(CACHE, f"{title}.md").write_text(found)
                    parts = [part.read_text() for name in makers if (part := Path(CACHE, f"{name}.md")).exists()]
                    OUTPUT.write_text("\n".join([INTRODUCTION.format(**sizes), *parts]))


def compare(task: Task, chosen: list[Method], progress: Progress) -> list[Row]:
    """Each method in both libraries. Those that only add something of ours share the peer's run."""
    rows: list[Row] = []
    known: dict[str, Result | str | None] = {}
    for method in progress.track(chosen, description=task.title):
        own = attempt(method, OURS, task)
        same = f"{method.optimizer} {method.config}" if isinstance(method, OnModule) else method.name
        if same not in known:
            grouped = isinstance(method, OnModule) and "group_size" in method.config and not method.only_ours
            slow = grouped and task.title == "MiniLM"
            known[same] = "skipped: > 60 s" if slow else attempt(method, PEER, task)
        rows.append((method, own, known[same]))
    return rows


def attempt(method: Method, library: str, task: Task) -> Result | str | None:
    """The result, or what went wrong."""
    try:
        with _silence():
            return method.run(library, task)
    except Exception as error:  # the peer's exceptions are of all kinds
        return f"{type(error).__name__}"


def section(task: Task, rows: list[Row]) -> str:
    before = f"{task.score(task.original):.4f}"
    lines = [f"## {task.title}\n", f"Without compression: {before}.\n", *best(rows)]
    heads = ["bits", "corepress", "coremltools", "dB", "coremltools'", "seconds", "coremltools'"]
    lines += [f"| method | {' | '.join(heads)} |", "| --- " + "| ---: " * len(heads) + "|"]
    lines += [f"| {' | '.join(cells(*row))} |" for row in rows]
    return "\n".join([*lines, ""])


def best(rows: list[Row]) -> Iterator[str]:
    """The best of all methods for each number of bits, in a table."""
    yield "| bits of an index or integer | best of corepress | best of coremltools |"
    yield "| ---: | --- | --- |"
    for bits in dict.fromkeys(method.bits for method, _, _ in rows if method.bits < 32):
        found = []
        for side in (1, 2):
            results = [(row[side], row[0]) for row in rows if row[0].bits == bits and isinstance(row[side], Result)]
            result, method = max(results, key=lambda pair: pair[0].score, default=(None, None))
            name = "" if method is None else method.name if side == 1 else method.name.split(", scale_search")[0]
            found.append(
                "—" if result is None else f"{result.score:.4f} ({name}, {result.bits(result.compressed):.2f} bits)"
            )
        yield f"| {bits} | {' | '.join(found)} |"
    yield ""


def cells(method: Method, own: Result | str | None, peer: Result | str | None) -> list[str]:
    results = [result for result in (own, peer) if isinstance(result, Result)]
    # A library that leaves a weight alone, which the other one compresses, stores its float32.
    either = frozenset[str]().union(*(result.compressed for result in results))
    stored = " / ".join(dict.fromkeys(f"{result.bits(either):.2f}" for result in results))
    scores, snrs, seconds = [], [], []
    for result in (own, peer):
        scores.append(f"{result.score:.4f}" if isinstance(result, Result) else result or "—")
        snrs.append(f"{result.snr:.1f}" if isinstance(result, Result) else "—")
        seconds.append(f"{result.seconds:.1f}" if isinstance(result, Result) else "—")
    if len(results) == 2:
        for cells, ahead in ((scores, own.score > peer.score), (snrs, own.snr > peer.snr + 0.05)):
            cells[0] = f"**{cells[0]}**" if ahead else cells[0]
    name = method.name if method.bits == 32 else f"{method.bits} bits: {method.name}"
    return [name, stored, *scores, *snrs, *seconds]


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The peer, and the conversion, print bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    sys.exit(main())
