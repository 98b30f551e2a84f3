"""The metrics of language beside PyTorch: what follows a token, within a step and from step to step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import corepress as cto
from corepress.errors import ConfigError
from corepress.formats.features import Feature, Interface
from corepress.language import Predictions, Words
from corepress.runtime.domains import Domain
from corepress.runtime.language import words_of
from tests import decoder

WORDS = Words("ids", 11)


def logits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=(*shape, 11)) * 3


def expected(before: np.ndarray, now: np.ndarray, ids: np.ndarray) -> tuple[float, float, float, float]:
    """KL, agreement, ratio of perplexities and the original's, of one text (T, V)."""
    one, other = torch.tensor(before), torch.tensor(now)
    kl = F.kl_div(other.log_softmax(-1), one.softmax(-1), reduction="sum") / len(one)
    agreed = (one.argmax(-1) == other.argmax(-1)).double().mean()
    losses = [float(F.cross_entropy(values[:-1], torch.tensor(ids[1:]))) for values in (one, other)]
    return float(kl), float(agreed), math.exp(losses[1] - losses[0]), math.exp(losses[0])


def found(tally) -> tuple[float, float, float, float]:
    return tally.kl, tally.top1, tally.perplexity, tally.original_perplexity


@pytest.mark.parametrize("prefill", [1, 3, 9])
def test_a_text_is_judged_alike_in_whatever_steps_it_is_read(prefill) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, 9)
    before, now = logits(rng, 9), logits(rng, 9)
    predictions = Predictions(WORDS)
    parts = np.split(np.arange(9), range(prefill, 9))
    for number, part in enumerate(parts):
        step = None if len(parts) == 1 else number
        given = {"logits": before[None, part]}, {"logits": now[None, part]}
        predictions.add(step, {"ids": ids[None, part]}, *given)
    np.testing.assert_allclose(found(predictions.whole), expected(before, now, ids), rtol=1e-6)
    positions = predictions.by_position()
    assert [at.position for at in positions] == list(range(9)) and positions[-1].perplexity is None
    for at in positions[:-1]:
        one = expected(before[[at.position] * 2], now[[at.position] * 2], ids[[0, at.position + 1]])
        np.testing.assert_allclose((at.kl, at.top1, at.perplexity, at.original_perplexity), one, rtol=1e-6)
    assert list(predictions.steps) == (list(range(len(parts))) if len(parts) > 1 else [])


def test_texts_of_a_batch_and_words_that_only_fill_the_shape() -> None:
    rng = np.random.default_rng(1)
    ids, before, now = rng.integers(0, 11, (2, 6)), logits(rng, 2, 6), logits(rng, 2, 6)
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    predictions = Predictions(Words("ids", 11, None, ("mask",)))
    given = {"logits": before, "hidden": before[..., :4]}, {"logits": now, "hidden": now[..., :4]}
    predictions.add(None, {"ids": ids, "mask": mask}, *given)
    rows = [expected(before[0], now[0], ids[0]), expected(before[1, :3], now[1, :3], ids[1, :3])]
    kl, agreed = ((rows[0][i] * 6 + rows[1][i] * 3) / 9 for i in (0, 1))
    ratio, original = (math.exp((math.log(rows[0][i]) * 5 + math.log(rows[1][i]) * 2) / 7) for i in (2, 3))
    np.testing.assert_allclose(found(predictions.whole), (kl, agreed, ratio, original), rtol=1e-6)


def test_a_model_that_answers_after_its_last_word_only() -> None:
    rng = np.random.default_rng(2)
    ids, before, now = rng.integers(0, 11, 6), logits(rng, 3), logits(rng, 3)
    predictions = Predictions(WORDS)
    for number, part in enumerate(([0, 1, 2, 3], [4], [5])):
        predictions.add(number, {"ids": ids[None, part]}, {"y": before[None, number]}, {"y": now[None, number]})
    np.testing.assert_allclose(found(predictions.whole), expected(before, now, ids[3:]), rtol=1e-6)
    assert [at.position for at in predictions.by_position()] == [3, 4, 5]


def test_words_that_can_never_follow_have_no_part() -> None:
    before, now = np.array([[0.0, -np.inf, 1.0], [0.0, 1.0, 2.0]]), np.array([[0.5, 3.0, 1.0], [np.nan, 1.0, 2.0]])
    predictions = Predictions(Words("ids", 3))
    predictions.add(None, {"ids": np.array([[0, 2]])}, {"y": before[None, :1]}, {"y": now[None, :1]})
    assert predictions.whole.predictions == 1 and math.isfinite(predictions.whole.kl)
    predictions = Predictions(Words("ids", 3))
    predictions.add(None, {"ids": np.array([[0, 2]])}, {"y": before[None]}, {"y": now[None]})
    assert math.isnan(predictions.whole.kl) and predictions.whole.top1 == 0.0  # a copy that is broken is not good


INTERFACE = Interface(
    (Feature("ids", "array", (1, 4), np.int32), Feature("kinds", "array", (1, 4), np.int32)),
    (Feature("y", "array"),), (),
)  # fmt: skip


def test_the_words_are_those_of_the_largest_table() -> None:
    domains = {"ids": Domain("index", 99), "kinds": Domain("index", 1), "mask": Domain("mask")}
    assert words_of(INTERFACE, domains) == Words("ids", 100, None, ("mask",))
    assert words_of(INTERFACE, domains, "kinds", "y") == Words("kinds", 2, "y", ("mask",))
    assert words_of(INTERFACE, {}) is None
    for names, message in (
        (("idz", None), "there is no input 'idz', but ids, kinds"),
        ((None, "z"), "there is no output 'z', but y"),
        ((None, "y"), "no input is known to hold tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            words_of(INTERFACE, {}, *names)


def test_verify_judges_a_decoder_by_what_follows(tmp_path) -> None:
    pytest.importorskip("coremltools")
    package, texts = decoder.package(tmp_path), decoder.sequences(3, length=10)
    config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=3, weight_threshold=500))
    small = cto.coreml.palettize_weights(package, config)
    result = cto.verify(package, small, texts, metric="perplexity", threshold=10)
    (row,) = result.rows
    runs = [cto.runtime.load(one, precision="float32") for one in (package, small)]
    sums = np.zeros(4)
    for text in texts:
        before, now = (np.concatenate([step["logits"][0] for step in run.run_sequence(text)]) for run in runs)
        ids = np.concatenate([step["ids"][0] for step in text]).astype(np.int64)
        kl, agreed, ratio, original = expected(before.astype(np.float64), now.astype(np.float64), ids)
        sums += np.array([kl, agreed, math.log(ratio), math.log(original)]) / len(texts)
    found = [row.kl, row.top1, math.log(row.perplexity), math.log(row.original_perplexity)]
    np.testing.assert_allclose(found, sums, rtol=1e-4)
    assert [at.predictions for at in result.by_position] == [3] * 10 and all(one.kl for (one,) in result.by_step)
    assert result.ok and "perplexity (original 1) " in result.summary and "perplexity" in str(result.to_dict())
    with pytest.raises(ConfigError, match="there is no output 'scores'"):
        cto.verify(package, small, texts, logits="scores")
