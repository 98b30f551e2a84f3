"""The operations that stay in floating point: as few as the goal allows, and those that do harm."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

import corepress.coreml as cto
from corepress import ConfigError, load
from corepress.coreml.activations import exceptions
from corepress.coreml.activations.exceptions import smallest
from corepress.coreml.activations.quantize import quantized
from corepress.formats.mlprogram.program import nodes
from corepress.runtime import load as run
from tests.coreml.activations.activation_nets import everywhere, package_of, samples


def spiked(mb, x, w):
    """Convolutions, and one addition of a number so large that 8 bits leave nothing of the others."""
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="first"), name="relu")
    spike = mb.mul(x=x, y=np.float16(3000), name="spike")
    rest = mb.sub(x=mb.add(x=a, y=spike, name="planted"), y=spike, name="rest")
    b = mb.conv(x=rest, weight=w(4, 4, 1, 1), name="second")
    return mb.conv(x=mb.relu(x=b, name="relu_b"), weight=w(4, 4, 1, 1), name="third")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return package_of(tmp_path_factory.mktemp("spiked"), spiked)


def snr(path, model, given) -> float:
    exact, other = run(path), run(model)
    pairs = [(next(iter(exact.predict(s).values())), next(iter(other.predict(s).values()))) for s in given]
    noise = sum(float(np.square(one - two.astype(np.float64)).sum()) for one, two in pairs)
    return 10 * np.log10(sum(float(np.square(one.astype(np.float64)).sum()) for one, _ in pairs) / max(noise, 1e-12))


def test_the_one_operation_that_does_harm_is_the_only_exception(package) -> None:
    config = everywhere(mode="linear")
    model, found = quantized(load(package), config, samples(20), exceptions="auto", min_snr=20)
    assert found is not None and found.met and found.names == ("planted",) and found.left[0].type == "add"
    assert snr(package, model, samples(8, seed=1)) >= 20
    named = cto.linear_quantize_activations(package, config, samples(20), exceptions=["planted"])
    assert [node.name for node in nodes(named.spec)] == [node.name for node in nodes(model.spec)]


def test_too_few_samples_to_hold_any_back_are_no_others(package, caplog) -> None:
    _, found = quantized(load(package), everywhere(mode="linear"), samples(3), exceptions="auto", min_snr=20)
    assert found.summary.endswith("dB on 3 samples that ranges come from, too")
    (said,) = (record.message for record in caplog.records if "samples" in record.message)
    assert "none can be" in said and "weak evidence" in said
    _, found = quantized(load(package), everywhere(mode="linear"), samples(5), exceptions="auto", min_snr=20)
    assert found.summary.endswith("dB on 1 sample held back for choosing")


def test_an_exception_has_no_pair_around_it(package) -> None:
    model = cto.linear_quantize_activations(package, everywhere(), samples(), exceptions=["second"])
    (second,) = (node for node in nodes(model.spec) if node.name == "second")
    (third,) = (node for node in nodes(model.spec) if node.name == "third")
    assert second.operand("x").node.type == "sub" and third.operand("x").node.type == "dequantize"
    assert "dequantize" not in [use.node.type for use in second.uses]


@pytest.mark.parametrize("seed", range(30))
def test_no_smaller_set_is_good_where_all_can_be_tried(seed) -> None:
    random_ = random.Random(seed)
    names = [f"op{i}" for i in range(7)]
    harm = {name: random_.expovariate(1) for name in names}
    extra = {pair: random_.choice([0, 0, 0, -0.5, 0.8]) for pair in itertools.combinations(names, 2)}

    def noise(left: frozenset[str]) -> float:
        rest = [name for name in names if name not in left]
        return sum(harm[n] for n in rest) + sum(extra[pair] for pair in itertools.combinations(rest, 2))

    allowed = max(noise(frozenset(names)), noise(frozenset()) * random_.random())
    found = smallest(sorted(names, key=lambda name: -harm[name]), lambda left: noise(left) <= allowed)
    assert noise(found) <= allowed
    sets = (frozenset(some) for size in range(len(found)) for some in itertools.combinations(names, size))
    fewer = [len(some) for some in sets if noise(some) <= allowed]
    # All sets of one less were tried. (Where two operations together do less harm, none of these may be good though a
    # smaller one is.)
    assert len(found) - 1 not in fewer


def test_a_goal_out_of_reach_gives_the_best_and_how_far_it_is_off(package, caplog) -> None:
    coarse = cto.palettize_weights(package, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=1, weight_threshold=0)))
    model, found = quantized(coarse, everywhere(mode="linear"), samples(20), exceptions="auto", min_snr=60)
    assert not found.met and found.value < 60 and "can't be reached" in caplog.text and "dB too little" in found.summary
    assert snr(package, model, samples(8, seed=1)) > 0


def test_what_makes_no_goal_is_refused(package) -> None:
    for message, options in {
        "takes one goal": {"exceptions": "auto"},
        "one goal that": {"exceptions": "auto", "min_snr": 20, "min_cosine": 0.9},
        "must be a number, not nan": {"exceptions": "auto", "min_snr": float("nan")},
        "from -1 to 1, not 2": {"exceptions": "auto", "min_cosine": 2},
        "min_snr has no effect": {"min_snr": 20},
        'must be "auto" or a list': {"exceptions": "all"},
        "the observer auto needs": {"observer": "auto"},
        "bias_correction=None needs": {"bias_correction": None},
    }.items():
        with pytest.raises(ConfigError, match=message):
            cto.linear_quantize_activations(package, everywhere(), samples(), **options)
    with pytest.raises(ConfigError, match="sample_data is empty"):
        cto.linear_quantize_activations(package, everywhere(), [], exceptions="auto", min_snr=20)
    with pytest.raises(ConfigError, match="no operation whose activations"):
        cto.linear_quantize_activations(package, everywhere(), samples(), exceptions=["relu"], strict=True)


def test_a_way_with_which_the_goal_can_be_had_goes_before_one_that_is_nearer_without_exceptions() -> None:
    class Judged:
        def __init__(self, without: float, with_all: float):
            self.without, self.with_all = without, with_all

        def noise(self, names: frozenset[str]) -> float:
            return self.with_all if names else self.without

        def harms(self, operations: dict[str, str]) -> dict[str, float]:
            return dict.fromkeys(operations, self.without)

    coarse, fine, finest = Judged(0.5, 0.2), Judged(0.9, 0.05), Judged(0.95, 0.01)
    everything = {"a": "add"}
    assert exceptions._nearest([coarse, fine, finest], everything, 0.6) is coarse  # it needs none
    assert exceptions._nearest([fine, coarse], everything, 0.1) is fine
    assert exceptions._nearest([fine, coarse, finest], everything, 0.1) is finest  # with what it needs, it is nearest
    assert exceptions._nearest([fine, finest, coarse], everything, 0.001) is coarse  # none can have it
