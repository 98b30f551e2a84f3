"""What was compressed, converted by coreai-torch, runs in Apple's runtime with the same answers and stored forms."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import corepress.torch as cpt
from corepress import runtime
from corepress.errors import ConfigError, DataError, OrderError
from corepress.torch.metadata import array_of, described, read_weight
from corepress.weights import Quantized, Sparse
from tests import minilm
from tests.torch.models import KINDS, METHODS, compress, make
from tests.torch.test_conversion import PALETTIZED, QUANTIZED
from tests.torch.test_refine import batches, fitted, network, pruned

coreai_torch = pytest.importorskip("coreai_torch")
ROOT = Path(__file__).parents[2]


class Shown(nn.Module):
    """Besides the answer of a module it gives the values of its weights."""

    def __init__(self, module: nn.Module, weights: list[tuple[str, str]]):
        super().__init__()
        self.module, self._weights = module, weights

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.module(x), *(getattr(self.module.get_submodule(name), key) for name, key in self._weights)


def converted(model: nn.Module, x: Tensor, path: Path) -> str:
    """Write the Core AI model; its program as text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (x,)).run_decompositions(coreai_torch.get_decomp_table())
        made = coreai_torch.TorchConverter().add_exported_program(program, input_names=["x"]).to_coreai()
    made.save_asset(path)
    return str(made)


def rounding(form: Any) -> float:
    """0, but with offsets: Apple's runtime subtracts their product with the scale from that of the integer, each
    rounded."""
    inner = form.values if isinstance(form, Sparse) else form
    if not isinstance(inner, Quantized) or inner.offset is None or not inner.offset.any():
        return 0
    return float(2 * 255 * np.abs(inner.scale).max() * np.finfo(np.float32).eps)


def check(small: nn.Module, x: Tensor, path: Path) -> list[str]:
    """Convert and run a compressed module. The operations of Core AI that decompress or round."""
    slots = list(described(small))
    ready = cpt.for_coreai(small)
    assert not [name for name in ready.state_dict() if "_COREML_" in name]
    text = converted(Shown(ready, [(slot.module_name, slot.name) for slot in slots]), x, path)
    found = list(runtime.load(path).predict({"x": x.numpy()}).values())
    with torch.no_grad():
        answer, again = small(x).numpy(), ready(x).numpy()
    kinds = re.findall(
        r"coreai\.(?:blockwise_|build_)?(lut_to_dense|shift_scale|sparse(?=_with)|quantize|dequantize)", text
    )
    # Where values are rounded on the way, one that lies between two integers may go to either, and so may what follows.
    steps = 2 * 2 / 255 if "quantize" in kinds else 0
    np.testing.assert_allclose(again, answer, rtol=0, atol=steps * np.abs(answer).max())
    np.testing.assert_allclose(found[0], answer, rtol=0, atol=max(steps, 1e-5) * np.abs(answer).max())
    for slot, value in zip(slots, found[1:], strict=True):
        tolerance = rounding(read_weight(slot))
        np.testing.assert_allclose(value, array_of(slot.value), rtol=0, atol=tolerance, err_msg=slot.key)
    return kinds


