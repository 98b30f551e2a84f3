"""The sentences about rules of a configuration that change nothing."""

from __future__ import annotations

import logging

import pytest

from corepress import fields
from corepress.errors import ConfigError

NAMES = ["encoder_layer_0_weight_to_fp16", "encoder_layer_1_weight_to_fp16", "head", "layers.0.q_proj", "layers.0.k"]


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("haed", "head"),
        ("encodr_layer_1_weight_to_fp16", "encoder_layer_1_weight_to_fp16"),
        ("encodr*", "encoder_layer_0_weight_to_fp16"),  # the beginning of a name counts
        (r"layers\.\d+\.q_prj", "layers.0.q_proj"),  # and regular expressions, which modules are named by
    ],
)
def test_a_rule_that_matches_nothing_names_the_nearest(key: str, first: str) -> None:
    sentence = fields.matches_nothing("op_name_configs", key, NAMES)
    assert sentence.startswith(f'op_name_configs "{key}" has no effect: nothing in the model matches it.')
    assert f'The nearest are: "{first}"' in sentence


def test_a_rule_like_nothing_shows_what_there_is() -> None:
    sentence = fields.matches_nothing("op_type_configs", "zzz", ["conv", "linear", "matmul", "relu"])
    assert sentence.endswith('The model has, for example: "conv", "linear", "matmul".')
    assert fields.matches_nothing("op_type_configs", "zzz", []).endswith("matches it.")


def test_sentences_are_warnings_or_with_strict_an_error(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("corepress.test")
    with caplog.at_level(logging.WARNING):
        fields.warn_or_raise(["One.", "Two."], log, strict=False)
    assert caplog.messages == ["One.", "Two."]
    with pytest.raises(ConfigError, match=r"One\. Two\."):
        fields.warn_or_raise(["One.", "Two."], log, strict=True)
    fields.warn_or_raise([], log, strict=True)
