"""Activations in a search: the goal holds for the whole, what does harm is left, and the recipe repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

import corepress as cto
from corepress import recipe
from corepress.engine import Stopped
from corepress.errors import ConfigError
from corepress.formats.mlprogram.program import nodes
from corepress.searching import activations, loop
from corepress.searching.candidates import candidates
from corepress.searching.goals import Goal
from corepress.searching.integers import bytes_of_pairs, in_floating_point, in_integers
from corepress.searching.run import parted
from corepress.targets import require, target
from tests.cli.test_cli import corepress, fails
from tests.coreml.activations.activation_nets import package_of, samples

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"points": 1, "workers": 1, "activations": True}
SAMPLES = samples(60)


def network(mb, x, w):
    """Products, and one addition of a number so large that 8 bits leave nothing of the others."""
    a = mb.relu(x=mb.conv(x=x, weight=w(64, 4, 3, 3), name="first"), name="relu")
    spike = mb.mul(x=a, y=np.float16(1000), name="spike")
    rest = mb.sub(x=mb.add(x=a, y=spike, name="planted"), y=spike, name="rest")
    b = mb.conv(x=rest, weight=w(64, 64, 1, 1), name="second")
    return mb.conv(x=mb.relu(x=b, name="relu_b"), weight=w(4, 64, 1, 1), name="third")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return package_of(tmp_path_factory.mktemp("network"), network, "iOS18")


@pytest.fixture(scope="module")
def found(package):
    return cto.search(package, SAMPLES, min_snr=20, **QUICK)


def content(model, folder: Path) -> list[bytes]:
    saved = model.save(folder / "saved.mlpackage", overwrite=True)
    return [path.read_bytes() for path in sorted(saved.path.rglob("*")) if path.is_file()]


def test_what_does_harm_is_left_and_the_rest_computes_with_integers(found, package) -> None:
    assert found.met and found.least == 20 and found.tested["snr"] >= 20
    own = found.activations
    assert own is not None and own.left == ("planted",) and own.weights == ()
    assert (own.operations, own.quantized) == (4, 3)
    assert "3 of 4 operations compute with 8-bit activations; planted would do too much harm" in own.summary
    given = {node.name: node.operand("x").node for node in nodes(found.model.spec) if node.type in ("conv", "add")}
    assert {name for name, node in given.items() if node is not None and node.type == "dequantize"} == {
        "first", "second", "third",
    }  # fmt: skip
    assert cto.verify(package, found.model, samples(40, seed=5)).worst.snr > 18


def test_the_weights_that_activations_multiply_by_are_integers(found) -> None:
    assert in_floating_point(found.model) == []
    assert {weight.name.split("_")[0] for weight in found.chosen.weights} == {"first", "second", "third"}
    assert all("int8" in weight.form for weight in found.chosen.weights)


def test_the_recipe_makes_the_same_bytes(found, package, tmp_path) -> None:
    learnt, _ = cto.hold_back(SAMPLES)
    found.save_recipe(tmp_path / "recipe.yaml")
    steps = recipe.load(tmp_path / "recipe.yaml")
    again = recipe.run(package, steps, spare_constants=True, sample_data=learnt)
    assert content(again, tmp_path) == content(found.model, tmp_path)
    assert steps.steps[-1].activations is not None and steps.steps[-1].activations.exceptions == ("planted",)


def test_plain_data_has_what_was_left(found) -> None:
    told = found.to_dict()["activations"]
    assert told["left"] == ["planted"] and told["observer"] in ("min_max", "output")
    assert told["alone"]["snr"] >= 20


@pytest.mark.slow
def test_the_same_search_gives_the_same(found, package, tmp_path) -> None:
    """Also where it goes on from a folder, in which the weights are kept and activations are measured again."""
    for _ in range(2):
        again = cto.search(package, SAMPLES, min_snr=20, resume=tmp_path / "kept", **QUICK)
        assert content(again.model, tmp_path) == content(found.model, tmp_path)
    with pytest.raises(ConfigError, match="is of a search with other"):
        cto.search(package, SAMPLES, min_snr=20, resume=tmp_path / "kept", points=1)


@pytest.mark.slow
def test_a_size_has_room_for_what_activations_take(package) -> None:
    whole = cto.search(package, SAMPLES, min_snr=15, **QUICK).chosen.size
    for budget in (whole, whole + 700):
        found = cto.search(package, SAMPLES, max_size=budget, activation_loss=6, **QUICK)
        assert found.activations is not None and found.model.size() == found.chosen.size <= budget
        lost = found.activations.alone["snr"] - found.chosen.quality["snr"]
        assert lost <= 6 and found.least is None and found.met


def test_the_caller_s_metric_holds_for_the_whole(package) -> None:
    def nearness(outputs, sample) -> float:
        return -float(np.abs(next(iter(outputs.values()))).mean())

    found = cto.search(package, SAMPLES, max_drop=0.05, metric=nearness, **QUICK)
    assert found.met and found.activations is not None and found.activations.quantized > 0
    program, split = cto.runtime.load(package, precision="float32"), parted(SAMPLES, None)
    least, at_last = (
        np.mean([nearness(program.predict(sample), sample) for sample in samples]) - 0.05
        for samples in (split.chosen_by, split.tested)
    )
    assert found.tested["nearness"] >= found.least == pytest.approx(at_last)
    assert found.chosen.quality["nearness"] >= least - 1e-9


def test_a_goal_that_can_t_be_had_leaves_activations_alone(package) -> None:
    found = cto.search(package, SAMPLES, min_snr=300, **QUICK)
    assert not found.met and found.activations is None and found.least == 300
    assert any("no activation was quantized" in note for note in found.notes)
    assert not [node for node in nodes(found.model.spec) if node.type == "quantize"]
    assert found.model.size() == found.chosen.size


def test_before_ios18_weights_are_int8_and_that_is_said(tmp_path) -> None:
    found = cto.search(package_of(tmp_path, network, "iOS17"), SAMPLES, min_snr=10, **QUICK)
    assert {weight.form for weight in found.chosen.weights} <= {"quantized int8", "dense"}
    assert any('target="iOS18" has tables of integers' in note for note in found.notes) and found.activations.quantized


@pytest.mark.parametrize("when", [pytest.param("activations", marks=pytest.mark.slow), "weights"])
def test_ctrl_c_keeps_the_weights(package, monkeypatch, when) -> None:
    def stop(*given, **words):
        raise KeyboardInterrupt

    place = (activations, "_quantized") if when == "activations" else (loop.Search, "_measure_front")
    monkeypatch.setattr(*place, stop)
    with pytest.raises(Stopped) as stopped:
        cto.search(package, SAMPLES, min_snr=20, **QUICK)
    found = stopped.value.result
    assert found.met and found.least == 20 and found.activations is None
    assert any("the search was stopped" in note for note in found.notes)
    assert found.model.size() == found.chosen.size


@pytest.mark.slow
def test_channels_are_equalized_where_that_helps_and_the_recipe_says_so(tmp_path) -> None:
    from torch import nn

    from tests.coreml.activations.converted_nets import Convolutions, package, samples
    from tests.coreml.activations.test_equalizing import scaled

    model, _ = scaled(package(Convolutions(nn.ReLU()), tmp_path, spread=0), 3)
    source = model.save(tmp_path / "scaled.mlpackage").path
    given = samples(40)
    found = cto.search(source, given, min_snr=15, **QUICK)
    assert found.recipe["steps"][-1]["equalize"] and found.activations.quantized > 0
    learnt, _ = cto.hold_back(given)
    again = recipe.run(source, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert content(again, tmp_path) == content(found.model, tmp_path)


@pytest.mark.slow
def test_fitted_weights_and_activations_repeat_from_the_recipe(package, tmp_path) -> None:
    found = cto.search(package, SAMPLES, min_snr=20, method="fitted", **QUICK)
    assert found.met and found.activations is not None and found.activations.left == ("planted",)
    assert any("method" in step for step in found.recipe["steps"]) and not found.activations.equalize
    learnt, _ = cto.hold_back(SAMPLES)
    again = recipe.run(package, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert content(again, tmp_path) == content(found.model, tmp_path)


@pytest.mark.slow
def test_the_command_and_the_one_at_the_head_of_its_recipe(package, tmp_path) -> None:
    np.savez(tmp_path / "samples.npz", x=np.concatenate([sample["x"] for sample in SAMPLES]))
    out, file = tmp_path / "small.mlpackage", tmp_path / "recipe.yaml"
    given = ["--min-snr", 20, "--activations", "--points", 1, "--data", tmp_path / "samples.npz", "--recipe", file]
    done = corepress("search", package, "-o", out, *given)
    assert "3 of 4 operations compute with 8-bit activations" in " ".join(done.stdout.split())
    first = [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()]
    again = shlex.split(file.read_text().splitlines()[1].removeprefix("# "))
    corepress(*again[1:], "--overwrite")
    assert [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()] == first
    assert "it needs --activations" in fails(
        "search", package, "-o", out, "--bits", 4, *given[-4:-2], "--activation-loss", 2
    )
    assert "it needs --method fitted" in fails("search", package, "-o", out, "--bits", 4, *given[-4:-2], "--augment", 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activations": True, "activation_loss": 0}, "activation_loss=0: it must be a positive number of dB"),
        ({"activations": True, "activation_loss": float("nan")}, "activation_loss=nan"),
        ({"activation_loss": 4}, "activation_loss=4 has no effect without activations=True"),
        ({"activations": True, "target": "iOS16"}, "quantized activations need iOS17 or newer"),
    ],
)
def test_bad_input_is_one_sentence(package, given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        cto.search(package, SAMPLES, min_snr=20, **given)


def test_networks_have_no_activations() -> None:
    from tests.searching.test_networks import net

    with pytest.raises(ConfigError, match='"activations" is for ML programs, and the model is a neural network'):
        cto.search(net(), [{}], bits=4, activations=True)


@pytest.mark.parametrize("system", ["iOS17", "iOS18"])
def test_candidates_are_integers_that_the_target_holds(system) -> None:
    import corepress.coreml as face

    own = target(system)
    forms = [form for one in candidates(own) if (form := in_integers(one, own)) is not None]
    labels = [form.label for form in forms]
    assert labels[0] == "dense" and "quantized int8" in labels
    assert ("palettized 4 bits, int8 entries" in labels) is (system == "iOS18")
    assert not [label for label in labels if "blocks" in label or "int4" in label]
    for form in forms:
        for verb, given in form.steps:
            kind = {"palettize": face.OpPalettizerConfig, "quantize": face.OpLinearQuantizerConfig}.get(verb)
            if kind is not None:
                require(kind(**given).features(), own)


@pytest.mark.slow
def test_what_activations_cost_is_measured_so_that_weights_get_the_rest(package, monkeypatch) -> None:
    """Of a low goal they take little, of a high one more than half, which they do not get."""
    goals = []
    monkeypatch.setattr(activations, "for_weights", lambda goal, loss: goals.append(loss) or goal)
    for least in (-10, 20):
        cto.search(package, SAMPLES, min_snr=least, **QUICK)
    low, high = goals
    assert low < high == activations.LOSS


def test_the_goal_of_the_weights_leaves_the_loss() -> None:
    assert activations.for_weights(Goal(least=20, metric="snr"), 3).least == 23
    half = 10 * np.log10(2)
    assert activations.for_weights(Goal(least=0.98, metric="cosine"), half).least == pytest.approx(0.99)
    assert activations.for_weights(Goal(drop=0.2, metric="mine"), half).drop == pytest.approx(0.1)
    assert activations.for_weights(Goal(size=100), 3) == Goal(size=100)


def test_the_bytes_of_pairs_are_the_most_that_any_choice_takes(package) -> None:
    from corepress.coreml.activations.quantize import quantized
    from tests.coreml.activations.activation_nets import everywhere

    model = cto.load(package)
    most = bytes_of_pairs(model, ["main"])
    for exceptions in ([], ["first"], ["planted", "second"]):
        made, _ = quantized(model, everywhere(mode="linear"), samples(3), exceptions=exceptions)
        assert 0 < made.size() - model.size() <= most
