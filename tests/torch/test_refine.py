"""A refined module answers better, has the same forms, and converts to the same operations and values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import corepress.torch as cpt
from corepress.engine import Stopped
from corepress.errors import ConfigError
from corepress.torch.metadata import read_weight
from corepress.torch.parameters import parameters
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress
from tests.oracle import peer_weights
from tests.torch.models import METHODS
from tests.torch.test_conversion import convert

GROUPED = {"granularity": "per_grouped_channel", "group_size": 4}
FORMS = {
    "tables": ("palettize", {"n_bits": 2}),
    "groups": ("palettize", {"n_bits": 2} | GROUPED),
    "vectors": ("palettize", {"n_bits": 3, "cluster_dim": 2}),
    "channel scales": ("palettize", {"n_bits": 2, "enable_per_channel_scale": True}),
    "bytes in tables": ("palettize", {"n_bits": 2, "lut_dtype": "int8"}),
    "channels": ("quantize", {"weight_dtype": "int4", "granularity": "per_channel"}),
    "affine": ("quantize", {"weight_dtype": "uint4", "quantization_scheme": "affine"}),
    "blocks": ("quantize", {"weight_dtype": "int4", "granularity": "per_block", "block_size": 8}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.Linear(16, 8)).eval()


def batches(count: int, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 4, 6, 6, generator=random) for _ in range(count)]


def compressed(model: nn.Module, form: str) -> nn.Module:
    method, options = FORMS[form]
    compressor, config = METHODS[method]
    return compressor(model, config.from_dict({"global_config": options})).compress()


def pruned(model: nn.Module) -> nn.Module:
    config = cpt.pruning.MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.6}})
    pruner = cpt.pruning.MagnitudePruner(model, config)
    pruner.prepare(inplace=True)
    pruner.step()
    return pruner.finalize(inplace=True)


def fitted(model: nn.Module, options: dict) -> nn.Module:
    from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig

    config = LayerwiseCompressorConfig.from_dict({"layers": [r"\d+"], "global_config": options})
    return LayerwiseCompressor(model, config).compress(batches(8), "cpu")


def forms(model: nn.Module) -> list[CompressedWeight]:
    found = [read_weight(parameter) for parameter in parameters(model)]
    return [form for form in found if not isinstance(form, np.ndarray)]


def described(form: object) -> object:
    """All of a form that must stay."""
    if isinstance(form, Palettized):
        return "table", form.indices.shape, described(form.lut), form.bits, form.vector_axis
    if isinstance(form, Quantized):
        return "integers", described(form.data), described(form.scale), form.bits, form.offset is None
    if isinstance(form, Sparse):
        return "sparse", form.mask.tobytes(), described(form.values)
    return form.shape, str(form.dtype)


@pytest.mark.parametrize(
    "form",
    [
        "groups",
        "blocks",
        *(pytest.param(name, marks=pytest.mark.slow) for name in FORMS if name not in ("groups", "blocks")),
    ],
)
def test_it_answers_better_and_converts_to_the_same_forms(form, tmp_path):
    model, test = network(), batches(5, seed=1)
    small = compressed(model, form)
    found = cpt.refine(model, small, batches(20), test_data=test, steps=60)
    assert found.after.worst.snr > found.before.worst.snr + 0.3
    assert [described(one) for one in forms(found.model)] == [described(one) for one in forms(small)]
    check_conversion(found.model, small, tmp_path)


def check_conversion(better: nn.Module, small: nn.Module, folder) -> None:
    """coremltools makes of both the same operations, and of the refined one the values that it holds."""
    kinds = []
    for name, module in (("small", small), ("better", better)):
        path = folder / f"{name}.mlpackage"
        convert(module, batches(1)[0][:1], "iOS18", "trace", path)
        kinds.append(operations(path))
        values = peer_weights(path)
    assert kinds[0] == kinds[1] and any("constexpr" in kind for kind in kinds[0])
    mine = sorted(decompress(form).tobytes() for form in forms(better))
    theirs = [np.ascontiguousarray(value).tobytes() for value in values.values()]
    assert all(value in theirs for value in mine)


def operations(path) -> list[str]:
    import corepress
    from corepress.formats.mlprogram.program import nodes

    return [node.type for node in nodes(corepress.load(path).spec)]


@pytest.mark.parametrize("options", [
    {"algorithm": "gptq", "weight_dtype": "uint3"},
    pytest.param({"algorithm": "sparse_gpt", "target_sparsity": 0.6}, marks=pytest.mark.slow),
])  # fmt: skip
def test_what_was_fitted_layer_by_layer_is_refined(options, tmp_path):
    model = network()
    small = fitted(model, options)
    found = cpt.refine(model, small, batches(40), steps=60)
    assert found.improved and found.loss[1] < found.loss[0]
    assert [described(one) for one in forms(found.model)] == [described(one) for one in forms(small)]


def test_zeros_stay_where_they_are():
    model = network()
    small = pruned(network())
    found = cpt.refine(model, small, batches(20), steps=60)
    assert found.after.worst.snr > found.before.worst.snr + 0.3
    for one, other in zip(forms(small), forms(found.model), strict=True):
        assert isinstance(one, Sparse) and isinstance(other, Sparse)
        assert not (other.mask & ~one.mask).any()


class Tied(nn.Module):
    """A table of words that is also the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.last = nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32, bias=False)
        self.last.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.softmax(self.last(self.inner(self.words(tokens))), -1), None


