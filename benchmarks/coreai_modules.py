"""How good compressed modules of PyTorch are, by corepress and by coreai-opt: a section of `docs/quality.md`.

    python benchmarks/coreai_modules.py --peer-python PYTHON                 # all, about half an hour on two cores
    python benchmarks/coreai_modules.py --peer-python PYTHON --tasks digits  # this part anew
    python benchmarks/coreai_modules.py --peer-python PYTHON --quick         # prints a part

PYTHON: that of an environment with coreai-opt 0.4, scikit-learn, and what `benchmarks/quality.py` needs, of which the
models and their data are. Each library compresses the same modules, and one process measures what came of both.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corepress.torch.parameters import parameters
from quality import CACHE, SEEDS, Found, ahead, attempt, bits_of, mean, pair, results
from quality_methods import BLOCKS, GROUPS, MATCH, OURS, OnModule, Result, quality
from quality_tasks import ROOT, Task, digits, encoder, mnist_network
from search_page import put

OUTPUT = ROOT / "docs" / "quality.md"
MARKS = "<!-- benchmarks/coreai_modules.py writes from here -->", "<!-- to here, of coreai-opt -->"
INTRODUCTION = """\
Made by `python benchmarks/coreai_modules.py`: corepress beside coreai-opt 0.4.0 on modules of PyTorch. Data and columns
are as above (of MiniLM 64 sentences to learn from), and one process measures what came of both. k-means is exact in
both, in coreai-opt for values rounded to float16. What coreai-opt leaves alone is left alone by both: embeddings where
weights are palettized, and weights that blocks don't divide; GPTQ and LUT-GPTQ, which it does not have, take what they
can. `factored_sensitivity` is an addition, beside the peer's run without it. "Symmetric" is what coreai-opt calls so:
all integers spread over the range, here with scales that are searched (`from_preset`). "Clipped" is its
`symmetric_with_clipping`, coremltools' symmetric form, here without a search, so that both make the same.
"""


# Bits; coreai-opt takes minutes for each row of a larger network.
INDICES = {"digits": (8, 6, 4, 3, 2, 1), "MNIST": (4, 2), "MiniLM": (4,)}


@dataclass(frozen=True)
class Way:
    """The same in both libraries; `peer` is None for what coreai-opt does not have."""

    own: OnModule
    peer: dict[str, Any] | None


def ways(indices: tuple[int, ...], integers: tuple[int, ...] = (8, 4)) -> list[Way]:
    """All that both have, for tables with indices of so many bits, and for integers."""
    found = []
    for n in indices:
        for name, options, group in (("one table", {}, 0), ("groups of 16", GROUPS, 16)):
            config, theirs = {"n_bits": n} | options, {"kind": "palettized", "bits": n, "group": group}
            found.append(Way(_own(f"k-means, {name}", n, "PostTrainingPalettizer", config), theirs))
            for more, extra in (("", {}), (", factored_sensitivity", {"factored_sensitivity": True})):
                sensitive = _own(f"sensitive k-means, {name}{more}", n, "SKMPalettizer", config, "loss", extra)
                found.append(Way(sensitive, theirs | {"sensitive": True}))
        fitted = {"algorithm": "lut_gptq", "n_bits": n} | GROUPS
        found.append(Way(_own("LUT-GPTQ, groups of 16", n, "LayerwiseCompressor", fitted, "inputs", MATCH), None))
    return [*found, *(way for n in integers for way in _integers(n))]


def _integers(bits: int) -> list[Way]:
    found = []
    for name, options, block in (("each channel", {}, 0), ("blocks of 32", BLOCKS, 32)):
        config, theirs = {"weight_dtype": f"int{bits}"} | options, {"kind": "quantized", "bits": bits, "block": block}
        affine = {"weight_dtype": f"uint{bits}", "quantization_scheme": "affine"} | options
        search = {"scale_search": True}
        for kind, own, scheme in (
            ("symmetric", config | search, "symmetric"),
            ("clipped", config, "symmetric_with_clipping"),
            ("affine", affine | search, "asymmetric"),
        ):
            method = _own(f"int{bits} {kind}, {name}", bits, "PostTrainingQuantizer", own)
            found.append(Way(method, theirs | {"scheme": scheme}))
        gptq = {"algorithm": "gptq", "weight_dtype": f"uint{bits}"} | options | search
        found.append(Way(_own(f"GPTQ, {name}", bits, "LayerwiseCompressor", gptq, "inputs", MATCH), None))
    return found


def _own(
    name: str, bits: int, optimizer: str, config: dict[str, Any], data: str = "", extra: dict[str, Any] | None = None
) -> OnModule:
    return OnModule(name, bits, optimizer, config, data, extra or {})


def alike(method: OnModule, peer: Result | str | None, task: Task) -> OnModule:
    """The method without the weights that coreai-opt left alone."""
    if not isinstance(peer, Result):
        return method
    left = {place.module_name for place in parameters(task.model) if place.key not in peer.compressed}
    return replace(method, skipped=tuple(sorted(left)))


def by_peer(task: Task, chosen: list[Way], python: str) -> Found:
    """What coreai-opt makes of a task, for each way."""
    asked: list[dict[str, Any]] = []
    for way in chosen:
        if way.peer is not None and way.peer not in asked:
            asked.append(way.peer)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "task.pt"), Path(folder, "results.pt")
        loss = "projection" if task.title == "MiniLM" else "labels"
        torch.save({"model": task.model, "labelled": task.labelled, "loss": loss, "ways": asked}, given)
        script = Path(__file__).with_name("coreai_peer.py")
        paths = os.pathsep.join([str(script.parent), str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run([python, script, given, made], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"coreai-opt failed: {done.stderr[-2000:]}")
        found = [_measured(task, one) for one in torch.load(made, weights_only=False)]
    return [None if way.peer is None else found[asked.index(way.peer)] for way in chosen]


def _measured(task: Task, found: Any) -> Result | str:
    if isinstance(found, str):
        return found
    weights, sizes, seconds = found
    model = copy.deepcopy(task.model)
    places = {parameter.key: parameter for parameter in parameters(model)}
    with torch.no_grad():
        for name, value in weights.items():
            places[name].value.copy_(value)
    stored = {name: sizes.get(name, place.value.nbytes) for name, place in places.items()}
    counts = {name: place.value.numel() for name, place in places.items()}
    outputs = [test.outputs(model) for test in task.tests]
    return Result(*quality(task, outputs), stored, counts, frozenset(weights), seconds)


def section(tasks: list[Task], chosen: list[Way], python: str) -> str:
    """A table of one network."""
    theirs = [by_peer(task, chosen, python) for task in tasks]
    heads = ["bits", "corepress", "coreai-opt", "ahead", "dB", "coreai-opt's", "other", "coreai-opt's", "dB",
             "coreai-opt's", "seconds", "coreai-opt's"]  # fmt: skip
    kinds = [np.mean([task.tests[kind].score(task.tests[kind].original) for task in tasks]) for kind in (0, 1)]
    lines = [
        f"### {tasks[0].title}, beside coreai-opt\n",
        f"Seeds: {len(tasks)}. Without compression: {kinds[0]:.4f}, other {kinds[1]:.4f}.\n",
    ]
    lines += [f"| method | {' | '.join(heads)} |", "| --- " + "| ---: " * len(heads) + "|"]
    for place, way in enumerate(chosen):
        peer: Found = [found[place] for found in theirs]
        own: Found = [attempt(alike(way.own, one, task), OURS, task) for one, task in zip(peer, tasks, strict=True)]
        lines.append(f"| {' | '.join(_cells(way.own, own, peer))} |")
    return "\n".join([*lines, ""])


def _cells(method: OnModule, own: Found, peer: Found) -> list[str]:
    bits = bits_of(own, peer)
    stored = " / ".join(dict.fromkeys(f"{mean(found, bits):.2f}" for found in (own, peer) if results(found)))
    both = [own, peer]
    columns = [
        *(pair(both, lambda one: one.scores[0], 4), ahead(own, peer)),
        *(pair(both, lambda one: one.snrs[0], 1), pair(both, lambda one: one.scores[1], 4)),
        *(pair(both, lambda one: one.snrs[1], 1), pair(both, lambda one: one.seconds, 1, bold=False)),
    ]
    return [f"{method.bits} bits: {method.name}", stored, *(cell for column in columns for cell in column)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="of an environment with coreai-opt")
    parser.add_argument("--quick", action="store_true", help="fewer rows and samples; prints, and writes nothing")
    parser.add_argument("--tasks", default="digits,MNIST,MiniLM", help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of digits and MNIST")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    CACHE.mkdir(exist_ok=True)
    quick, seeds = options.quick, 2 if options.quick else options.seeds
    images, calibration, tests = (64, 32, 32) if quick else (256, 64, 128)
    makers: dict[str, Callable[[], list[Task]]] = {
        "digits": lambda: [digits(CACHE, images, seed) for seed in range(seeds)],
        "MNIST": lambda: [mnist_network(CACHE, images, epochs=1, seed=seed) for seed in range(seeds)],
        "MiniLM": lambda: [encoder(CACHE, calibration, tests)],
    }
    for title, make in makers.items():
        if title not in options.tasks.split(","):
            continue
        chosen = ways((4,), (4,)) if quick else ways(INDICES[title])
        if title != "digits":  # what only corepress has is in the tables of quality.py
            chosen = [way for way in chosen if way.peer is not None]
        found = section(make(), chosen, options.peer_python)
        if quick:
            print(found, flush=True)
            continue
        Path(CACHE, f"{title}-coreai.md").write_text(found)
        parts = [part.read_text() for name in makers if (part := Path(CACHE, f"{name}-coreai.md")).exists()]
        put(OUTPUT, MARKS, "\n".join([INTRODUCTION, *parts]))


if __name__ == "__main__":
    main()
