"""The step `activations` of a recipe: it does what the function and the command do, and wrong keys are one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corepress import coreml, load, recipe
from corepress.cli.activations import Activations
from corepress.cli.again import recipe_of
from corepress.cli.check import Check
from corepress.cli.options import Limits, Running
from corepress.cli.steps import of_package
from corepress.coreml.activations.quantize import quantized
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig as Config
from corepress.errors import ConfigError
from corepress.formats.mlprogram.program import nodes
from corepress.recipe import parse
from tests.coreml.activations.activation_nets import everywhere, package_of, samples
from tests.coreml.activations.test_exceptions import spiked

WEIGHTS = coreml.OptimizationConfig(coreml.OpLinearQuantizerConfig(weight_threshold=0))


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return package_of(tmp_path_factory.mktemp("spiked"), spiked)


def content(model: Any, folder: Path) -> list[bytes]:
    saved = model.save(folder / "saved.mlpackage", overwrite=True)
    return [path.read_bytes() for path in sorted(saved.path.rglob("*")) if path.is_file()]


def test_what_a_step_says() -> None:
    step = {
        "activations": {"mode": "linear", "dtype": "uint8"},
        "ops": {"add": "skip"},
        "names": {"last*": {"mode": "linear_symmetric"}},
        "exceptions": ["a", "b"],
        "observer": "output",
        "bias_correction": True,
        "equalize": False,
        "held_back": 0.2,
        "function": "main",
    }
    (made,) = parse({"steps": [step]}).steps
    assert made.config == coreml.OptimizationConfig(
        Config(mode="linear", dtype="uint8"), {"add": None}, {"last*": Config(dtype="uint8")}
    )
    assert made.activations is not None and not made.joint and made.learns_by == "the step activations"
    assert made.activations.keywords() == {
        "exceptions": ("a", "b"), "observer": "output", "bias_correction": True, "equalize": False, "held_back": 0.2,
        "function": "main", "min_snr": None, "min_cosine": None,
    }  # fmt: skip


def test_what_is_left_out_follows_from_whether_exceptions_are_searched() -> None:
    plain, searching = parse(
        {"steps": [{"activations": {}}, {"activations": {}, "exceptions": "auto", "min_cosine": "0.99"}]}
    ).steps
    assert plain.activations is not None and searching.activations is not None
    found = [
        {key: step.activations.keywords()[key] for key in ("observer", "bias_correction", "equalize")}
        for step in (plain, searching)
    ]
    assert found == [
        {"observer": "min_max", "bias_correction": False, "equalize": False},
        {"observer": "auto", "bias_correction": None, "equalize": "auto"},
    ]
    assert searching.activations.min_cosine == 0.99


def test_a_step_on_activations_makes_none_on_weights_joint() -> None:
    steps = parse(
        {"steps": [{"quantize": {}}, {"activations": {}}, "decompress", {"activations": {}}, {"quantize": {}}]}
    ).steps
    assert [step.joint for step in steps] == [False] * 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"exceptions": "conv"}, '"exceptions" must be a list of names of operations, or "auto". Got \'conv\'.'),
        ({"exceptions": [3]}, '"exceptions" must be a list'),
        ({"exceptions": {"conv": None}}, '"exceptions" must be a list'),
        ({"exceptions": "auto"}, "exceptions: auto takes one goal that the outputs must keep: min_snr or min_cosine"),
        ({"exceptions": "auto", "min_snr": 20, "min_cosine": 0.9}, "exceptions: auto takes one goal"),
        (
            {"exceptions": "auto", "min_cosine": 2},
            'Invalid value of "min_cosine": 2. It must be a number from -1 to 1.',
        ),
        ({"exceptions": "auto", "min_snr": ".inf"}, 'Invalid value of "min_snr"'),
        ({"min_snr": 20}, "min_snr has no effect without exceptions: auto"),
        ({"observer": "minmax"}, '"observer" must be one of min_max, moving_average'),
        ({"observer": "auto"}, "observer: auto needs exceptions: auto"),
        ({"bias_correction": "yes please"}, '"bias_correction" must be true or false'),
        ({"equalize": "perhaps"}, '"equalize" must be true, false or "auto"'),
        ({"equalize": "auto"}, "equalize: auto needs exceptions: auto"),
        ({"held_back": 1}, 'Invalid value of "held_back": 1. It must be a number from 0 to below 1.'),
        ({"function": 3}, '"function" must be the name of a function'),
        ({"method": "gptq"}, "method is for steps on weights"),
        ({"exception": ["conv"]}, "unknown key 'exception'. Did you mean \"exceptions\"?"),
        ({"activations": {"granularity": "per_tensor"}}, "unknown key 'granularity'. Known are: mode, dtype."),
        ({"activations": {"dtype": "int4"}}, "activations can be int8 or uint8 only"),
    ],
)
def test_wrong_keys_are_one_sentence(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"steps": [{"activations": {}, **keys}]})
    assert message in str(error.value) and str(error.value).startswith("recipe: step 1")


def test_keys_and_targets_that_do_not_go_together() -> None:
    for content, message in (
        (
            {"steps": [{"quantize": {}, "exceptions": ["a"]}]},
            "(quantize): exceptions is for the step activations.",
        ),
        ({"target": "iOS16", "steps": [{"activations": {}}]}, "The activation quantization is supported since iOS17"),
    ):
        with pytest.raises(ConfigError) as error:
            parse(content)
        assert message in str(error.value)
    with pytest.raises(ConfigError, match="neural networks have no quantized activations"):
        parse({"steps": [{"activations": {}}]}, networks=True)


def test_a_step_needs_samples(package) -> None:
    with pytest.raises(ConfigError, match=r"step 1 \(activations\): it learns from samples: sample_data is needed"):
        recipe.run(package, parse({"steps": [{"activations": {}}]}))


def test_a_step_does_what_the_function_does(package, tmp_path) -> None:
    step = {"activations": {"mode": "linear"}, "exceptions": ["planted"], "observer": "mse"}
    made = recipe.run(package, parse({"steps": [step]}), sample_data=iter(samples(6)))
    direct = coreml.experimental.linear_quantize_activations(
        package, everywhere(mode="linear"), samples(6), observer="mse", exceptions=["planted"]
    )
    assert content(made, tmp_path) == content(direct, tmp_path)


def test_a_rule_without_effect_is_said_in_the_words_of_the_recipe(package, caplog) -> None:
    step = {"activations": {}, "names": {"frist": "skip"}, "exceptions": ["nothing"]}
    recipe.run(package, parse({"steps": [step]}), sample_data=samples())
    assert 'step 1 (activations), names: "frist" has no effect' in caplog.text
    assert 'exceptions: "nothing" is no operation whose activations would be quantized' in caplog.text


@pytest.mark.parametrize("goal", [{}, {"min_snr": 20}, {"min_cosine": 0.999}])
@pytest.mark.parametrize("options", [{}, {"observer": "output", "bias_correction": True}, {"equalize": True}])
def test_the_recipe_of_the_command_makes_the_same_bytes(package, tmp_path, goal, options) -> None:
    """As `quantize --activations` does it, without and with a goal; what was found is in the recipe by name."""
    both, limits, running, check = Activations(True, **options), Limits(), Running(workers=1), Check(**goal)
    weights = of_package("linear_quantize_weights", WEIGHTS, False, limits, running)
    source, told = load(package), []
    made = both.beside(weights, WEIGHTS, check, limits, running, told.append)(source, None, samples(20))
    text = recipe_of("quantize", WEIGHTS, None, None, both.again(WEIGHTS, source, check, told))
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert ("auto" in text) is False and ("planted" in text) is bool(goal)
    again = recipe.run(load(package), recipe.load(path), sample_data=samples(20), spare_constants=True)
    assert content(again, tmp_path) == content(made, tmp_path)
    assert any(node.type == "quantize" for node in nodes(made.spec))


def test_exceptions_are_found_by_the_step_as_by_the_function(package, tmp_path) -> None:
    step = {"activations": {"mode": "linear"}, "exceptions": "auto", "min_snr": 20}
    made = recipe.run(package, parse({"steps": [step]}), sample_data=samples(20))
    direct, found = quantized(
        load(package), everywhere(mode="linear"), samples(20), exceptions="auto", min_snr=20, observer="auto",
        bias_correction=None, equalize="auto",
    )  # fmt: skip
    assert found is not None and found.names == ("planted",) and content(made, tmp_path) == content(direct, tmp_path)
    # With the same samples kept away, exceptions by name give the same ranges.
    named = {"activations": {"mode": "linear"}, **found.keys, "held_back": 0.2}
    again = recipe.run(package, parse({"steps": [named]}), sample_data=samples(20))
    assert content(again, tmp_path) == content(direct, tmp_path)


def test_channels_are_equalized_before_the_steps_on_weights_that_stand_before(tmp_path) -> None:
    from torch import nn

    from corepress.coreml.activations.equalizing import equalized
    from tests.coreml.activations import converted_nets as nets

    path = nets.package(nets.Convolutions(nn.ReLU()), tmp_path, half=True)
    given = nets.samples(6)
    activations = {"activations": {"mode": "linear"}, "equalize": True}
    quantize = {"quantize": {"weight_threshold": 0}}
    found = recipe.run(path, parse({"steps": [quantize, activations]}), sample_data=given)
    model = equalized(load(path), given)
    assert model is not None
    model = coreml.linear_quantize_weights(model, WEIGHTS)
    model = coreml.linear_quantize_activations(model, everywhere(mode="linear"), given)
    assert content(found, tmp_path) == content(model, tmp_path)
