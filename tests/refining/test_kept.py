"""A refinement that was stopped or killed goes on to the same bytes as one that ran through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.engine import Stopped
from corepress.errors import ConfigError, FormatError
from tests.formats.mlprogram.test_model import tree
from tests.test_readme import ROOT

DIGITS = ROOT / "examples/digits.mlpackage"
IMAGES = np.load(ROOT / "examples/digits_test.npz")["images"][:, None]
SAMPLES = [{"image": image} for image in IMAGES[:30]]
STEPS = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = cto.palettize_weights(DIGITS, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2)))
    return made.save(tmp_path_factory.mktemp("small") / "small.mlpackage").path


def refined(small, folder=None, **options):
    return corepress.refine(DIGITS, small, SAMPLES, **{"steps": STEPS, "batch": 8, "resume": folder, **options})


def content(found):
    return [weight.dense().tobytes() for weight in found.model.weights()]


@pytest.fixture(scope="module")
def whole(small):
    return refined(small)


def stopped_after(small, steps, folder):
    def stop(done, total, name):
        if done == steps:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        refined(small, folder, progress=stop)
    return stopped.value.result


@pytest.mark.parametrize(
    "stops", [(5,), *(pytest.param(stops, marks=pytest.mark.slow) for stops in ((1,), (11,), (2, 3, 9), (12,)))]
)
def test_it_goes_on_to_the_same_bytes(stops, small, whole, tmp_path):
    for steps in stops:
        assert stopped_after(small, steps, tmp_path).ended == "stopped"
    told = []
    found = refined(small, tmp_path, progress=lambda done, total, name: told.append(done))
    assert content(found) == content(whole)
    assert (found.loss, found.steps, found.best, found.ended) == (whole.loss, whole.steps, whole.best, whole.ended)
    # The step that it was stopped in is done again, and none of those that were looked at before.
    assert told == [*range(max(1, stops[-1]), STEPS + 1)]


def test_what_was_done_is_not_done_again(small, whole, tmp_path):
    refined(small, tmp_path)
    told = []
    found = refined(small, tmp_path, progress=lambda *state: told.append(state))
    assert content(found) == content(whole) and not told


def test_a_folder_of_something_else_is_refused(small, tmp_path):
    refined(small, tmp_path, steps=1)
    other = cto.palettize_weights(DIGITS, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=3)))
    for said, model, samples, options in [
        ("settings", small, SAMPLES, {"steps": 2}),
        ("settings", small, SAMPLES, {"steps": 1, "seed": 1}),
        ("data", small, SAMPLES[1:], {"steps": 1}),
        ("compressed model", other, SAMPLES, {"steps": 1}),
    ]:
        with pytest.raises(ConfigError, match=f"is of a refinement with other {said}: give the same or another folder"):
            corepress.refine(DIGITS, model, samples, batch=8, resume=tmp_path, **options)
    (tmp_path / "refinement.pt").write_bytes(b"nothing of ours")
    with pytest.raises(FormatError, match=r"refinement\.pt is no file of a refinement"):
        refined(small, tmp_path)


@pytest.mark.slow
def test_a_search_goes_on_with_its_refinement(tmp_path):
    given = {"bits": 2, "forms": ["palettized"], "points": 1, "workers": 1, "refine": STEPS}

    def stop(done, total, name):
        if total == STEPS and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        corepress.search(DIGITS, SAMPLES, **given, resume=tmp_path, progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"search.jsonl", "refinement.pt"}
    found = corepress.search(DIGITS, SAMPLES, **given, resume=tmp_path)
    assert content(found) == content(corepress.search(DIGITS, SAMPLES, **given))


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on_to_the_same_package(small, tmp_path):
    np.savez(tmp_path / "samples.npz", image=IMAGES[:60])
    command = [sys.executable, "-m", "corepress", "refine", DIGITS, small, "--data", tmp_path / "samples.npz"]
    command = [*map(str, command), "--steps", "60", "-o"]
    kept = tmp_path / "kept"
    resume = [*command, str(tmp_path / "again.mlpackage"), "--resume", str(kept)]
    running = subprocess.Popen(resume, stdout=subprocess.DEVNULL)
    while not (kept / "refinement.pt").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "again.mlpackage").exists()
    subprocess.run(resume, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, str(tmp_path / "whole.mlpackage")], check=True, stdout=subprocess.DEVNULL)
    assert tree(tmp_path / "again.mlpackage") == tree(tmp_path / "whole.mlpackage")
