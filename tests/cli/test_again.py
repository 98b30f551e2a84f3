"""The recipe that a page shows does the same as the command that wrote it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from corepress import recipe
from corepress.cli.again import recipe_of
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
    OptimizationConfig,
)

LUT = OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=16)
CONFIGS = {
    "plain": ("palettize", OptimizationConfig(OpPalettizerConfig(nbits=6, weight_threshold=7))),
    "skips": ("palettize", OptimizationConfig(LUT, {"conv": None}, {"head*": OpPalettizerConfig(nbits=8)})),
    "others only": ("palettize", OptimizationConfig(None, {"conv": LUT})),
    "modes": ("palettize", OptimizationConfig(LUT, op_name_configs={"a": OpPalettizerConfig(mode="unique")})),
    "integers": ("quantize", OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", granularity="per_block"))),
    "zeros": ("prune", OptimizationConfig(OpMagnitudePrunerConfig(target_sparsity=0.5))),
    "n of m": ("prune", OptimizationConfig(OpMagnitudePrunerConfig(n_m_ratio=(2, 4)))),
    "threshold": ("prune", OptimizationConfig(OpThresholdPrunerConfig(0.1, 0.2))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_says_the_same(name: str) -> None:
    kind, config = CONFIGS[name]
    text = recipe_of(kind, config, "iOS18", None)
    parsed = recipe.parse(yaml.safe_load(text))
    assert (parsed.target, parsed.steps[0].kind, parsed.steps[0].config) == ("iOS18", kind, config)
    assert "mode: kmeans" not in text and "cluster_dim" not in text, "defaults are not spelt out"


def test_a_method_is_part_of_it() -> None:
    text = recipe_of("palettize", CONFIGS["plain"][1], None, "lut-gptq")
    assert recipe.parse(yaml.safe_load(text)).steps[0].method == "lut-gptq" and "target" not in text


def test_what_no_recipe_can_say() -> None:
    def table(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(weight, return_inverse=True)

    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=table))
    assert recipe_of("palettize", config, None, None) == ""