def several(forms: list[Any], width: int = 64) -> nn.Module:
    """Linear layers in a row, each compressed in another form."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(*(nn.Linear(width, width) for _ in forms)).eval()
    for place, (method, options, _) in enumerate(forms):
        compressor, config = METHODS[method]
        model = compressor(model, config.from_dict({"module_name_configs": {str(place): options}})).compress()
    return model


@pytest.mark.parametrize(("forms", "kind"), [(PALETTIZED, "lut_to_dense"), (QUANTIZED, "shift_scale")])
def test_every_form_stays_what_it_is(forms: list[Any], kind: str, tmp_path: Path) -> None:
    small = several(forms)
    kinds = check(small, torch.randn(4, 64), tmp_path / "m.aimodel")
    assert kinds.count(kind) == len(forms)
    stored = sum(read_weight(slot).nbytes for slot in described(small))
    size = sum(path.stat().st_size for path in (tmp_path / "m.aimodel").iterdir())
    # Beside it come the program and biases; two weights have one bit more for each index of 3; integers have offsets,
    # if only of zero.
    assert size < 1.05 * stored + 2 * 64 * 64 / 8 + len(forms) * (64 * 4 + 1500)
    assert size < 0.5 * len(forms) * 64 * 64 * 4


def skm(model: nn.Module, tmp_path: Path) -> nn.Module:
    config = cpt.palettization.SKMPalettizerConfig.from_dict({"global_config": {"n_bits": 4}})
    method = cpt.palettization.SKMPalettizer(model, config)
    method.compute_sensitivity(batches(2), lambda module, x: module(x).square().sum(), tmp_path / "sensitivity.pt")
    return method.compress(sensitivity_path=tmp_path / "sensitivity.pt")


def trained(model: nn.Module, *methods: Any) -> nn.Module:
    """The model after some steps of training that several methods take part in; the last finishes it."""
    for method in methods:
        model = method.prepare(inplace=True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for x in batches(3):
        model(x).square().mean().backward()
        optimizer.step()
        for method in methods:
            method.step()
    finished: nn.Module = methods[-1].finalize(model, inplace=True)
    return finished.eval()


def dkm(model: nn.Module, *others: Any) -> nn.Module:
    config = cpt.palettization.DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 3, "weight_threshold": 0}})
    return trained(model, *others, cpt.palettization.DKMPalettizer(model, config))


def pruner(model: nn.Module) -> Any:
    options = {"target_sparsity": 0.6, "scheduler": {"update_steps": [1, 2]}}
    return cpt.pruning.MagnitudePruner(model, cpt.pruning.MagnitudePrunerConfig.from_dict({"global_config": options}))


def joint(model: nn.Module) -> nn.Module:
    """Pruned, then with tables for what is left."""
    return compress("palettize", pruned(model), n_bits=4)


def quantized(model: nn.Module, **options: Any) -> nn.Module:
    """Trained with quantization, of activations as well."""
    config = cpt.quantization.LinearQuantizerConfig.from_dict({"global_config": options})
    method = cpt.quantization.LinearQuantizer(model, config)
    prepared = method.prepare((batches(1)[0],))
    for x in batches(3):
        prepared(x)
        method.step()
    return method.finalize(prepared).eval()


SPARSE = {"algorithm": "sparse_gpt", "target_sparsity": 0.6}
METHOD = {
    "SKM": (skm, {"lut_to_dense"}),
    "DKM": (lambda model, _: dkm(model), {"lut_to_dense"}),
    "DKM and pruning": (lambda model, _: dkm(model, pruner(model)), {"sparse", "lut_to_dense"}),
    "pruning": (lambda model, _: pruned(model), {"sparse"}),
    "tables after pruning": (lambda model, _: joint(model), {"sparse", "lut_to_dense"}),
    "GPTQ": (lambda model, _: fitted(model, {"algorithm": "gptq", "weight_dtype": "uint3"}), {"shift_scale"}),
    "SparseGPT": (lambda model, _: fitted(model, SPARSE | {"weight_dtype": "float32"}), {"sparse"}),
    # Integers with offsets are all stored, with a mask beside them.
    "SparseGPT, 8 bits": (lambda model, _: fitted(model, SPARSE), {"shift_scale"}),
    "LUT-GPTQ": (lambda model, _: fitted(model, {"algorithm": "lut_gptq", "n_bits": 4}), {"lut_to_dense"}),
    "QAT": (lambda model, _: quantized(model), {"shift_scale", "quantize", "dequantize"}),
    "QAT, affine": (
        lambda model, _: quantized(model, quantization_scheme="affine"), {"shift_scale", "quantize", "dequantize"}
    ),
    "QAT, 4 bits": (
        lambda model, _: quantized(model, weight_dtype="qint4", activation_dtype="float32"), {"shift_scale"}
    ),
    "QAT, learnable": (
        lambda model, _: quantized(model, algorithm="learnable"), {"shift_scale", "quantize", "dequantize"}
    ),
    "refined": (
        lambda model, _: cpt.refine(model, compress("palettize", model, n_bits=2), batches(4), steps=4).model,
        {"lut_to_dense"},
    ),
}  # fmt: skip


QUICK = ("DKM and pruning", "GPTQ", "QAT")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHOD]
)
def test_what_each_method_makes_converts(name: str, tmp_path: Path) -> None:
    method, expected = METHOD[name]
    kinds = check(method(network(), tmp_path), batches(1)[0], tmp_path / "m.aimodel")
    assert set(kinds) == expected


# coreai-torch 0.4 has no transposed convolution of volumes.
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ConvTranspose3d"])
def test_every_kind_of_module_converts(kind: str, tmp_path: Path) -> None:
    model, x = make(kind)
    ways: list[tuple[str, dict[str, Any], str]] = [
        ("palettize", {"n_bits": 4}, "lut_to_dense"),
        ("palettize", {"n_bits": 2, "granularity": "per_grouped_channel", "group_size": 4}, "lut_to_dense"),
        ("quantize", {"weight_dtype": "int4"}, "shift_scale"),
    ]
    for place, (method, options, operation) in enumerate(ways):
        kinds = check(compress(method, model, **options), x, tmp_path / f"{place}.aimodel")
        assert set(kinds) == {operation}


class Tied(nn.Module):
    """A table of words that is also the last layer, between them a layer with "lut" in its name, by which coreai-torch
    knows tables."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.convolution = nn.Embedding(64, 16), nn.Conv1d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 64, bias=False)
        self.last.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.convolution(self.words(tokens).transpose(1, 2)).transpose(1, 2)
        answer: Tensor = self.last(torch.relu(inner))
        return answer


