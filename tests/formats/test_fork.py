"""A model with results that are not saved yet, in processes that are forked from the one that made it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import corepress.coreml as cto
from corepress.formats.dtypes import dtype_of
from corepress.formats.mlprogram import Model, load
from corepress.formats.spill import Spill
from tests.formats.mlprogram.test_model import tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system can't fork")
UINT8 = dtype_of(np.dtype(np.uint8))


def forked(*works: Callable[[], object]) -> None:
    """Each work in a child of its own, all at once; every child must end well."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0


def test_what_children_store_is_kept_apart(tmp_path) -> None:
    spill = Spill()
    rng = np.random.default_rng(0)
    own = rng.integers(0, 256, 3 << 20, np.uint8)
    first = spill.append(UINT8, own, 0)

    def child(number: int) -> None:
        for round_ in range(20):
            data = np.full(100_000 + number, number * 20 + round_, np.uint8)
            blob = spill[spill.append(UINT8, data, 0)]
            assert (spill.read(blob) == data).all()
            assert (spill.read(spill[first]) == own).all()

    forked(*(lambda number=number: child(number) for number in range(4)))
    second = spill.append(UINT8, own[::-1].copy(), 0)
    assert (spill.read(spill[first]) == own).all() and (spill.read(spill[second]) == own[::-1]).all()


def test_a_fork_while_a_thread_stores() -> None:
    """The child does not wait for a lock that only a thread of the parent could let go of."""
    spill = Spill()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with spill._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        forked(lambda: spill.append(UINT8, np.zeros(10, np.uint8), 0))
    finally:
        done.set()
        thread.join()


def test_forked_workers_save_what_one_process_would(package, tmp_path) -> None:
    """Each compresses the parent's unsaved result further, in its own way, and saves it; the parent goes on, too."""
    start = cto.palettize_weights(
        package(), cto.OptimizationConfig(op_name_configs={"conv_weight": cto.OpPalettizerConfig(nbits=4)})
    )
    start = cto.prune_weights(
        start,
        cto.OptimizationConfig(op_type_configs={"gather": cto.OpMagnitudePrunerConfig(0.5, weight_threshold=0)}),
    )
    steps = {
        "int8": lambda model: cto.linear_quantize_weights(model, quantizer("int8"), workers=1),
        "int4": lambda model: cto.linear_quantize_weights(model, quantizer("int4"), workers=1),
        "uint8": lambda model: cto.linear_quantize_weights(model, quantizer("uint8"), workers=1),
        "pruned": lambda model: cto.prune_weights(
            model, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(0.5, weight_threshold=0)), workers=1
        ),
    }

    def quantizer(dtype: str) -> cto.OptimizationConfig:
        return cto.OptimizationConfig(cto.OpLinearQuantizerConfig(dtype=dtype, weight_threshold=0))

    def save(name: str, folder: Path) -> Model:
        return steps[name](start).save(folder / f"{name}.mlpackage")

    (tmp_path / "forked").mkdir()
    (tmp_path / "alone").mkdir()
    forked(*(lambda name=name: save(name, tmp_path / "forked") for name in steps))
    for name in steps:
        save(name, tmp_path / "alone")
        assert tree(tmp_path / "forked" / f"{name}.mlpackage") == tree(tmp_path / "alone" / f"{name}.mlpackage")
    start.save(tmp_path / "start.mlpackage")
    for before, after in zip(start.weights(), load(tmp_path / "start.mlpackage").weights(), strict=True):
        assert before.dense().tobytes() == after.dense().tobytes()
