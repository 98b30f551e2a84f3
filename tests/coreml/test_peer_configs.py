"""coremltools' own configuration objects are taken by the functions for packages, field by field."""

from __future__ import annotations

import pytest

import corepress.coreml as cto
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig
from corepress.errors import ConfigError
from tests.lazy import lazy
from tests.packages import make_package
from tests.process import python

PEER = "coremltools.optimize.coreml"
peer = lazy(PEER)
SET = {
    "OpPalettizerConfig": [
        {"nbits": 4},
        {"mode": "uniform", "nbits": 3, "weight_threshold": None},
        {"nbits": 2, "granularity": "per_grouped_channel", "group_size": 8, "channel_axis": 1},
        {"nbits": 4, "cluster_dim": 2, "num_kmeans_workers": 2},
    ],
    "OpLinearQuantizerConfig": [{}, {"mode": "linear", "dtype": "uint4", "granularity": "per_block", "block_size": 16}],
    "OpThresholdPrunerConfig": [{}, {"threshold": 0.25, "minimum_sparsity_percentile": 0.1}],
    "OpMagnitudePrunerConfig": [{"target_sparsity": 0.5, "block_size": 2, "dim": 0}, {"n_m_ratio": (2, 4), "dim": 1}],
    "OpActivationLinearQuantizerConfig": [{}, {"mode": "linear", "dtype": "uint8", "weight_threshold": 7}],
}
OURS = {name: getattr(cto, name, OpActivationLinearQuantizerConfig) for name in SET}
THEIRS = {name: lazy(f"{PEER}.experimental" if "Activation" in name else PEER, name) for name in SET}


@pytest.mark.parametrize(("name", "fields"), [(name, each) for name, all_ in SET.items() for each in all_], ids=str)
def test_it_is_read_field_by_field(name, fields) -> None:
    given, wanted = THEIRS[name](**fields), OURS[name](**fields)
    config = cto.OptimizationConfig(global_config=given, op_name_configs={"a": given, "b": None})
    config.set_op_type("conv", given)
    config.set_op_name("c", given)
    expected = cto.OptimizationConfig(wanted, {"conv": wanted}, {"a": wanted, "b": None, "c": wanted})
    assert config == expected
    whole = peer.OptimizationConfig(global_config=given)
    whole.set_op_type("conv", given)
    whole.set_op_name("a", given)
    from corepress.coreml.config import check_kinds

    assert check_kinds(whole, "f", OURS[name]) == cto.OptimizationConfig(wanted, {"conv": wanted}, {"a": wanted})


def test_a_function_and_a_custom_one_take_it(tmp_path) -> None:
    package = make_package(tmp_path, "iOS16")
    values = {}
    for module in (peer, cto):
        config = module.OptimizationConfig(module.OpPalettizerConfig(nbits=2, weight_threshold=0))
        values[module] = [weight.read() for weight in cto.palettize_weights(package, config).weights()]
    assert str(values[peer]) == str(values[cto])


def test_what_only_the_peer_has_is_refused(tmp_path) -> None:
    config = peer.OptimizationConfig(global_config=peer.OpLinearQuantizerConfig())
    config._op_selector = lambda op: True
    with pytest.raises(ConfigError, match="corepress has no counterpart of _op_selector"):
        cto.linear_quantize_weights(make_package(tmp_path, "iOS16"), config)


def test_our_own_need_no_coremltools() -> None:
    pytest.importorskip("torch")
    code = "import sys, corepress as c; c.coreml.OptimizationConfig(c.coreml.OpPalettizerConfig(nbits=4)); "
    code += "import corepress.torch; sys.exit('coremltools' in sys.modules)"
    assert python(code).returncode == 0
