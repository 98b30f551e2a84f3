"""The forms that a weight could get: each can be held by its target, and made from what a recipe says."""

from __future__ import annotations

import numpy as np
import pytest

from corepress import recipe
from corepress.coreml.methods import METHODS
from corepress.errors import ConfigError
from corepress.fields import read
from corepress.searching.candidates import DENSE, FORMS, candidates
from corepress.targets import require, target


@pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18", "iOS26"])
def test_every_candidate_can_be_held_by_its_target(system):
    found = candidates(target(system))
    assert found[0] == DENSE
    assert len({candidate.label for candidate in found}) == len(found)
    for candidate in found[1:]:
        for verb, arguments in candidate.steps:
            config = read(arguments, METHODS[verb].kinds[0], candidate.label)
            require(config.features(), target(system))
        recipe.parse({"steps": [{verb: dict(arguments)} for verb, arguments in candidate.steps]})


def test_all_forms_of_ios18_are_among_them():
    labels = [candidate.label for candidate in candidates(target("iOS18"))]
    assert {"palettized 3 bits, groups of 8", "quantized int4, blocks of 32", "sparse 50%"} <= set(labels)
    assert "sparse 50%, palettized 4 bits" in labels
    assert not any(", " in candidate.label for candidate in candidates(target("iOS17")))


def test_groups_are_as_large_as_asked():
    sizes = {
        arguments.get("group_size")
        for candidate in candidates(target("iOS18"), ["palettized"], min_group=20)
        for _, arguments in candidate.steps
    }
    assert sizes == {None, 20, 32}
    small = candidates(target("iOS18"), ["palettized"], min_group=1)
    slow = {candidate.label: candidate.slowness for candidate in small}
    assert slow["palettized 4 bits, groups of 1"] == max(slow.values()) > slow["palettized 4 bits"] == 1


@pytest.mark.parametrize(
    ("system", "forms", "sentence"),
    [
        ("iOS18", ["plaettized"], "forms='plaettized': there is no such form"),
        ("iOS17", ["joint"], "iOS17 can hold no weight that is joint"),
        ("iOS15", FORMS, "iOS15 can hold no weight"),
    ],
)
def test_forms_that_there_are_not(system, forms, sentence):
    with pytest.raises(ConfigError, match=sentence):
        candidates(target(system), forms)


@pytest.mark.parametrize(
    ("system", "forms", "sentence"),
    [("iOS18", ["quantized"], "without palettized forms"), ("iOS17", FORMS, "iOS17 holds one table for each weight")],
)
def test_a_least_group_where_no_table_is_shared_by_groups_is_refused(system, forms, sentence):
    with pytest.raises(ConfigError, match=f"min_group=16 has no effect.*{sentence}"):
        candidates(target(system), forms, min_group=16)


def test_outliers_are_apart_only_where_that_is_asked_for():
    assert not any("apart" in candidate.label for candidate in candidates(target("iOS18")))
    _, *found = candidates(target("iOS16"), ["outliers"])
    assert [candidate.label for candidate in found][:2] == [
        "palettized 2 bits, 0.5% apart",
        "palettized 4 bits, 0.5% apart",
    ]


def test_the_dense_form_takes_no_steps():
    assert DENSE.steps == () and np.isfinite(DENSE.slowness)
