"""Tables of which rows are looked up, such as embeddings: fitted to how much the answers depend on their directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    calibrated,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)
from corepress.coreml.calibrated import reached
from corepress.coreml.calibrated.gains import Tried, gains
from corepress.coreml.methods import METHODS
from corepress.runtime import load
from tests.oracle import peer_weights
from tests.packages import saved

WORDS, SEEN = 96, 48
TABLE = OptimizationConfig(op_name_configs={"table": OpPalettizerConfig(nbits=2)})


def encoder(folder: Path, *, axis: int = 0, tied: bool = False, again: bool = False) -> Path:
    """Words of 32 numbers, of which the answers depend on a few directions most. `axis`: of the table, along which
    words lie; `tied`: the last product is with the table itself; `again`: there is a second look-up in it."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    words = rng.normal(size=(WORDS, 32)).astype(np.float32)
    directions, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    answers = (rng.normal(size=(32 if tied else 16, 32)) * 0.7 ** np.arange(32) @ directions).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((6,), types.int32)], opset_version=ct.target.iOS18)
    def program(ids):
        table = mb.const(val=words if axis == 0 else words.T.copy(), name="table")
        x = mb.gather(x=table, indices=ids, axis=axis, name="look_up")
        if axis == 1:
            x = mb.transpose(x=x, perm=[1, 0])
        if again:
            x = mb.add(x=x, y=mb.gather(x=table, indices=mb.sub(x=np.int32(WORDS - 1), y=ids), axis=0, name="again"))
        x = mb.linear(x=mb.tanh(x=x), weight=answers, name="answer" if not tied else "inner")
        return mb.linear(x=mb.tanh(x=x), weight=table, name="answer") if tied else x

    return saved(program, folder / "encoder.mlpackage")


def sentences(count: int, first: int = 0, last: int = SEEN) -> list[dict[str, Any]]:
    rng = np.random.default_rng(first)
    return [{"ids": rng.integers(first, last, 6).astype(np.int32)} for _ in range(count)]


def distance(path: Path, small: Any, samples: list[dict[str, Any]]) -> float:
    exact, found = (load(model, precision="float32") for model in (path, small))
    return sum(float(np.square(exact.predict(s)["answer"] - found.predict(s)["answer"]).sum()) for s in samples)


METHODS_OF_TABLES = {
    "palettize": (palettize_weights, calibrated.palettize_weights, OpPalettizerConfig(nbits=2)),
    "quantize": (linear_quantize_weights, calibrated.linear_quantize_weights, OpLinearQuantizerConfig(dtype="int4")),
    "prune": (prune_weights, calibrated.prune_weights, OpMagnitudePrunerConfig(target_sparsity=0.5)),
}


@pytest.mark.parametrize("method", METHODS_OF_TABLES)
def test_what_samples_say_of_directions_holds_for_words_that_none_of_them_has(method, tmp_path):
    plainly, fitted, config = METHODS_OF_TABLES[method]
    path, only = encoder(tmp_path), OptimizationConfig(op_name_configs={"table": config})
    small = fitted(path, only, sentences(96))
    assert small.unfitted == {}
    unseen = sentences(64, SEEN, WORDS)
    assert distance(path, small, unseen) < 0.8 * distance(path, plainly(path, only), unseen)
    small.save(tmp_path / "small.mlpackage")
    (table,) = (weight for weight in small.weights() if weight.name == "table")
    np.testing.assert_array_equal(peer_weights(tmp_path / "small.mlpackage")[table.output], table.dense())


def test_the_gain_is_foretold(tmp_path):
    path, method, config = encoder(tmp_path), METHODS["palettize"], OpPalettizerConfig(nbits=2)
    weight = next(own for own in corepress.load(path).weights() if own.name == "table")
    actions = {"2 bits": (method.action.on(weight, config, True), method.fitted["lut-gptq"].on(weight, config, True))}
    found = gains(load(path, precision="float32"), sentences(96), [Tried(weight, actions)])
    assert 0 < found[weight.function, weight.output]["2 bits"] < 0.8


def test_what_is_looked_up_along_another_axis_is_compressed_without_data(tmp_path):
    path = encoder(tmp_path, axis=1)
    small = calibrated.palettize_weights(path, TABLE, sentences(32))
    assert len(small.unfitted) == 1
    tables = [
        [w.dense() for w in one.weights() if w.name == "table"] for one in (small, palettize_weights(path, TABLE))
    ]
    np.testing.assert_array_equal(*tables)


def test_a_table_that_is_multiplied_by_as_well_is_fitted_to_both(tmp_path, monkeypatch):
    path = encoder(tmp_path, tied=True)
    unseen = sentences(64, SEEN, WORDS)
    both = distance(path, calibrated.palettize_weights(path, TABLE, sentences(96)), unseen)
    monkeypatch.setattr(reached.Reached, "_add_rows", lambda *_: None)
    assert both < 0.9 * distance(path, calibrated.palettize_weights(path, TABLE, sentences(96)), unseen)


def test_a_table_that_is_looked_up_in_twice_is_fitted_to_both_look_ups(tmp_path):
    path = encoder(tmp_path, again=True)
    small, unseen = calibrated.palettize_weights(path, TABLE, sentences(96)), sentences(64, SEEN, WORDS)
    assert small.unfitted == {}
    assert distance(path, small, unseen) < 0.8 * distance(path, palettize_weights(path, TABLE), unseen)


def test_nothing_is_computed_behind_the_last_weight(tmp_path, monkeypatch):
    computed = []
    path = encoder(tmp_path)
    walking = reached.walking

    def watched(*arguments, **options):
        walk, changed = walking(*arguments, **options), None
        while True:
            step, streams = next(walk) if changed is None else walk.send(changed)
            computed.append(step.kind)
            changed = yield step, streams

    monkeypatch.setattr(reached, "walking", watched)
    calibrated.palettize_weights(path, TABLE, sentences(8), held_back=0)
    assert computed[-1] == "gather" and "linear" not in computed
