"""A short run of what `python -m tests.fuzzing` goes on with for half an hour, and what its seeds must be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import corepress.coreml as cto
from corepress import recipe
from corepress.formats.mlprogram import load
from tests.fuzzing import messages
from tests.fuzzing.seeds import seeds
from tests.fuzzing.targets import CONFIG, RECIPE, Fuzzer
from tests.fuzzing.texts import mutate_text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> list[Path]:
    return seeds(tmp_path_factory.mktemp("seeds"))


def test_a_few_hundred_inputs(packages) -> None:
    fuzzer = Fuzzer(packages, random.Random(12345))
    for _ in range(300):
        fuzzer.once()
    assert all(taken for _, taken in fuzzer.counts.values()), fuzzer.counts


def test_the_seeds_are_sound(packages, tmp_path) -> None:
    for path in packages:
        assert load(path).weights()
    for name, text in (("config.yaml", CONFIG), ("recipe.yaml", RECIPE)):
        (tmp_path / name).write_text(text)
    cto.palettize_weights(packages[-6], cto.OptimizationConfig.from_yaml(tmp_path / "config.yaml"))
    recipe.run(packages[-6], recipe.load(tmp_path / "recipe.yaml"))


def test_damage_is_done(packages) -> None:
    """Most changes change something, and the original stays as it is."""
    rng = random.Random(0)
    specs = [load(path).spec for path in packages]
    parts, before = messages.pool(specs), [spec.SerializeToString() for spec in specs]
    changed = [messages.mutate(rng.choice(specs), parts, rng) for _ in range(100)]
    assert before == [spec.SerializeToString() for spec in specs]
    assert sum(not any(one == spec for spec in specs) for one in changed) > 60
    assert sum(mutate_text(RECIPE, rng) != RECIPE for _ in range(100)) > 60