def test_weights_that_are_shared_are_stored_once_whatever_layers_are_called(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = compress("palettize", Tied().eval(), n_bits=4)
    x = torch.randint(0, 64, (1, 6), dtype=torch.int32)
    # As a Sequential a model goes through all that it holds.
    assert check(nn.Sequential(small), x, tmp_path / "m.aimodel").count("lut_to_dense") == 2
    parts = dict(cpt.for_coreai(small).named_buffers())
    assert sum(name.endswith("indices") for name in parts) == 2
    assert sum(path.stat().st_size for path in (tmp_path / "m.aimodel").iterdir()) < 0.5 * (64 * 16 + 16 * 48) + 8000


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"weight_dtype": "qint4", "activation_dtype": "float32"}, marks=pytest.mark.slow)]
)
def test_what_torchao_makes_converts(options: dict[str, Any], tmp_path: Path) -> None:
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    x = batches(1)[0]
    config = cpt.quantization.LinearQuantizerConfig.from_dict({"global_config": options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = pt2e.prepare_pt2e(
            torch.export.export(network(), (x,)).module(), cpt.quantization.CoreMLQuantizer(config)
        )
        prepared(x)
        quantized = pt2e.convert_pt2e(prepared)
    kinds = check(quantized, x, tmp_path / "m.aimodel")
    expected = {"shift_scale"} if options else {"shift_scale", "quantize", "dequantize"}
    assert set(kinds) == expected and kinds.count("shift_scale") == 4
    assert "0.weight" not in cpt.for_coreai(quantized).state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_types_of_layers_stay(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), batches(1)[0].to(dtype)
    for method, options in (("palettize", {"n_bits": 4}), ("quantize", {"weight_dtype": "int8"})):
        small = compress(method, model, **options)
        ready = cpt.for_coreai(small)
        with torch.no_grad():
            assert ready(x).dtype == dtype and torch.equal(ready(x), small(x))
        torch.export.export(ready, (x,))


@pytest.mark.slow
def test_a_real_encoder_is_as_small_as_its_tables(tmp_path: Path) -> None:
    transformers, source = minilm._libraries()
    bert = transformers.BertModel.from_pretrained(source, attn_implementation="eager", add_pooling_layer=False)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = minilm.Sentence(bert)

        def forward(self, x: Tensor) -> Tensor:
            embedding: Tensor = self.inner(x, torch.ones_like(x))
            return embedding

    small = compress("palettize", Whole().eval(), n_bits=4)
    x = torch.from_numpy(minilm.samples(["What is left of a model when it is small?"])[0]["ids"])
    converted(cpt.for_coreai(small), x, tmp_path / "m.aimodel")
    (answer,) = runtime.load(tmp_path / "m.aimodel").predict({"x": x.numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(answer, small(x).numpy(), rtol=0, atol=1e-5)
    stored = sum(read_weight(slot).nbytes for slot in described(small))
    size = sum(path.stat().st_size for path in (tmp_path / "m.aimodel").iterdir())
    assert size < 1.05 * stored + 500_000


def test_the_module_given_stays_as_it_is() -> None:
    small = compress("quantize", network(), weight_dtype="int8")
    before = {name: value.clone() for name, value in small.state_dict().items()}
    cpt.for_coreai(small)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert small.state_dict().keys() == before.keys()


def test_what_is_not_ready_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing of the module is compressed"):
        cpt.for_coreai(network())
    for method in (pruner(network()), cpt.quantization.LinearQuantizer(network())):
        is_pruner = isinstance(method, cpt.pruning.MagnitudePruner)
        prepared = method.prepare() if is_pruner else method.prepare((batches(1)[0],))
        with pytest.raises(OrderError, match=r"what finalize\(\) returns"):
            cpt.for_coreai(prepared)
    small = compress("palettize", network(), n_bits=4)
    with torch.no_grad():
        small.get_parameter("0.weight").add_(0.1)
    with pytest.raises(DataError, match=r"0\.weight was changed after it was compressed"):
        cpt.for_coreai(small)


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/how_to.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"### Into a Core AI model\n.*?```python\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    x = batches(1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session: dict[str, Any] = {"model": network(), "example": x}
        exec(block, session)
    (answer,) = runtime.load("small.aimodel").predict({"x": x.numpy()}).values()
    expected = session["small"](x).detach().numpy()
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
