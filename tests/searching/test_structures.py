"""Packages of several programs: functions that share weights, and stages of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import corepress as cto
from corepress import recipe
from corepress.formats.mlprogram.constexpr import set_name
from corepress.searching.packages import PackageSubject
from tests import structures
from tests.cli.test_cli import corepress

QUICK = {"forms": ["palettized"], "points": 1, "workers": 1}


def inputs(name: str, count: int = 20, width: int = 64) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{name: rng.normal(size=(1, width)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("structures")


@pytest.fixture(scope="module")
def sharing(folder: Path) -> Path:
    return structures.multifunction(folder)


def two_functions(folder: Path, widths: tuple[int, int] = (64, 64)) -> Path:
    """Functions with a weight, and the width of an input, of their own each."""
    import coremltools as ct

    description = ct.utils.MultiFunctionDescriptor()
    for seed, name in enumerate(("first", "second")):
        path = folder / f"own_{name}.mlpackage"
        structures.linear_model(seed=seed, name=name, width=widths[seed]).save(str(path))
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "first"
    path = folder / "two.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    return path


def same_bytes(*saved: cto.Model) -> bool:
    one, other = (
        [path.read_bytes() for path in sorted(model.path.rglob("*")) if path.is_file()] for model in saved if model.path
    )
    return one == other


def input_of(path: Path) -> str:
    return cto.runtime.load(path).interface.inputs[0].name


def test_a_weight_that_functions_share_is_one_item_and_counts_once(sharing: Path, tmp_path: Path) -> None:
    found = cto.search(sharing, inputs(input_of(sharing)), bits=3, **QUICK)
    (weight,) = found.chosen.weights
    assert weight.bytes <= 64 * 64 * 3 / 8 and found.chosen.bits == 8 * weight.bytes / (64 * 64)
    saved = found.model.save(tmp_path / "small.mlpackage")
    assert saved.size() == found.chosen.size
    small = [weight for weight in saved.weights() if weight.compression]
    assert len(small) == 2 and len({weight.key for weight in small}) == 1


def test_a_function_that_no_sample_reaches_gets_a_form_by_its_error_and_that_is_said(folder: Path) -> None:
    path = two_functions(folder)
    found = cto.search(path, inputs(input_of(path)), bits=4, function="first", **QUICK)
    assert len(found.chosen.weights) == 2
    unreached = [note for note in found.notes if "no output depends on" in note]
    assert len(unreached) == 1 and "the damage is guessed from the error" in unreached[0]
    bits = {weight.name: weight.bits for weight in found.chosen.weights}
    assert all(1 <= value < 16 for value in bits.values())
    # Alike weights, of which the errors count alike: neither is given up for the other.
    assert max(bits.values()) <= 2 * min(bits.values())


def test_the_probabilities_of_a_classifier_are_what_counts(folder: Path) -> None:
    path = structures.classifier(folder)
    found = cto.search(path, inputs(input_of(path)), bits=4, **QUICK)
    assert len(found.chosen.weights) == 2 and not any("no output depends" in note for note in found.notes)
    assert all(weight.damage > 0 for weight in found.chosen.weights)


def test_the_stages_of_a_pipeline_are_searched_together(folder: Path, tmp_path: Path) -> None:
    path = structures.pipeline(folder)
    found = cto.search(path, inputs(input_of(path)), bits=4, **QUICK)
    assert len(found.chosen.weights) == 2 and not any("no output depends" in note for note in found.notes)
    saved = found.model.save(tmp_path / "small.mlpackage")
    assert saved.size() == found.chosen.size
    assert cto.verify(path, saved, inputs(input_of(path), 4)).worst.snr > 10


@pytest.mark.slow
@pytest.mark.parametrize("function", ["second", None])
def test_activations_of_the_function_or_the_stages_that_samples_run_through(tmp_path: Path, function) -> None:
    path = structures.pipeline(tmp_path) if function is None else two_functions(tmp_path)
    given = inputs(cto.runtime.load(path, function=function).interface.inputs[0].name, 40)
    found = cto.search(path, given, min_snr=25, function=function, activations=True, points=1, workers=1)
    assert found.met and found.activations is not None and found.activations.quantized == (2 if function is None else 1)
    said = [note for note in found.notes if "activations of" in note]
    assert said == (
        [] if function is None else ['the activations of "first" are not quantized: no sample runs through it']
    )
    learnt, _ = cto.hold_back(given)
    again = recipe.run(path, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert same_bytes(again.save(tmp_path / "a.mlpackage"), found.model.save(tmp_path / "b.mlpackage"))


@pytest.mark.slow
def test_weights_are_fitted_to_the_function_that_samples_run_through(tmp_path: Path) -> None:
    path = two_functions(tmp_path)
    given = inputs("x", 400)
    assert input_of(path) == "x", "samples fit either function"
    found = cto.search(path, given, bits=3, function="second", method="fitted", **QUICK)
    unfitted = {function for function, _ in found.model.unfitted}
    assert unfitted == {"first"}, "no sample runs through it"
    assert {step["function"] for step in found.recipe["steps"]} == {"second"}
    learnt, _ = cto.hold_back(given)
    again = recipe.run(path, recipe.parse(found.recipe), spare_constants=True, sample_data=learnt)
    assert same_bytes(again.save(tmp_path / "a.mlpackage"), found.model.save(tmp_path / "b.mlpackage"))


@pytest.mark.slow
def test_the_command_that_a_search_writes_reads_samples_for_the_function(tmp_path: Path) -> None:
    path = two_functions(tmp_path, (64, 96))
    np.savez(tmp_path / "x.npz", x=np.concatenate([sample["x"] for sample in inputs("x", 400, 96)]))
    out, steps, data = tmp_path / "a.mlpackage", tmp_path / "a.yaml", ["--data", tmp_path / "x.npz"]
    how = ["--function", "second", "--method", "fitted", "--bits", 3, "--points", 1, "--forms", "palettized"]
    corepress("search", path, "-o", out, "--recipe", steps, *data, *how)
    again = ["compress", path, "-o", tmp_path / "b.mlpackage", "--recipe", steps, *data]
    assert "# corepress " + " ".join(map(str, again)).replace("b.mlpackage", "a.mlpackage") in steps.read_text()
    judged = json.loads(corepress(*again, "--json").stdout)["verification"]
    assert judged["samples"] == 80
    assert same_bytes(cto.load(out), cto.load(tmp_path / "b.mlpackage"))


@pytest.mark.parametrize("form", ["palettized 1 bit", "sparse 50%, palettized 3 bits"])
def test_a_name_that_is_a_pattern_of_others_means_its_weight_alone(form: str, tmp_path: Path) -> None:
    renamed = cto.load("examples/digits.mlpackage")
    large = [weight for weight in renamed.weights() if weight.size > 2048]
    for weight, name in zip(large, ["*_w", "layer[0]_w", "layer0_w", "x_w"], strict=True):
        set_name(weight.node.op, name)
    subject = PackageSubject(renamed.save(tmp_path / "renamed.mlpackage"), forms=["palettized", "joint"])
    for chosen, item in enumerate(subject.items):
        index = [candidate.label for candidate in item.candidates].index(form)
        choice = tuple(index if other == chosen else 0 for other in range(len(subject.items)))
        small = [weight for weight in subject.make(choice).weights() if weight.compression]
        assert [weight.name for weight in small] == [item.name] and small[0].bits < 8
