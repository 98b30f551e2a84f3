"""LinearQuantizer: configurations, the report, and misuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from corepress.errors import ConfigError, CorepressError
from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig, ModuleLinearQuantizerConfig
from tests.torch.test_linear_quantizer import IMAGE, net, prepare, quantizer_of


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_forward_that_cannot_be_captured_is_named_with_its_line() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branching()))
    place = r"module '1\.0' \(Branching\).*quantizer_errors\.py:\d+: `if x\.sum\(\) > 0:`.*non_traceable_module_names"
    with pytest.raises(CorepressError, match=place):
        prepare(model, (2, 4))


def test_misuse_is_an_error_in_a_sentence(caplog) -> None:
    quantizer = quantizer_of(net())
    with pytest.raises(CorepressError, match=r"call prepare\(example_inputs\)"):
        quantizer.finalize()
    quantizer.step()
    assert "before prepare" in caplog.text
    with pytest.raises(ConfigError, match="example_inputs are 2, but the model takes 1"):
        quantizer.prepare((torch.randn(IMAGE), torch.randn(IMAGE)))
    with pytest.raises(ConfigError, match="no input 'y'"):
        quantizer.prepare({"y": torch.randn(IMAGE)})
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    assert quantizer.prepare((torch.randn(IMAGE),)) is prepared and "already" in caplog.text
    with pytest.raises(CorepressError, match="the model that prepare"):
        quantizer.finalize(net())
    finished = quantizer.finalize()
    assert "left in floating point" in caplog.text and "quantize_per_tensor" not in finished.code
    config = LinearQuantizerConfig.from_dict({"non_traceable_module_names": ["conv9"]})
    with pytest.raises(CorepressError, match="no module 'conv9'"):
        LinearQuantizer(net(), config).prepare((torch.randn(IMAGE),))


def test_a_training_that_diverged_is_not_finalized() -> None:
    quantizer = quantizer_of(net())
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    prepared(torch.randn(IMAGE).expand(4, -1, -1, -1))
    with torch.no_grad():
        prepared.conv2.weight[0] = float("nan")
    with pytest.raises(CorepressError, match=r"conv2\.weight holds NaN"):
        quantizer.finalize()


@pytest.mark.parametrize(
    "other", [{"weight_dtype": "qint4"}, {"quantization_scheme": "affine"}, {"algorithm": "learnable"}]
)
def test_a_state_of_another_configuration_is_refused(other) -> None:
    state = prepare(net()).state_dict()
    with pytest.raises(ConfigError, match="another configuration"):
        prepare(net(), **other).load_state_dict(state)


def test_the_configuration_has_the_fields_and_defaults_of_coremltools() -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.quantization")
    for ours, theirs in (
        (ModuleLinearQuantizerConfig(), peer.ModuleLinearQuantizerConfig()),
        (LinearQuantizerConfig(), peer.LinearQuantizerConfig()),
    ):
        assert repr(ours) == repr(theirs).replace("OrderedDict()", "{}")
    for wrong in (
        {"weight_dtype": "int32"}, {"activation_dtype": "int8"}, {"milestones": [0, 2]}, {"algorithm": "other"},
        {"weight_observer": "histogram"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            quantizer_of(net(), **wrong)
    for field in ({"quantization_scheme": "affine"}, {"algorithm": "learnable"}):
        with pytest.raises(ConfigError, match="the same in the configurations"):
            LinearQuantizerConfig.from_dict({"global_config": {}, "module_type_configs": {"Linear": field}})


def test_the_report_has_a_row_for_each_weight_and_activation() -> None:
    quantizer = quantizer_of(net(), weight_dtype="qint4")
    quantizer.prepare((torch.randn(IMAGE),))(torch.randn(4, *IMAGE[1:]))
    report = quantizer.report()
    weights = [name for name, row in report.items() if row["type"] == "weight"]
    assert weights == ["conv1", "conv2", "conv3", "dense1", "dense2"] and len(report) == 11
    assert report["conv2"]["#params"] == 576 and 0 < report["conv2"]["error"] < 0.02 and "qmin" in repr(report)
