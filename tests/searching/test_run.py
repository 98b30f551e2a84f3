"""One search, run in several ways: in processes, on a cluster, stopped, killed and gone on with. It finds the same."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import corepress as cto
from corepress import recipe as recipes
from corepress.cli.searching import function_in
from corepress.engine import Stopped
from corepress.errors import ConfigError, FormatError, OutputError
from corepress.searching import run as running
from corepress.searching.kept import Kept
from tests.cli.test_cli import corepress
from tests.searching.test_networks import net
from tests.searching.test_networks import samples as inputs

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"


def images(count: int = 30) -> list[dict[str, np.ndarray]]:
    found = np.load(ROOT / "examples/digits_test.npz")["images"][:count]
    return [{"image": image[None].astype("f2")} for image in found]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def batches(count: int = 20) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, 64) for _ in range(count)]


def first_half(answer: torch.Tensor) -> torch.Tensor:
    return answer[:, :5]


def first_output(outputs, sample) -> float:
    return -float(np.abs(next(iter(outputs.values()))).mean())


def test_a_search_of_modules_keeps_its_budget_and_gives_configurations() -> None:
    from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    model = module()
    found = cto.torch.search(model, batches(), bits=3, forms=["palettized"], points=4)
    elements = sum(layer.weight.numel() for layer in (model[0], model[2]))
    assert found.chosen.bits <= 3 and 8 * sum(w.bytes for w in found.chosen.weights) <= 3 * elements
    config = PostTrainingPalettizerConfig.from_dict(found.recipe["palettize"])
    palettizer = PostTrainingPalettizer(model, config)
    again = palettizer.compress()
    assert all(torch.equal(value, found.model.state_dict()[key]) for key, value in again.state_dict().items())
    rows = palettizer.report()
    stored = {weight.name: weight.bytes for weight in found.chosen.weights}
    assert {name: row["stored_bytes"] for name, row in rows.items()} == {name: stored[name] for name in rows}


def test_a_module_that_works_in_place_changes_no_batch_of_the_caller() -> None:
    class InPlace(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x.sub_(0.5).div_(0.25))

    torch.manual_seed(0)
    model, given = InPlace(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), batches()
    found = cto.torch.search(model, given, bits=6, points=1)
    assert found.tested["snr"] > 15
    assert all(torch.equal(one, other) for one, other in zip(given, batches(), strict=True))
    with pytest.raises(ConfigError, match="batch 1: the input '0' holds values that are not a number"):
        cto.torch.search(model, [given[0], given[1] * math.nan], bits=6)


def test_a_search_of_modules_beats_one_form_for_all() -> None:
    from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))
    model[0].weight.data *= torch.logspace(-2, 1, 256)[:, None]
    held = batches(60)
    uniform = PostTrainingPalettizer(model, PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 3}}))
    small = uniform.compress()
    bits = 8 * sum(row["stored_bytes"] for row in uniform.report().values())
    elements = sum(row["#params"] for row in uniform.report().values())
    found = cto.torch.search(model, held, bits=bits / elements, forms=["palettized"], points=1)
    torch.manual_seed(9)
    x = torch.randn(512, 64)
    with torch.no_grad():
        ours, theirs = ((model(x) - other(x)).square().sum() for other in (found.model, small))
    assert ours < theirs


def test_a_quality_that_modules_must_keep() -> None:
    found = cto.torch.search(module(), batches(), min_snr=25, points=1)
    assert found.met and found.chosen.quality["snr"] >= 25
    assert found.chosen.size < sum(value.numel() * value.element_size() for value in module().state_dict().values())


def test_a_search_of_networks_writes_a_recipe_that_makes_the_same_bytes(tmp_path: Path) -> None:
    model = net()
    found = cto.search(model, inputs(20), max_size=8000, points=3)
    assert found.chosen.size == found.model.size() <= 8000
    path, recipe, again = tmp_path / "net.mlmodel", tmp_path / "recipe.yaml", tmp_path / "again.mlmodel"
    model.copy().save(path)
    found.save_recipe(recipe)
    made = recipes.run(path, recipes.load(recipe, networks=True), spare_constants=True).save(again)
    assert made.spec == found.model.spec
    with pytest.raises(ConfigError, match='"target" is for ML programs, and the model is a neural network'):
        cto.search(model, inputs(5), bits=4, target="iOS18")
    with pytest.raises(ConfigError, match='"min_group" is for ML programs'):
        cto.search(model, inputs(5), bits=4, min_group=4)


@pytest.mark.parametrize("kind", ["package", "network", "module"])
@pytest.mark.slow
def test_processes_find_the_same(kind) -> None:
    def search(jobs: int):
        if kind == "module":
            return cto.torch.search(module(), batches(), bits=4, metric=first_output, jobs=jobs)
        if kind == "network":
            return cto.search(net(), inputs(20), bits=4, jobs=jobs)
        return cto.search(DIGITS, images(), bits=4, metric=first_output, jobs=jobs)

    assert search(1).to_json() == search(2).to_json()


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_finds_the_same(monkeypatch) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    expected = cto.search(DIGITS, images(), bits=4, metric=first_output).to_json()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        lost = []

        def progress(done: int, total: int, stage: str) -> None:
            if stage == "measuring models" and not lost:
                lost.append(cluster.remove_node(other, allow_graceful=False))

        found = cto.search(
            DIGITS, images(), bits=4, metric=first_output, ray=cluster.address, progress=progress
        ).to_json()
        assert lost and found == expected
    finally:
        cluster.shutdown()


KILLED = """
import os, signal, sys
import corepress as cto
from corepress.searching.kept import Kept
from tests.searching.test_run import DIGITS, images
put, count = Kept.put, 0

