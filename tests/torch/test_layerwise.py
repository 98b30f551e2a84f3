"""`LayerwiseCompressor`: what it writes converts to the same values, and errs no more than coremltools'."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

from corepress.errors import ConfigError, CorepressError
from corepress.torch import layerwise_compression as ours
from corepress.torch.layerwise_compression import checkpoint as checkpoints
from corepress.torch.layerwise_compression.layout import layout_of, vectors_of
from tests.lazy import lazy

peer = lazy("coremltools.optimize.torch.layerwise_compression")

GPTQ4 = {"algorithm": "gptq", "weight_dtype": "uint4"}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def correlated(count, *shape):
    mixing = torch.randn(shape[-1], shape[-1]) / shape[-1] ** 0.5 + 0.5 * torch.eye(shape[-1])
    return [torch.randn(16, *shape) @ mixing for _ in range(count)]


def compress(model, batches, module_config=GPTQ4, **options):
    options = {"global_config": module_config} | options
    compressor = ours.LayerwiseCompressor(model, ours.LayerwiseCompressorConfig.from_dict(options))
    return compressor.compress(batches), compressor.report()


def buffers(module):
    return {name.split("/")[-1]: value for name, value in module.named_buffers() if name.startswith("_COREML_/weight")}


def layer_error(layer, compressed, batches):
    return sum(float((layer(batch) - compressed(batch)).double().square().sum()) for batch in batches)


CONFIGS = [
    GPTQ4,
    {"algorithm": "gptq"},
    GPTQ4 | {"quantization_scheme": "affine"},
    GPTQ4 | {"granularity": "per_tensor"},
    GPTQ4 | {"block_size": 8, "granularity": "per_block"},
    GPTQ4 | {"use_activation_order_heuristic": True},
    GPTQ4 | {"enable_normal_float": True},
    {"algorithm": "gptq", "weight_dtype": "uint3", "enable_normal_float": True},
    {"algorithm": "sparse_gpt", "weight_dtype": "float32"},
    {"algorithm": "sparse_gpt", "weight_dtype": "float16", "target_sparsity": 0.7},
    {"algorithm": "sparse_gpt", "weight_dtype": "float32", "n_m_ratio": (2, 4)},
    {"algorithm": "sparse_gpt", "weight_dtype": "uint8"},
    {"algorithm": "sparse_gpt", "weight_dtype": "uint4", "enable_normal_float": True},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_errs_no_more_than_coremltools(config, kind) -> None:
    layer = nn.Linear(160, 48) if kind == "linear" else nn.Conv2d(24, 32, 3, padding=1)
    batches = correlated(3, *((160,) if kind == "linear" else (24, 8, 8)))
    if kind == "conv":
        batches = [batch[:4] for batch in batches]
    model = nn.Sequential(layer).eval()
    mine, report = compress(model, batches, config)
    theirs_config = peer.LayerwiseCompressorConfig.from_dict({"global_config": config})
    theirs = peer.LayerwiseCompressor(copy.deepcopy(model), theirs_config).compress(batches, "cpu")
    with torch.no_grad():
        error, other = layer_error(model, mine, batches), layer_error(model, theirs, batches)
    # A value halfway between two levels, or two values that cost alike, may go either way.
    assert error <= other * (1.02 if config["algorithm"] == "sparse_gpt" else 1.002)
    here, there = buffers(mine[0]), buffers(theirs[0])
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert value.shape[:2] == there[name].shape[:2] and value.numel() == there[name].numel()
    assert list(report) == ["0.weight"] and report["0.weight"]["stored_bytes"] < 48 * 160 * 4 * 1.1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.embed = nn.Linear(8, 64)
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        x = self.embed(self.conv(x).flatten(2).transpose(1, 2))
        x = x + (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1) @ self.value(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return x


@pytest.mark.parametrize(
    "config",
    [
        GPTQ4,
        GPTQ4 | {"enable_normal_float": True},
        GPTQ4 | {"block_size": 2, "granularity": "per_block", "quantization_scheme": "affine"},
        {"algorithm": "sparse_gpt", "weight_dtype": "uint8"},
        {"algorithm": "sparse_gpt", "weight_dtype": "uint4", "enable_normal_float": True},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_any_model_converts_to_the_values_of_its_weights(config, tmp_path) -> None:
    import coremltools as ct

    from tests.oracle import peer_weights

    model = Net().eval()
    del model.unused
    batches = [torch.randn(4, 4, 6, 6) for _ in range(4)]
    mine, report = compress(model, batches, config)
    assert len(report) == 7 and not report.skipped
    traced = torch.jit.trace(mine, batches[0])
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=batches[0].shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "net.mlpackage"))
    operations = {
        op.type for op in converted.get_spec().mlProgram.functions["main"].block_specializations["CoreML8"].operations
    }
    assert any(kind.startswith("constexpr_") for kind in operations)
    written = list(peer_weights(tmp_path / "net.mlpackage").values())
    for name, parameter in mine.named_parameters():
        if name.endswith("weight"):
            wanted = parameter.detach().numpy()
            # Of a sparse weight, coremltools drops what is not above 2^-10.
            atol = 2**-10 if config["algorithm"] == "sparse_gpt" else 1e-6
            assert any(w.shape == wanted.shape and np.allclose(w, wanted, atol=atol) for w in written), name


def test_layers_that_read_one_tensor_share_its_hessian(monkeypatch) -> None:
    added = []
    add = ours.GPTQ.add_batch
    monkeypatch.setattr(ours.GPTQ, "add_batch", lambda self, i, o: added.append(self) or add(self, i, o))
    model = Net().eval()
    batches = [torch.randn(4, 4, 6, 6) for _ in range(3)]
    mine, report = compress(model, batches)
    assert len(added) == 3 * 5  # conv, embed, one of query, key and value, two blocks
    assert report.skipped == {"unused.weight": "no sample reaches it"}
    alone, _ = compress(model, batches, None, module_name_configs={"key": ours.ModuleGPTQConfig.from_dict(GPTQ4)})
    assert buffers(alone.key) and not buffers(alone.query) and torch.equal(alone.query.weight, model.query.weight)
    assert buffers(mine.key).keys() == buffers(alone.key).keys()


def test_a_chain_and_the_whole_model_come_to_the_same() -> None:
    chain = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(3)))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = copy.deepcopy(chain)

        def forward(self, x):
            return self.blocks(x)

    batches = correlated(2, 32)
    one, _ = compress(chain, batches)
    two, _ = compress(Wrapped(), batches)
    three, _ = compress(Wrapped(), batches, layers=[r"blocks\.\d"])
    for i in range(3):
        assert torch.equal(one[i][0].weight, two.blocks[i][0].weight)
        assert torch.equal(one[i][0].weight, three.blocks[i][0].weight)


def test_layers_may_be_modules_and_batches_may_name_arguments() -> None:
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 32)
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, ids, mask=None):
            x = self.embedding(ids)
            for block in self.blocks:
                x = block(x, mask=mask)[0]
            return x

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(32, 32)

        def forward(self, x, mask):
            return (self.inner(x) * mask[..., None],)

    model = Masked()
    batches = [{"ids": torch.randint(10, (4, 12)), "mask": (torch.rand(4, 12) > 0.5).float()} for _ in range(3)]
    pairs = [tuple(batch.values()) for batch in batches]
    wanted, _ = compress(model, batches, layers=[r"blocks\.\d"], input_cacher="gpt")
    for layers, given in [(list(model.blocks), batches), (None, batches), (None, pairs)]:
        mine, _ = compress(model, given, layers=layers)
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), wanted.parameters(), strict=True))
        assert model.training and not buffers(model.blocks[0].inner)


@pytest.mark.parametrize("match_original", [False, True])
@pytest.mark.parametrize("sequential", [True, False])
def test_goes_on_where_it_was_killed(sequential, match_original, tmp_path, monkeypatch) -> None:
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4))) if sequential else Net()
    batches = correlated(2, 32) if sequential else [torch.randn(4, 4, 6, 6) for _ in range(2)]
    options = {"match_original": match_original}
    wanted, wanted_report = compress(model, batches, **options)
    config = ours.LayerwiseCompressorConfig.from_dict({"global_config": GPTQ4, **options})
    save, saved = checkpoints.Checkpoint.save, []

    def killed(self, stage, keys, report):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(stage)
        save(self, stage, keys, report)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoint, "save", killed)
        ours.LayerwiseCompressor(model, config).compress(batches, checkpoint_dir=tmp_path)
    assert not any(module._forward_hooks for module in model.modules())
    compressor = ours.LayerwiseCompressor(model, config)
    mine = compressor.compress(batches, checkpoint_dir=tmp_path)
    state = wanted.state_dict()
    assert mine.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in mine.state_dict().items())
    assert compressor.report() == wanted_report
    with pytest.raises(CorepressError, match="differs in the calibration data"):
        ours.LayerwiseCompressor(model, config).compress(batches[:1], checkpoint_dir=tmp_path)
    (tmp_path / "stage-0000.pt").write_bytes(b"torn")
    with pytest.raises(CorepressError, match="damaged"):
        ours.LayerwiseCompressor(model, config).compress(batches, checkpoint_dir=tmp_path)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(6, 8, bias=False), (5, 6)),
        (nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2, bias=False), (2, 6, 20)),
        (nn.Conv2d(6, 8, (3, 2), stride=(1, 2), padding="valid", bias=False), (2, 6, 9, 9)),
        (nn.Conv2d(6, 8, 3, padding="same", padding_mode="reflect", bias=False), (2, 6, 9, 9)),
        (nn.Conv2d(6, 12, 3, groups=3, padding=2, bias=False), (2, 6, 9, 9)),
    ],
    ids=str,
)
def test_a_layer_is_its_matrices_times_its_vectors(layer, shape) -> None:
    inputs = torch.randn(shape)
    _, layout = layout_of(layer)
    products = [part @ layout.matrices(layer.weight).mT for part in vectors_of(layer, layout, inputs)]
    output = layer(inputs).reshape(len(inputs), layout.groups, layout.rows, -1).permute(1, 0, 3, 2)
    torch.testing.assert_close(torch.cat(products, 1), output.reshape(layout.groups, -1, layout.rows))


def test_other_layers_and_shared_and_pruned_weights() -> None:
    class Conv1D(nn.Module):  # as in transformers
        def __init__(self):
            super().__init__()
            self.nf, self.weight = 24, nn.Parameter(torch.randn(32, 24))

        def forward(self, x):
            return x @ self.weight

    model = nn.Sequential(Conv1D(), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 10).half().float())
    model[2].weight = model[1].weight
    batches = correlated(2, 32)
    mine, report = compress(model, batches, {"algorithm": "sparse_gpt", "weight_dtype": "float32"})
    assert len(report) == 4 and mine[2].weight is mine[1].weight
    assert buffers(mine[1]).keys() == buffers(mine[2]).keys()
    assert buffers(compress(model, batches)[0][0])["quantization_scale"].shape == (1, 24)
    zeros = mine[0].weight == 0
    twice, report = compress(mine, batches)
    assert (twice[0].weight[zeros] == 0).all() and not report.skipped
    assert buffers(twice[0])["compression_type"].tolist() == [1, 3]


def test_what_cannot_be_compressed_is_left_alone_and_counted(caplog) -> None:
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level(logging.WARNING):
        mine, report = compress(model, correlated(2, 12), GPTQ4 | {"block_size": 4, "granularity": "per_block"})
    assert list(report) == ["0.weight"]
    assert "block_size 4 doesn't divide its 30" in report.skipped["2.weight"]
    assert "infinities or NaN" in report.skipped["3.weight"]
    assert "inputs hold infinities or NaN" in report.skipped["4.weight"]
    assert len(caplog.records) == 3
    assert all(torch.equal(mine.state_dict()[key], before[key]) for key in ("2.weight", "4.weight"))
    attention = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    _, report = compress(attention, correlated(2, 5, 16))
    assert list(report) == ["0.linear1.weight", "0.linear2.weight"]
    assert report.skipped == {"0.self_attn.out_proj.weight": "no sample reached it"}


def test_bad_input_is_one_sentence_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 8))
    before = copy.deepcopy(model.state_dict())
    batches = correlated(1, 8)
    for options, message in [
        ({"layers": ["nothing"]}, "names no layer"),
        ({"module_name_configs": {"1": GPTQ4}}, "names a LSTM"),
        ({"module_name_configs": {"9": GPTQ4}}, "matches it"),
        ({"module_type_configs": {"LSTM": GPTQ4}}, "names LSTM"),
        ({}, "layer 2 can't take the output of 1"),
    ]:
        with pytest.raises(CorepressError, match=message):
            compress(model, batches, **options)
    with pytest.raises(CorepressError, match="no batch"):
        compress(model, [])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_configurations_are_those_of_coremltools() -> None:
    for name in ("ModuleGPTQConfig", "ModuleSparseGPTConfig"):
        theirs, mine = getattr(peer, name)().as_dict(), getattr(ours, name)().as_dict()
        assert not mine.pop("scale_search")
        assert mine.pop("activation_aware_scale", False) is False
        assert {key: getattr(value, "name", value) for key, value in mine.items()} == {
            key: getattr(value, "name", value) for key, value in theirs.items()
        }
    for bad, message in [
        ({"algorithm": "gptk"}, 'Did you mean "gptq"'),
        ({}, "needs an"),
        ({"algorithm": "gptq", "weight_dtype": "int4"}, "must be one of uint8, uint4"),
        ({"algorithm": "gptq", "enable_normal_float": True}, "uint3"),
        ({"algorithm": "gptq", "blocksize": 3}, "block_size"),
        ({"algorithm": "sparse_gpt", "n_m_ratio": (4, 2)}, "n <= m"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ours.LayerwiseCompressorConfig.from_dict({"global_config": bad})


def test_an_algorithm_of_ones_own_takes_part() -> None:
    from attrs import define

    @ours.LayerwiseCompressionAlgorithmConfig.register("half")
    @define
    class HalfConfig(ours.LayerwiseCompressionAlgorithmConfig):
        algorithm: str = "half"

    @ours.LayerwiseCompressionAlgorithm.register("half")
    class Half(ours.LayerwiseCompressionAlgorithm):
        def __init__(self, layer, config):
            self.layer, self.seen = layer, 0

        def add_batch(self, inp, out):
            self.seen += len(inp)

        def compress(self):
            assert self.seen == 48
            self.layer.weight.data /= 2

        def cleanup(self):
            self.seen = 0

    model = nn.Sequential(nn.Linear(8, 8))
    mine, _ = compress(model, correlated(3, 8), {"algorithm": "half"})
    assert torch.equal(mine[0].weight, model[0].weight / 2)


@pytest.mark.parametrize("seed", range(5))
def test_gptq_of_few_bits_is_ahead_of_coremltools_with_the_same_settings(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    columns = 96
    mixing = torch.randn(columns, columns, generator=random) / columns**0.5 + 0.3 * torch.eye(columns)
    inputs = torch.randn(800, columns, generator=random) @ (mixing * torch.logspace(-1, 1, columns))
    layer = nn.Linear(columns, 48, bias=False)
    layer.weight.data = torch.randn(48, columns, generator=random) * 0.05
    errors = []
    for library in (ours, peer):
        config = library.ModuleGPTQConfig.from_dict({"weight_dtype": "uint3", "block_size": 32})
        small = copy.deepcopy(layer)
        gptq = library.GPTQ(small, config)
        with torch.no_grad():
            gptq.add_batch(inputs, layer(inputs))
            gptq.compress()
            errors.append(float((small(inputs) - layer(inputs)).square().sum()))
    assert errors[0] < 0.9 * errors[1]
