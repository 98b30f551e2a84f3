"""Scales that are searched without data, by what a network answers with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import corepress
import corepress.coreml as cto

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples/digits.mlpackage"
# In dB: one network as small as this gains or loses so much by chance, and five of them gain 0.5 on average. Scales of
# the least squared error lost 3.7, 2.9 and 0.7 here.
CHANCE = 1.0


def test_a_network_answers_no_worse_than_with_plain_scales() -> None:
    samples = [{"image": image[None]} for image in np.load(ROOT / "examples/digits_test.npz")["images"][:50]]
    blocks = {"granularity": "per_block", "block_size": 32, "smaller_block": True}
    forms = (
        {"dtype": "int4"},
        {"dtype": "int4", **blocks},
        {"dtype": "uint4", "mode": "linear", **blocks},
    )

    def snr(**options) -> float:
        config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**options))
        return corepress.verify(DIGITS, cto.linear_quantize_weights(DIGITS, config), samples).worst.snr

    gains = [snr(**form, scale_search=True) - snr(**form) for form in forms]
    assert min(gains) > -CHANCE and sum(gains) > 0, gains
