"""`compress(checkpoint_dir=)`: a run goes on only if it is the same run, to the byte."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corepress import version
from corepress.errors import ConfigError, CorepressError
from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig, fingerprint

GPTQ4 = {"global_config": {"algorithm": "gptq", "weight_dtype": "uint4"}}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)).eval()


def data(count: int = 3, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(8, 16) for _ in range(count)]


def run(folder, model=None, batches=None, config=GPTQ4) -> nn.Module:
    compressor = LayerwiseCompressor(model or net(), LayerwiseCompressorConfig.from_dict(config))
    return compressor.compress(data() if batches is None else batches, checkpoint_dir=folder)


def permuted() -> nn.Module:
    model = net()
    with torch.no_grad():
        order = torch.arange(24).flip(0)
        model[0].weight.copy_(model[0].weight[order])
        model[0].bias.copy_(model[0].bias[order])
        model[2].weight.copy_(model[2].weight[:, order])
    return model


def other_activation() -> nn.Module:
    model = net()
    model[1] = nn.GELU()
    return model


def moved_buffer() -> nn.Module:
    model = net()
    model[1].register_buffer("offset", torch.ones(1), persistent=False)
    return model


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("the calibration data or their order", {"batches": data(seed=2)}),
        ("the calibration data or their order", {"batches": data()[::-1]}),
        ("the calibration data or their order", {"batches": data(2)}),
        ("the calibration data or their order", {"batches": [batch.double() for batch in data()]}),
        ("the weights of the model", {"model": permuted()}),
        ("the weights of the model", {"model": moved_buffer()}),
        ("the modules of the model", {"model": other_activation()}),
        ("the configuration", {"config": GPTQ4 | {"match_original": True}}),
        ("the configuration", {"config": GPTQ4 | {"layers": ["0"]}}),
        ("the weights of the model and the calibration data", {"model": permuted(), "batches": data(2)}),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(what, arguments, tmp_path) -> None:
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CorepressError, match=rf"stage-0000\.pt.*differs in {what}"):
        run(tmp_path, **arguments)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("package", ["corepress", "PyTorch"])
def test_another_version_is_refused(package, tmp_path, monkeypatch) -> None:
    run(tmp_path)
    monkeypatch.setattr({"corepress": version, "PyTorch": torch}[package], "__version__", "99")
    with pytest.raises(CorepressError, match=f"differs in the version of {package}:"):
        run(tmp_path)


def test_a_file_of_the_first_format_is_refused(tmp_path) -> None:
    torch.save({"run": "0123", "state": {}, "rows": {}, "skipped": {}}, tmp_path / "stage-0000.pt")
    with pytest.raises(CorepressError, match="differs in the version of corepress"):
        run(tmp_path)


def test_the_same_run_is_known_by_an_iterator_and_takes_no_more_of_it_than_it_uses(tmp_path) -> None:
    config = GPTQ4 | {"calibration_nsamples": 3}
    wanted = run(tmp_path, batches=iter(data(5)), config=config)
    given = iter(data(5))
    again = run(tmp_path, batches=given, config=config)
    assert len(list(given)) == 2
    for key, value in wanted.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_scales_of_activations_are_part_of_the_run(tmp_path) -> None:
    config = {"global_config": GPTQ4["global_config"] | {"activation_aware_scale": True}}
    wanted = run(tmp_path, config=config)
    again = run(tmp_path, config=config)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in wanted.state_dict().items())
    with pytest.raises(CorepressError, match="the calibration data"):
        run(tmp_path, batches=data(seed=2), config=config)


@dataclasses.dataclass
class Batch:
    ids: Tensor
    words: list[str]


def test_equal_values_have_equal_digests_and_others_others() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    equal = [
        (x, x.clone()),
        (x.T.contiguous(), x.T),
        ([x, x], [x, x.clone()]),
        (Batch(x, ["a"]), Batch(x.clone(), ["a"])),
        ({"a": [1, None]}, {"a": [1, None]}),
    ]
    for one, other in equal:
        assert fingerprint.of_values([one]) == fingerprint.of_values([other])
    y = x.clone()
    y[1, 2] += 1e-6
    different = [
        x,
        y,
        x.T,
        x.reshape(6),
        x.view(torch.int32),
        x.numpy(),
        x.to("meta"),
        Batch(x, ["a"]),
        Batch(y, ["a"]),
    ]
    different += [Batch(x, ["b"]), (x,), [x, x], {"a": x}, {"b": x}, np.float32(1), x[:0], x.bfloat16(), x > 1]
    assert len({fingerprint.of_values([value]) for value in different}) == len(different)
    assert fingerprint.of_values([x, x]) != fingerprint.of_values([x])
    assert fingerprint.of_text(net()) == fingerprint.of_text(copy.deepcopy(net()))
    assert fingerprint.of_text(lambda: 0) == fingerprint.of_text(lambda: 0)
    with pytest.raises(ConfigError, match="generator"):
        fingerprint.of_values([(i for i in range(3))])


@pytest.mark.slow  # two processes begin anew, each with hashes of its own
def test_a_digest_is_the_same_in_another_process() -> None:
    code = """
import torch
from tests.torch.test_checkpoint import Batch, data, net
from corepress.torch.layerwise_compression import fingerprint
print(fingerprint.of_values([Batch(data()[0], ["a"]), *data()]), fingerprint.of_weights(net()))
"""
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(outputs) == 1 and len(outputs.pop()) > 60
