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
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from quality_methods import OURS, PEER, STEPS, Method, OnModule, Result, methods
from quality_tasks import ROOT, Task, digits, encoder, mnist_network
from search_page import put

OUTPUT = ROOT / "docs" / "quality.md"
CACHE = Path(tempfile.gettempdir(), "corepress-quality")
# Of each seed, what a library made, or why it made nothing.
Found = list[Result | str | None]
Row = tuple[Method, Found, Found]
SEEDS = 5

MARKS = "<!-- benchmarks/quality.py writes from here -->", "<!-- to here -->"
INTRODUCTION = """\
Made by `python benchmarks/quality.py`: corepress beside coremltools 9.0, on the same model, with the same configuration
and the same data. "Bits" are those stored for each compressed weight, its share of tables, scales and masks included,
counted the same way for both; two numbers where they differ, most often as coremltools left weights alone (blocks that
don't divide, embeddings). Biases and normalizations stay as they are; layer-wise methods (GPTQ, SparseGPT) leave
embeddings alone, too. What has no peer is an addition of corepress; `scale_search`, `activation_aware_scale`
and `match_original` are set beside the peer's run without them. "dB": the signal-to-noise ratio of the outputs
(embeddings, logits), up to one common factor, 6 dB for each halving of the error. It tells apart what a count of images
cannot: one image of digits is 0.0028. Of small networks two or three dB are chance; single values decide. Seconds are
of one run on a machine of two cores, calibration included.

Nothing learns from the data that is measured on. "Other" is data of another kind than calibration: images turned by 20
to 40 degrees with noise, docstrings of NumPy. Of digits and MNIST each number is the mean over {seeds} seeds: each seed
trains a network of its own and draws calibration images of its own. "Ahead" is by how much corepress is ahead of
coremltools on average, with the standard error over the seeds. Bold: ahead by more than that error.

- MiniLM: all-MiniLM-L6-v2, the mean cosine of its embeddings to those of the float32 model over {tests} sentences;
  calibrated on {calibration} others.
- digits, MNIST: the fraction of test images that a small convolutional network gets right, calibrated on {images}
  training images.
- "refined": `corepress.refine`, {steps} steps on the same samples, after the fit.
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
    seeds = 2 if quick else SEEDS
    makers: dict[str, Callable[[], list[Task]]] = {
        "digits": lambda: [digits(CACHE, sizes["images"], seed) for seed in range(seeds)],
        "MNIST": lambda: [mnist_network(CACHE, sizes["images"], epochs=1, seed=seed) for seed in range(seeds)],
        "MiniLM": lambda: [encoder(CACHE, sizes["calibration"], sizes["tests"])],
    }
    bits = {"MiniLM": (4,)} if quick else {"MiniLM": (8, 6, 4, 3, 2)}
    with _progress() as progress:
        for title, make in makers.items():
            if title in options.tasks.split(","):
                with _silence():
                    tasks = make()
                chosen = methods(bits.get(title, (4, 2) if quick else (8, 6, 4, 3, 2, 1)))
                chosen = [method for method in chosen if options.only in method.name]
                found = section(tasks, compare(tasks, chosen, progress))
                if quick or options.only:
                    print(found, flush=True)
                else:
                    Path(CACHE, f"{title}.md").write_text(found)
                    parts = [part.read_text() for name in makers if (part := Path(CACHE, f"{name}.md")).exists()]
                    put(OUTPUT, MARKS, "\n".join([INTRODUCTION.format(**sizes, seeds=seeds, steps=STEPS), *parts]))


def compare(tasks: list[Task], chosen: list[Method], progress: Progress) -> list[Row]:
    """Each method in both libraries. Those that only add something of ours share the peer's run."""
    rows: list[Row] = []
    known: dict[str, Found] = {}
    title = tasks[0].title
    for method in progress.track(chosen, description=title):
        own: Found = [attempt(method, OURS, task) for task in tasks]
        same = f"{method.optimizer} {method.config}" if isinstance(method, OnModule) else method.name
        if same not in known:
            grouped = isinstance(method, OnModule) and "group_size" in method.config and not method.only_ours
            slow = grouped and title == "MiniLM"
            known[same] = ["skipped: > 60 s"] if slow else [attempt(method, PEER, task) for task in tasks]
        rows.append((method, own, known[same]))
    return rows


