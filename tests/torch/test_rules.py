"""Rules of configurations that decide nothing, and tied weights that are asked for two things, are told."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch
from torch import Tensor, nn

from corepress.errors import ConfigError
from corepress.torch import layerwise_compression, palettization, pruning, quantization

# For each optimizer: its configuration, two configurations of a module, and how it is run.
DATA = [torch.randn(8, 32) for _ in range(2)]


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().sum()


def _trained(optimizer, *arguments):
    model = optimizer.prepare(*arguments)
    model(DATA[0]).sum().backward()
    optimizer.step()
    return optimizer.finalize()


METHODS = {
    "PostTrainingPalettizer": (palettization, {"n_bits": 2}, {"n_bits": 4}, lambda o: o.compress()),
    "SKMPalettizer": (palettization, {"n_bits": 2}, {"n_bits": 4}, lambda o: o.compress(DATA, _loss)),
    "PostTrainingQuantizer": (quantization, {}, {"weight_dtype": "int4"}, lambda o: o.compress()),
    "LayerwiseCompressor": (
        layerwise_compression,
        {"algorithm": "gptq"},
        {"algorithm": "gptq", "weight_dtype": "uint4"},
        lambda o: o.compress(DATA),
    ),
    "DKMPalettizer": (
        palettization,
        {"n_bits": 2, "weight_threshold": 0},
        {"n_bits": 4, "weight_threshold": 0},
        _trained,
    ),
    "MagnitudePruner": (pruning, {"target_sparsity": 0.25}, {"target_sparsity": 0.75}, _trained),
    "LinearQuantizer": (quantization, {}, {"weight_dtype": "qint4"}, lambda o: _trained(o, (DATA[0],))),
}


class Net(nn.Module):
    def __init__(self, tied: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.act = nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()
        self.block = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
        if tied:
            self.block[1].weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.act(self.norm(self.first(x))))


def optimizer_of(method: str, model: nn.Module, config: dict, **options):
    package = METHODS[method][0]
    return getattr(package, method)(model, getattr(package, f"{method}Config").from_dict(config), **options)


def run(method: str, model: nn.Module, config: dict, **options) -> nn.Module:
    return METHODS[method][3](optimizer_of(method, model, config, **options))


@pytest.mark.parametrize("method", METHODS)
def test_tied_weights_with_two_configurations_are_refused(method) -> None:
    _, one, other, _ = METHODS[method]
    model = Net(tied=True)
    before = copy.deepcopy(model.state_dict())
    # Of which field of the configurations the message has to speak.
    field = next(iter(other.keys() - one.keys()), next(key for key in other if other[key] != one.get(key)))
    field = field.replace("dtype", "(dtype|n_bits)")
    for config in ({"first": one, "block.1": other}, {"block.1": other, "first": one}):
        told = rf'modules "first" and "block\.1": .*{field}=.* and .*{field}=.* share the weight "first\.weight"'
        with pytest.raises(ConfigError, match=told):
            run(method, model, {"module_name_configs": config})
    with pytest.raises(ConfigError, match=r'modules "first" and "block\.1": none'):
        run(method, model, {"global_config": other, "module_name_configs": {"first": None}})
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("method", METHODS)
def test_tied_weights_with_equal_configurations_stay_tied_and_answer_alike(method) -> None:
    _, _, other, _ = METHODS[method]
    model = Net(tied=True)
    found = run(method, model, {"module_name_configs": {"first": other, "block.1": dict(other), "block.0": other}})
    assert found.first.weight is found.get_submodule("block.1").weight and not torch.equal(
        found.first.weight, model.first.weight
    )
    buffers = [dict(module.named_buffers()) for module in (found.first, found.get_submodule("block.1"))]
    assert buffers[0] and buffers[0].keys() == buffers[1].keys()
    assert all(torch.equal(value, buffers[1][key]) for key, value in buffers[0].items())


def test_weights_in_one_place_of_memory_are_tied_too() -> None:
    model = Net()
    model.block[1].weight.data = model.first.weight.data
    config = {"module_name_configs": {"first": {"n_bits": 2}, "block.1": {"n_bits": 4}}}
    with pytest.raises(ConfigError, match="share the weight"):
        run("PostTrainingPalettizer", model, config)
    found = run("PostTrainingPalettizer", model, {"global_config": {"n_bits": 2}})
    assert torch.equal(found.first.weight, found.get_submodule("block.1").weight)
    luts = [
        dict(module.named_buffers())["_COREML_/weight/lut"] for module in (found.first, found.get_submodule("block.1"))
    ]
    assert torch.equal(*luts) and set(found.first.weight.unique().tolist()) == set(luts[0].flatten().tolist())


def test_a_tied_weight_that_is_to_be_spared_under_a_name_that_is_not_supported() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(50, 32), nn.Linear(32, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids))

    batches = [torch.randint(50, (4, 6)) for _ in range(2)]

    def compress(**levels):
        compressor = optimizer_of("LayerwiseCompressor", Tied(), levels)
        return compressor.compress(batches), compressor.report()

    _, report = compress(module_type_configs={"Linear": {"algorithm": "gptq"}})
    assert set(report) == {"embedding.weight", "head.weight"}
    with pytest.raises(ConfigError, match='"embedding" and "head": none'):
        compress(global_config={"algorithm": "gptq"}, module_name_configs={"embedding": None})


def test_tables_of_a_tied_weight_that_saw_different_calls_become_one() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.block[1](self.first(self.first(x)))

    config = {"global_config": {"n_bits": 2, "weight_threshold": 0, "kmeans_max_iter": 1}}
    found = run("DKMPalettizer", Twice(tied=True), config)
    for module in (found.first, found.get_submodule("block.1")):
        lut = dict(module.named_buffers())["_COREML_/weight/lut"]
        assert set(module.weight.unique().tolist()) <= set(lut.flatten().tolist())


UNUSED = [  # level, key, what is told
    ("module_name_configs", "frist", r'"frist" has no effect: nothing in the model matches it.*"first"'),
    ("module_name_configs", r"blok\.\d", r'nothing in the model matches it.*nearest are: "block\.[01]"'),
    ("module_name_configs", "act", r'it matches "act" \(a ReLU\), which has no weight of its own that \w+ compresses'),
    ("module_name_configs", "block", r'"block" \(a Sequential\).*"block\\\.\.\*" would match what is in it'),
    ("module_name_configs", "fir.*", r'module_name_configs "first" goes before it wherever it matches'),
    ("module_type_configs", "Linaer", r'module_type_configs "Linaer" has no effect.*"Linear"'),
    ("module_type_configs", nn.Conv2d, r'module_type_configs "Conv2d" has no effect: nothing in the model'),
    ("module_type_configs", "ReLU", r'"ReLU" has no effect: it matches "act" \(a ReLU\), which has no weight'),
]


@pytest.mark.parametrize(("level", "key", "told"), UNUSED, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("method", METHODS)
def test_a_rule_that_decides_nothing_is_told(method, level, key, told, caplog) -> None:
    if method == "LinearQuantizer" and key in ("act", "block", "ReLU"):
        pytest.skip("functions are quantized too, and the name of a module counts for all that is in it")
    _, one, other, _ = METHODS[method]
    levels = {"global_config": one, "module_name_configs": {"first": one}, "module_type_configs": {}}
    levels[level] |= {key: other}
    refused = method == "LayerwiseCompressor" and key in ("frist", r"blok\.\d", "act", "block", "ReLU")
    with caplog.at_level(logging.WARNING):
        if refused:  # an error as ever, with other words but for names
            with pytest.raises(ConfigError, match=told if key in ("frist", r"blok\.\d") else "be compressed layer by"):
                run(method, Net(), levels)
            return
        run(method, Net(), levels)
    (message,) = [record.message for record in caplog.records if "has no effect" in record.message]
    assert re.search(told, message)
    before = Net()
    with pytest.raises(ConfigError, match=told):
        run(method, before, levels, strict=True)
    assert all(torch.equal(value, Net().state_dict()[key]) for key, value in before.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_rules_that_decide_something_or_spare_what_is_spared_anyway_are_not_told(method, caplog) -> None:
    _, one, other, _ = METHODS[method]
    levels = {
        "global_config": one,
        "module_name_configs": {"first": other, r"block\.\d": one, "act": None, "norm": None},
    }
    with caplog.at_level(logging.WARNING):
        run(method, Net(), levels, strict=True)
    assert not [record for record in caplog.records if "no effect" in record.message]


@pytest.mark.parametrize("method", ["PostTrainingPalettizer", "DKMPalettizer", "MagnitudePruner"])
def test_the_defaults_name_kinds_that_a_model_need_not_have(method, caplog) -> None:
    package = METHODS[method][0]
    optimizer = getattr(package, method)(Net(), strict=True)
    with caplog.at_level(logging.WARNING):
        METHODS[method][3](optimizer)
    assert "no effect" not in caplog.text


def test_a_compression_of_nothing_is_told(caplog) -> None:
    run("PostTrainingPalettizer", nn.Sequential(nn.ReLU()), {})
    assert "no weight of a kind that PostTrainingPalettizer compresses" in caplog.text
    run("PostTrainingPalettizer", Net(), {"global_config": {"n_bits": None}})
    assert "leaves all 3 weights alone" in caplog.text


def test_functions_of_a_graph_are_types(caplog) -> None:
    class Adding(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(super().forward(x), x)

    def quantize(kind):
        config = {"module_type_configs": {kind: {"activation_dtype": "float32"}}}
        with caplog.at_level(logging.WARNING):
            optimizer_of("LinearQuantizer", Adding(), {"global_config": {}} | config).prepare((DATA[0],))

    quantize("torch.add")
    assert not caplog.records
    quantize("torch.cat")
    assert 'module_type_configs "cat" has no effect' in caplog.text and '"add"' in caplog.text
