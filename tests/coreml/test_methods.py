"""The table of methods: what the public functions, recipes and the command line know is the same."""

from __future__ import annotations

import inspect

import click
import pytest

from corepress import coreml
from corepress.coreml.action import Action
from corepress.coreml.methods import METHODS
from corepress.errors import ConfigError
from corepress.recipe import parse

FITTED = [(verb, name) for verb, method in METHODS.items() for name in method.fitted]
ARGUMENTS = {"palettize": {"nbits": 4}, "quantize": {}, "prune": {"target_sparsity": 0.5}}


@pytest.mark.parametrize("verb", METHODS)
def test_a_method_is_a_public_function_and_has_an_action(verb) -> None:
    method = METHODS[verb]
    assert callable(getattr(coreml, method.function))
    assert issubclass(method.action, Action) and method.action.evidence is None


@pytest.mark.parametrize(("verb", "name"), FITTED)
def test_a_fitted_method_adds_a_fit_to_the_action_without_data(verb, name) -> None:
    kind = METHODS[verb].fitted[name]
    assert issubclass(kind, METHODS[verb].action)
    assert kind.evidence is not None and kind.fit is not Action.fit and kind.compress is METHODS[verb].action.compress


@pytest.mark.parametrize(("verb", "name"), FITTED)
def test_recipes_and_the_calibrated_functions_know_it(verb, name) -> None:
    step = {verb: ARGUMENTS[verb], "method": name}
    assert parse({"steps": [step]}).steps[0].method == name
    from corepress.coreml import calibrated

    function = getattr(calibrated, METHODS[verb].function)
    assert inspect.signature(function).parameters["method"].default == next(iter(METHODS[verb].fitted))


@pytest.mark.parametrize("verb", METHODS)
def test_another_name_is_answered_with_those_that_there_are(verb) -> None:
    method = METHODS[verb]
    config = coreml.OptimizationConfig(method.kinds[0](**ARGUMENTS[verb]))
    with pytest.raises(ConfigError, match="method must be"):
        method.plan(None, config, False, ["skm"])  # what is no name at all
    with pytest.raises(ConfigError, match=f"method must be .*\"{list(method.fitted)[-1]}\", not 'other'"):
        method.plan(None, config, False, "other")


@pytest.mark.parametrize("verb", METHODS)
def test_the_command_line_offers_the_same(verb) -> None:
    from corepress.cli import app

    command = app.app.get_command(click.Context(app.app), verb)
    choices = next(parameter.type.choices for parameter in command.params if parameter.name == "method")
    assert [getattr(choice, "value", choice) for choice in choices] == list(METHODS[verb].fitted)


@pytest.mark.parametrize(("verb", "name"), FITTED)
def test_the_command_line_hands_the_name_on(verb, name, monkeypatch) -> None:
    from corepress.cli.options import Limits, Running
    from corepress.cli.steps import of_package
    from corepress.coreml import calibrated

    given = {}
    function = METHODS[verb].function
    monkeypatch.setattr(calibrated, function, lambda *arguments, **options: given.update(options))
    config = coreml.OptimizationConfig(METHODS[verb].kinds[0](**ARGUMENTS[verb]))
    of_package(function, config, False, Limits(), Running(), name)(None, None, [])
    assert given["method"] == name
