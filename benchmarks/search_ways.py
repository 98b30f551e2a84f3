"""Ways to make a model fit a number of bytes, each run by `search.py` in a process of its own.

A way is a function of a task and its rows that yields, for each row, the compressed model.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import corepress
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated, palettize_weights
from search_tasks import Task, answers, score

RANKED = 32  # samples that rivals rank with, as the harm of many choices is measured on them
SWAPS = 48  # forms whose harm is measured beside the predicted one
PEER, UNIFORM, OURS, RANKS = "coremltools, uniform", "corepress, uniform", "corepress search", "ranks"


@dataclass(frozen=True)
class Row:
    """A budget: the bytes of the model with so many bits everywhere, and a table for each `group` of channels (0: one
    for the whole weight). `fitted`: whether forms are fitted to the samples."""

    bits: int
    group: int = 0
    fitted: bool = False

    def config(self) -> dict[str, Any]:
        """The arguments of `OpPalettizerConfig`, ours or the peer's."""
        grouped = {"granularity": "per_grouped_channel", "group_size": self.group} if self.group else {}
        return {"nbits": self.bits, **grouped}


class Made(NamedTuple):
    """A model for a row: None where the way can't reach the size. `note`: what was chosen, in a few words."""

    row: Row
    model: Any
    note: str = ""


Way = Callable[[Task, Sequence[Row], Path], Iterator[Made]]


def uniform(task: Task, rows: Sequence[Row], folder: Path) -> Iterator[Made]:
    """The same form for all weights, by corepress."""
    for row in rows:
        config = OptimizationConfig(OpPalettizerConfig(**row.config()))
        if row.fitted:
            yield Made(row, calibrated.palettize_weights(task.package, config, task.learnt))
        else:
            yield Made(row, palettize_weights(task.package, config))


def peer(task: Task, rows: Sequence[Row], folder: Path) -> Iterator[Made]:
    """coremltools: the best of its modes that fit, with the same form for all weights. As some take minutes, what it
    made is kept in the folder."""
    exact = answers(task.package, task.learnt[:RANKED])
    most = max(budget(task, row, folder) for row in rows)
    modes = {name: by_peer(task, name, folder) for name in _MODES if _worth_it(task, name, most)}
    known = {
        name: (corepress.load(path).size(), score(exact, answers(path, task.learnt[:RANKED])).snr)
        for name, path in modes.items()
    }
    for row in rows:
        room = budget(task, row, folder)
        name = max((name for name, (size, _) in known.items() if size <= room), key=lambda name: known[name][1])
        yield Made(row, modes[name], name)


_PALETTES = [(bits, group) for bits in (8, 6, 4, 3, 2, 1) for group in ((0, 32, 16) if bits in (4, 3, 2) else (0,))]
_MODES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"k-means, {row.bits} bits" + (f", groups of {row.group}" if row.group else ""): ("palettize", row.config())
        for row in (Row(bits, group) for bits, group in _PALETTES)
    },
    "int8": ("quantize", {"dtype": "int8"}),
    "int4, blocks of 32": ("quantize", {"dtype": "int4", "granularity": "per_block", "block_size": 32}),
}


def mode_of(row: Row) -> str:
    """The mode of coremltools that makes the same form for all weights."""
    return next(name for name, (_, arguments) in _MODES.items() if arguments == row.config())


def _worth_it(task: Task, name: str, room: int) -> bool:
    """Whether a mode can fit, and ends: with tables for groups it takes minutes for ten million weights."""
    arguments = _MODES[name][1]
    model = corepress.load(task.package)
    elements = sum(weight.size for weight in model.weights())
    bits = arguments.get("nbits") or int(str(arguments["dtype"])[3:])
    return bits * elements / 8 <= room and not ("group_size" in arguments and elements > 10_000_000)


def by_peer(task: Task, name: str, folder: Path) -> Path:
    """The package that coremltools makes of a task's in one of its modes."""
    path = folder / f"{task.package.stem}, {name}.mlpackage"
    if not path.exists():
        import coremltools as ct
        import coremltools.optimize.coreml as cto

        verb, arguments = _MODES[name]
        if verb == "palettize":
            config, function = cto.OpPalettizerConfig(**arguments), cto.palettize_weights
        else:
            config, function = cto.OpLinearQuantizerConfig(**arguments), cto.linear_quantize_weights
        model = ct.models.MLModel(str(task.package), skip_model_load=True)
        partial_path = path.with_name("partial.mlpackage")
        shutil.rmtree(partial_path, ignore_errors=True)
        function(model, cto.OptimizationConfig(config)).save(str(partial_path))
        partial_path.rename(path)
    return path


def budget(task: Task, row: Row, folder: Path) -> int:
    """Bytes of the package with one form for all weights, made by coremltools or by us, whichever are more."""
    ours: int = palettize_weights(task.package, OptimizationConfig(OpPalettizerConfig(**row.config()))).size()
    path = folder / f"{task.package.stem}, {mode_of(row)}.mlpackage"
    return max(ours, corepress.load(path).size()) if path.exists() else ours