def attempt(method: Method, library: str, task: Task) -> Result | str | None:
    """The result, or what went wrong."""
    try:
        with _silence():
            return method.run(library, task)
    except Exception as error:  # the peer's exceptions are of all kinds
        return f"{type(error).__name__}"


def section(tasks: list[Task], rows: list[Row]) -> str:
    kinds = [[task.tests[kind].score(task.tests[kind].original) for task in tasks] for kind in (0, 1)]
    like, other = (f"{np.mean(kind):.4f}" for kind in kinds)
    lines = [f"## {tasks[0].title}\n", f"Without compression: {like}, other {other}.\n", *best(rows)]
    heads = ["bits", "corepress", "coremltools", "ahead", "dB", "coremltools'", "other", "coremltools'", "dB",
             "coremltools'", "seconds", "coremltools'"]  # fmt: skip
    lines += [f"| method | {' | '.join(heads)} |", "| --- " + "| ---: " * len(heads) + "|"]
    lines += [f"| {' | '.join(cells(*row))} |" for row in rows]
    return "\n".join([*lines, ""])


def results(found: Found) -> list[Result]:
    return [result for result in found if isinstance(result, Result)]


def mean(found: Found, of: Callable[[Result], float]) -> float:
    return float(np.mean([of(result) for result in results(found)]))


def best(rows: list[Row]) -> Iterator[str]:
    """The best of all methods for each number of bits, in a table."""
    yield "| bits of an index or integer | best of corepress | best of coremltools |"
    yield "| ---: | --- | --- |"
    for bits in dict.fromkeys(method.bits for method, _, _ in rows if method.bits < 32):
        names = []
        for side in (1, 2):
            sides = [(row[side], row[0]) for row in rows if row[0].bits == bits and results(row[side])]
            found, method = max(sides, key=lambda pair: mean(pair[0], lambda own: own.scores[0]), default=([], None))
            name = "" if method is None else method.name if side == 1 else method.name.split(", scale_search")[0]
            score, size = (mean(found, of) if found else 0 for of in (lambda own: own.scores[0], bits_of(found)))
            names.append(f"{score:.4f} ({name}, {size:.2f} bits)" if found else "—")
        yield f"| {bits} | {' | '.join(names)} |"
    yield ""


def bits_of(*sides: Found) -> Callable[[Result], float]:
    """The bits of a result, over the weights that any of these compressed: a library that leaves one of them alone
    stores its float32."""
    either = frozenset[str]().union(*(result.compressed for found in sides for result in results(found)))
    return lambda result: result.bits(either)


def cells(method: Method, own: Found, peer: Found) -> list[str]:
    both, bits = [own, peer], bits_of(own, peer)
    stored = " / ".join(dict.fromkeys(f"{mean(found, bits):.2f}" for found in both if results(found)))
    columns = [
        *(pair(both, lambda one: one.scores[0], 4), ahead(own, peer)),
        *(pair(both, lambda one: one.snrs[0], 1), pair(both, lambda one: one.scores[1], 4)),
        *(pair(both, lambda one: one.snrs[1], 1), pair(both, lambda one: one.seconds, 1, bold=False)),
    ]
    name = method.name if method.bits == 32 else f"{method.bits} bits: {method.name}"
    return [name, stored, *(cell for column in columns for cell in column)]


def pair(both: list[Found], of: Callable[[Result], float], digits: int, bold: bool = True) -> list[str]:
    """Both libraries' numbers; ours in bold where it is ahead."""
    words = [f"{mean(found, of):.{digits}f}" if results(found) else str(found[0] or "—") for found in both]
    if digits == 1:
        words = [word if results(found) else "—" for word, found in zip(words, both, strict=True)]
    if bold and all(map(results, both)):
        difference, error = paired(both[0], both[1], of)
        words[0] = f"**{words[0]}**" if difference > max(error, 0.05 if digits == 1 else 0) else words[0]
    return words


def paired(own: Found, peer: Found, of: Callable[[Result], float]) -> tuple[float, float]:
    """By how much ours is ahead, and the standard error of that over the seeds."""
    differences = [of(a) - of(b) for a, b in zip(results(own), results(peer), strict=True)]
    count = len(differences)
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def ahead(own: Found, peer: Found) -> list[str]:
    if not (results(own) and results(peer)):
        return [""]
    difference, error = paired(own, peer, lambda one: one.scores[0])
    return [f"{difference:+.4f}" + (f" ± {error:.4f}" if len(own) > 1 else "")]


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The peer, and the conversion, print bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