def put_and_die(self, *what, value):
    global count
    put(self, *what, value=value)
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Kept.put = put_and_die
cto.search(DIGITS, images(), max_size="90kB", resume=sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_search_goes_on_and_makes_the_same_bytes(tmp_path: Path, after, monkeypatch) -> None:
    folder = tmp_path / "kept"
    done = subprocess.run([sys.executable, "-c", KILLED, folder, str(after)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    lines = (folder / "search.jsonl").read_text().splitlines()
    assert len(lines) == after + 1 and all(json.loads(line) for line in lines)
    with (folder / "search.jsonl").open("a") as file:
        file.write('{"what": ["measured", [0, 0')  # what another one had begun to write
    measured = []
    monkeypatch.setattr(running, "predictor", _counting(running.predictor, measured))
    resumed = cto.search(DIGITS, images(), max_size="90kB", resume=folder)
    before = len(measured)
    again = cto.search(DIGITS, images(), max_size="90kB", resume=folder)
    assert len(measured) == before  # all was kept
    whole = cto.search(DIGITS, images(), max_size="90kB")
    assert len(measured) - before == before + 1  # one prediction was not made again
    assert resumed.to_json() == again.to_json() == whole.to_json()
    made = [found.model.save(tmp_path / f"{n}.mlpackage").path for n, found in enumerate((resumed, whole))]
    for file in (path for path in made[0].rglob("*") if path.is_file()):
        assert file.read_bytes() == (made[1] / file.relative_to(made[0])).read_bytes()


def test_a_stopped_search_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    def stop(done: int, total: int, stage: str) -> None:
        if stage == "measuring models" and len(list(tmp_path.glob("*"))):
            raise KeyboardInterrupt

    whole = cto.torch.search(module(), batches(), bits=4, points=3)
    with pytest.raises(Stopped):
        cto.torch.search(module(), batches(), bits=4, points=3, resume=tmp_path, progress=stop)
    before = (tmp_path / "search.jsonl").read_text()
    resumed = cto.torch.search(module(), batches(), bits=4, points=3, resume=tmp_path)
    assert resumed.to_json() == whole.to_json()
    assert (tmp_path / "search.jsonl").read_text().startswith(before)


def _counting(original, calls):
    def made(*arguments):
        predict = original(*arguments)

        def counted(at, among):
            calls.append(at)
            return predict(at, among)

        return counted

    return made


def test_a_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    cto.torch.search(module(), batches(), bits=4, points=1, resume=tmp_path)
    with pytest.raises(ConfigError, match="is of a search with other data: give the same or another folder"):
        cto.torch.search(module(), batches(19), bits=4, points=1, resume=tmp_path)
    with pytest.raises(ConfigError, match="with other settings"):
        cto.torch.search(module(), batches(), bits=3, points=1, resume=tmp_path)
    other = module()
    other[0].weight.data[0, 0] += 1
    with pytest.raises(ConfigError, match="with other model"):
        cto.torch.search(other, batches(), bits=4, points=1, resume=tmp_path)
    with pytest.raises(ConfigError, match="other metric"):
        cto.torch.search(module(), batches(), bits=4, points=1, resume=tmp_path, metric=first_output)
    with pytest.raises(ConfigError, match="with other model"):
        cto.torch.search(module(), batches(), bits=4, points=1, resume=tmp_path, outputs=first_half)


def test_a_metric_is_known_by_its_whole_file(tmp_path: Path) -> None:
    metric = tmp_path / "metric.py"
    metric.write_text("FACTOR = 1\n\ndef norm(outputs, sample):\n    return FACTOR\n")
    before = running.source_of(function_in(f"{metric}:norm"))
    assert running.source_of(function_in(f"{metric}:norm")) == before
    metric.write_text("FACTOR = 2\n\ndef norm(outputs, sample):\n    return FACTOR\n")
    assert running.source_of(function_in(f"{metric}:norm")) != before
    assert running.source_of(first_output) != running.source_of(first_half)


def test_what_is_kept_is_plain_and_exact(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, float("inf"), -0.0, 5e-324, 1.7976931348623157e308]
    kept = Kept(tmp_path / "a/b", {"model": "x"})
    kept.put("prices", None, value={"damages": [numbers]})
    kept.put("measured", (1, 2), value={"size": 3, "quality": {}})
    again = Kept(tmp_path / "a/b", {"model": "x"})
    assert [float(number) for number in again.get("prices", None)["damages"][0]] == numbers
    assert again.get("measured", (1, 2)) == {"size": 3, "quality": {}} and again.get("measured", (2, 1)) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be used"):
        Kept(tmp_path / "file", {"model": "x"})
    (tmp_path / "search.jsonl").write_text("what is this\n")
    with pytest.raises(FormatError, match="is no file of a search"):
        Kept(tmp_path, {"model": "x"})


def test_a_search_that_is_stopped_keeps_the_best_so_far() -> None:
    def stop(done: int, total: int, stage: str) -> None:
        if stage == "measuring models":
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        cto.torch.search(module(), batches(), bits=4, progress=stop)
    result = stopped.value.result
    assert result.chosen.bits <= 4 and result.met and "was stopped" in result.notes[0]
    assert len(result.model[0].weight.unique()) < 64 * 64

    def at_once(done: int, total: int, stage: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as nothing:
        cto.torch.search(module(), batches(), bits=4, progress=at_once)
    assert not isinstance(nothing.value, Stopped)


def test_a_search_that_is_stopped_while_its_choice_is_tested_keeps_it(monkeypatch) -> None:
    stages: list[str] = []
    tested = running._tested

    def stop(*given: Any) -> Any:
        if "Ctrl-C again" not in stages[-1]:
            raise KeyboardInterrupt
        return tested(*given)

    monkeypatch.setattr(running, "_tested", stop)
    with pytest.raises(Stopped) as stopped:
        cto.torch.search(module(), batches(), bits=4, points=1, progress=lambda _, __, stage: stages.append(stage))
    assert stopped.value.result.chosen.bits <= 4 and stopped.value.result.samples["tested"] == 0
    assert "Ctrl-C again" in stages[-1]


STOPPED = """
import os, signal, sys
from corepress.searching import loop
number, found = int(sys.argv.pop(1)), loop.Search._measure

def measure(self, choices):
    found(self, choices)
    os.kill(os.getpid(), number)

loop.Search._measure = measure
from corepress.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_stopped_command_writes_the_best_and_says_so(tmp_path: Path, number, code) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "small.mlpackage"
    np.savez(data, image=np.concatenate([sample["image"] for sample in images()]))
    command = ["search", DIGITS, "-o", out, "--bits", 4, "--data", data, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number)), *map(str, command)],
        capture_output=True, text=True, check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "small.mlpackage is the best that the search had found" in done.stderr
    assert any(weight.compression for weight in cto.load(out).weights())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_takes_networks_and_its_recipe_makes_the_same(tmp_path: Path) -> None:
    model, data, metric = tmp_path / "net.mlmodel", tmp_path / "data.npz", tmp_path / "metric.py"
    small, again, recipe = tmp_path / "small.mlmodel", tmp_path / "again.mlmodel", tmp_path / "recipe.yaml"
    net().save(model)
    np.savez(data, x0=np.stack([sample["x0"] for sample in inputs(20)]))
    metric.write_text("def norm(outputs, sample):\n    return -abs(outputs['y0']).mean()\n")
    done = corepress(
        "search", model, "-o", small, "--max-size", "8kB", "--data", data, "--metric", f"{metric}:norm", "--jobs", 2,
        "--recipe", recipe, "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["met"] and small.stat().st_size <= 8000
    corepress("compress", model, "-o", again, "--recipe", recipe)
    assert again.read_bytes() == small.read_bytes()


def test_a_metric_of_a_file_is_found_in_other_processes(tmp_path: Path) -> None:
    import pickle

    from corepress.cli.searching import function_in
    from corepress.searching.quality import _takes_model

    file = tmp_path / "metric.py"
    file.write_text("LEAST = 2\ndef accuracy(outputs, sample):\n    return LEAST\ndef whole(model):\n    return 1\n")
    metric = pickle.loads(pickle.dumps(function_in(f"{file}:accuracy")))
    file.unlink()
    assert metric({}, {}) == 2 and metric.__name__ == "accuracy" and not _takes_model(metric)
    file.write_text("def whole(model):\n    return 1\n")
    assert _takes_model(function_in(f"{file}:whole"))
    with pytest.raises(ConfigError, match="has no function 'none'"):
        function_in(f"{file}:none")