def rival(name: str, task: Task, rows: Sequence[Row], folder: Path) -> Iterator[Made]:
    """One of the rankings of `search_rivals.py`, with one table for a weight or, if that serves better, groups of 16;
    fitted after choosing where the row is."""
    import search_rivals as rivals
    from corepress.searching.packages import PackageSubject

    given = {"forms": ("palettized",), "min_group": 8}
    model = corepress.load(task.package)
    plain = PackageSubject(model, **given)
    fitted = PackageSubject(model, learnt=task.learnt, **given) if any(row.fitted for row in rows) else plain
    grounds = [rivals.Ground(plain, task.learnt[:RANKED], group) for group in (0, 16)]
    choosers = [(ground, choose) for ground in grounds for choose in rivals.RIVALS[name](ground)]
    fixed = plain.size(model) - grounds[0].bytes_of_dense()
    for row in rows:
        room, best = budget(task, row, folder), None
        for ground, choose in choosers:
            best = min(best or (float("inf"), None), _exact(ground, choose, room, fixed), key=lambda pair: pair[0])
        choice = None if best is None else best[1]
        made = None if choice is None else (fitted if row.fitted else plain).make(choice)
        yield Made(row, made)


def _exact(ground: Any, choose: Callable[[float], Any], room: int, fixed: int) -> tuple[float, Any]:
    """The choice whose package is not above the budget, with its harm. What describes a form takes room as well, which
    only the package shows."""
    within = room - fixed
    for _ in range(8):
        choice = choose(within)
        if choice is None:
            break
        excess = ground.subject.size(ground.subject.make(choice)) - room
        if excess <= 0:
            return ground.noise_of(choice), choice
        within -= excess
    return float("inf"), None


def searched(task: Task, rows: Sequence[Row], folder: Path) -> Iterator[Made]:
    """`corepress.search`, with all its forms."""
    for row in rows:
        method = "fitted" if row.fitted else "plain"
        found = corepress.search(task.package, task.learnt, max_size=budget(task, row, folder), method=method)
        yield Made(row, found.model)


WAYS: dict[str, Way] = {
    PEER: peer,
    UNIFORM: uniform,
    "mlx-lm, rules": partial(rival, "rules of mlx-lm"),
    "mlx-lm, gradients": partial(rival, "gradients of mlx-lm"),
    "NNCF": partial(rival, "criteria of NNCF"),
    "AIMET": partial(rival, "walk of AIMET"),
    OURS: searched,
}


def ranks(task: Task) -> dict[str, Any]:
    """The rank correlation (Spearman) of the harm that the search predicts, from the samples to learn from, with the
    harm measured on the others, of random forms of random weights, each alone."""
    from scipy.stats import spearmanr

    from corepress.searching.candidates import FORMS
    from corepress.searching.damage import predicted
    from corepress.searching.packages import PackageSubject
    from search_rivals import Ground

    subject = PackageSubject(corepress.load(task.package), forms=FORMS)
    damages = predicted(subject, task.learnt).damages
    grounds = [Ground(subject, samples[:RANKED]) for samples in (task.same, task.other)]
    swaps = [(item, form) for item, row in enumerate(damages) for form, harm in enumerate(row) if 0 < harm < np.inf]
    chosen = [swaps[index] for index in np.random.default_rng(0).permutation(len(swaps))[:SWAPS]]
    measured: list[tuple[float, ...]] = []
    for item, form in chosen:
        grounds[0].change(item, form)
        measured.append(tuple(ground.noise() for ground in grounds))
        grounds[0].change(item, 0)
    expected = [damages[item][form] for item, form in chosen]
    same, other = (float(spearmanr(expected, harms).statistic) for harms in zip(*measured, strict=True))
    return {"swaps": len(chosen), "correlation": same, "other": other}


def measure(task: Task, way: str, rows: Sequence[Row], folder: Path) -> Iterator[dict[str, Any]]:
    """For each row what came of it: size, scores on both kinds of samples, seconds of wall and of CPU, peak memory.

    What is shared by rows counts in the first. Memory: bytes above what was in use before, with everything imported.
    """
    exact = [answers(task.package, samples) for samples in (task.same, task.other)]
    before, wall, cpu = peak(), time.perf_counter(), _cpu()
    for row, model, note in WAYS[way](task, rows, folder):
        seconds = {"seconds": time.perf_counter() - wall, "cpu": _cpu() - cpu, "memory": peak() - before}
        found: dict[str, Any] = {"row": asdict(row), "note": note, **seconds, "size": None}
        if model is not None:
            loaded = corepress.load(model) if isinstance(model, Path) else model
            found["size"] = loaded.size()
            for kind, samples, own in zip(("same", "other"), (task.same, task.other), exact, strict=True):
                found[kind] = asdict(score(own, answers(loaded, samples)))
        yield found
        wall, cpu = time.perf_counter(), _cpu()


def peak() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _cpu() -> float:
    """Seconds of this process and of those it waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """`python search_ways.py FOLDER TASK LEARNT TESTS WAY ROWS`: a line of JSON for each row."""
    import logging
    import warnings

    from search_tasks import TASKS

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder, title, learnt, tests, way, rows = sys.argv[1:]
    task = TASKS[title](Path(folder), int(learnt), int(tests))
    given = [Row(**row) for row in json.loads(rows)]
    for found in [ranks(task)] if way == RANKS else measure(task, way, given, Path(folder)):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