def test_weights_that_are_shared_stay_shared():
    torch.manual_seed(0)
    model = Tied().eval()
    small = compressed(model, "tables")
    samples = [{"tokens": torch.randint(0, 32, (4, 6))} for _ in range(20)]
    found = cpt.refine(model, small, samples, steps=40)
    assert found.improved and torch.equal(found.model.words.weight, found.model.last.weight)
    assert len(found.model.words.weight.unique()) <= 4


def test_the_modules_given_stay_as_they_are():
    model = network()
    small = compressed(model, "tables")
    before = [{name: value.clone() for name, value in one.state_dict().items()} for one in (model, small)]
    cpt.refine(model, small, batches(6), steps=3)
    for one, state in zip((model, small), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
        assert all(parameter.requires_grad for parameter in one.parameters())


def test_what_was_held_back_never_gets_worse(monkeypatch):
    for name in ("LATENT_RATE", "RATE", "LATENT_WAY", "WAY"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", 30.0)
    model = network()
    small = compressed(model, "tables")
    found = cpt.refine(model, small, batches(10), steps=10)
    assert found.loss[1] <= found.loss[0]
    assert found.after.worst.snr >= found.before.worst.snr


def test_it_goes_on_where_it_was_stopped(tmp_path):
    def stop(done, total, name):
        if done == 7:
            raise KeyboardInterrupt

    model = network()
    small = compressed(model, "tables")
    whole = cpt.refine(model, small, batches(10), steps=12)
    with pytest.raises(Stopped):
        cpt.refine(model, small, batches(10), steps=12, resume=tmp_path, progress=stop)
    again = cpt.refine(model, small, batches(10), steps=12, resume=tmp_path)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigError, match="other compressed model"):
        cpt.refine(model, compressed(model, "blocks"), batches(10), steps=12, resume=tmp_path)


def test_what_cannot_be_refined_is_refused():
    model = network()
    small = compressed(model, "tables")
    with pytest.raises(ConfigError, match="no weight of the compressed module is compressed"):
        cpt.refine(model, network(), batches(6))
    with pytest.raises(ConfigError, match="data holds no batch"):
        cpt.refine(model, small, [])
    with pytest.raises(ConfigError, match="not a number"):
        cpt.refine(model, small, [torch.full((1, 4, 6, 6), torch.nan)])
    with pytest.raises(ConfigError, match=r"its 0.weight of shape 16x4x3x3 is not there: is it the same model"):
        cpt.refine(nn.ReLU(), small, batches(6))
    other = nn.Sequential(nn.Conv2d(4, 8, 3))
    with pytest.raises(ConfigError, match="is 8x4x3x3 there"):
        cpt.refine(other, small, batches(6))
    with pytest.raises(ConfigError, match="can't be run on a batch"):
        cpt.refine(model, small, [torch.zeros(1, 3, 6, 6)] * 6)


def test_activations_that_have_no_derivative_are_named():
    from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()).eval()
    config = LinearQuantizerConfig.from_dict({"global_config": {"milestones": [0, 0, 100, 100]}})
    quantizer = LinearQuantizer(model, config)
    prepared = quantizer.prepare((batches(1)[0],))
    quantizer.step()
    prepared(batches(1)[0])
    small = quantizer.finalize()
    with pytest.raises(ConfigError, match=r"convert it, and let corepress\.refine learn the package"):
        cpt.refine(model, small, batches(6))
