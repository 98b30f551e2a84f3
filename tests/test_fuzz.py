"""A short run of the fuzz target; `make fuzz` goes on for a million inputs."""

from __future__ import annotations

from tests import fuzz


def test_random_mutations_never_crash_the_parser(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz.prepare()
    fuzz.run_random(3000, seed=12345)


def test_what_parses_never_crashes_the_runtime(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "EXECUTE", True)
    fuzz.prepare()
    fuzz.run_random(2000, seed=54321)


def test_the_seeds_themselves_load() -> None:
    fuzz.prepare()
    for seed in fuzz.seeds():
        spec, weights = fuzz.split(seed)
        fuzz.SPEC.write_bytes(spec)
        fuzz.WEIGHTS.write_bytes(weights)
        (weight,) = fuzz.corepress.formats.mlprogram.model.load(fuzz.FOLDER).weights()
        assert weight.dense().shape == (4, 8)
