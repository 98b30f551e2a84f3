"""Searches by what a language model predicts, in sequences of steps."""

from __future__ import annotations

from functools import partial

import pytest

import corepress as cto
from corepress.cli.searching import Aim
from corepress.errors import ConfigError
from corepress.searching.goals import Goal, goal_of
from corepress.sequences import ALONE
from tests import decoder

KEYS = {"max_size": None, "bits": None, "min_snr": None, "min_cosine": None}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    return decoder.package(tmp_path_factory.mktemp("decoder"))


@pytest.mark.parametrize(("metric", "drop", "least", "good", "bad"), [
    ("kl", 0.1, 0.1, 0.05, 0.2), ("perplexity", 0.2, 1.2, 1.1, 1.3), ("top1", 0.25, 0.75, 0.8, 0.7),
])  # fmt: skip
def test_what_may_be_lost_counts_from_no_loss_at_all(metric, drop, least, good, bad) -> None:
    goal = goal_of(**KEYS, max_drop=drop, metric=metric, has_metric=True, ours=True)
    assert goal == Goal(least=least, metric=metric)
    assert goal.meets(good) and not goal.meets(bad) and not goal.meets(float("nan"))


def test_the_command_line_takes_names_and_files() -> None:
    assert Aim(metric="kl", max_drop=0.1).keywords()["metric"] == "kl"
    with pytest.raises(ConfigError, match="there is no file none"):
        Aim(metric="none.py:accuracy").keywords()


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["kl", "perplexity"])
def test_a_decoder_is_searched_by_what_it_predicts(package, metric) -> None:
    sequences, others = decoder.sequences(8, length=8), decoder.sequences(4, length=8, seed=1)
    search = partial(cto.search, package, sequences, test_data=others, forms=("palettized",), points=1, min_group=32)
    found = search(max_drop=0.05, metric=metric)
    assert found.met and found.metric == metric and ALONE not in found.notes
    least = 0.05 if metric == "kl" else 1.05
    assert found.least == least and found.tested[metric] <= least and "not above" in found.summary
    row = cto.verify(package, found.model, others).worst
    assert getattr(row, metric) == pytest.approx(found.tested[metric], rel=1e-3)


@pytest.mark.slow
def test_a_search_among_single_steps_says_so(package) -> None:
    alone = [sequence[0] for sequence in decoder.sequences(8)]
    found = cto.search(package, alone, bits=4, forms=("palettized",), points=1, min_group=16)
    assert ALONE in found.notes


def test_metrics_that_can_not_be_had_are_refused(package) -> None:
    sequences = decoder.sequences(2, length=5)
    for arguments, message in (
        ({"metric": "snr", "max_drop": 1}, "metric='snr': it must be a function, or one of kl, perplexity, top1"),
        ({"metric": "kl", "max_drop": 1, "activations": True}, "can't be searched by with activations=True"),
        ({"metric": "kl", "min_snr": 1}, "min_snr has no effect beside a metric"),
    ):
        with pytest.raises(ConfigError, match=message):
            cto.search(package, sequences, **arguments)


def test_perplexity_is_of_language_models_only(tmp_path) -> None:
    path, samples = decoder.summing(tmp_path), [[{"ids": [[number]]}] for number in range(6)]
    with pytest.raises(ConfigError, match="no output of this model has the metric perplexity"):
        cto.search(path, samples, metric="perplexity", max_drop=0.1)
