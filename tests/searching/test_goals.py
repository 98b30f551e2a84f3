"""What a search is asked for."""

from __future__ import annotations

import math

import pytest

from corepress.cli.words import translate
from corepress.errors import ConfigError
from corepress.searching.goals import Goal, goal_of


def goal(metric="", **given):
    names = ("max_size", "bits", "min_snr", "min_cosine", "max_drop")
    return goal_of(*(given.get(name) for name in names), metric, bool(metric))


def test_each_goal_names_the_metric_that_decides():
    assert goal(max_size="1MB") == Goal(size=10**6)
    assert goal(bits=3.5) == Goal(bits=3.5)
    assert goal(min_snr=30) == Goal(least=30)
    assert goal(min_cosine=0.99) == Goal(least=0.99, metric="cosine")
    assert goal("accuracy", max_drop=0.5) == Goal(drop=0.5, metric="accuracy")
    assert goal("accuracy", bits=4) == Goal(bits=4, metric="accuracy")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "give one goal"),
        ({"bits": 3, "min_snr": 30}, "not bits= and min_snr="),
        ({"max_drop": 1}, 'needs "metric"'),
        ({"metric": "accuracy", "min_snr": 30}, "no effect beside a metric of your own"),
        ({"bits": math.nan}, "bits=nan must be a number from 0 to 32"),
        ({"min_snr": math.inf}, "min_snr=inf must be a finite number"),
        ({"min_cosine": 1.1}, "min_cosine=1.1 must be a number from -1 to 1"),
        ({"min_snr": "loud"}, "min_snr='loud' must be a number"),
    ],
)
def test_a_goal_that_makes_no_sense_is_one_sentence(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        goal(**given)


def test_the_command_line_says_it_in_its_own_words():
    with pytest.raises(ConfigError) as error:
        goal(bits=3, min_snr=30)
    assert translate(str(error.value)) == (
        "give one goal: --max-size, --bits, --min-snr, --min-cosine, --max-drop; not --bits and --min-snr"
    )
    with pytest.raises(ConfigError) as error:
        goal(bits=33)
    assert translate(str(error.value)) == "--bits 33 must be a number from 0 to 32"
