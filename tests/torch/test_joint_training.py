"""A pruned model that is quantized or palettized while it is trained: zeros stay, and Core ML gets the joint forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import corepress
from corepress.runtime import load
from corepress.torch.metadata import read_weight
from corepress.torch.palettization import DKMPalettizer, DKMPalettizerConfig
from corepress.torch.parameters import Parameter, parameters
from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from corepress.weights import Palettized, Quantized, Sparse, decompress
from tests.torch.test_conversion import convert

pytestmark = pytest.mark.usefixtures("one_thread")

SPARSITY = 0.75
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Convolutions with a batch norm to be folded and without, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.dense = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.dense(F.relu(self.conv2(x)).flatten(1))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def pruner_of(model: nn.Module, **options: Any) -> MagnitudePruner:
    options = options or {"global_config": {"target_sparsity": SPARSITY, "scheduler": {"update_steps": [1, 2, 4]}}}
    return MagnitudePruner(model, MagnitudePrunerConfig.from_dict(options))


def quantizer_of(model: nn.Module, **options: Any) -> LinearQuantizer:
    options = {"milestones": [0, 1, 6, 6], **options}
    return LinearQuantizer(model, LinearQuantizerConfig.from_dict({"global_config": options}))


def palettizer_of(model: nn.Module, **options: Any) -> DKMPalettizer:
    return DKMPalettizer(model, DKMPalettizerConfig.from_dict({"global_config": {"weight_threshold": 0, **options}}))


def train(model: nn.Module, methods: list[Any], steps: int = 8) -> None:
    # Weight decay and momentum would move zeros that only lack a gradient.
    adam = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    random = torch.Generator().manual_seed(2)
    for _ in range(steps):
        adam.zero_grad()
        x = torch.randn(16, 1, 8, 8, generator=random)
        (model(x) - x[:, 0, 0, :1]).square().mean().backward()
        adam.step()
        for method in methods:
            method.step()


def prepare(method: Any) -> nn.Module:
    quantizes = isinstance(method, LinearQuantizer)
    return method.prepare((X,), inplace=True) if quantizes else method.prepare(inplace=True)


def jointly(make: Any, order: str) -> tuple[nn.Module, nn.Module, dict[str, np.ndarray]]:
    """The trained model, its finalized form, and where a finished pruning had left values.

    `order`: "after": the method is prepared when pruning is finished; "second", "first": both work at once.
    """
    model: nn.Module = net()
    if order == "after":
        pruner = pruner_of(model)
        train(pruner.prepare(inplace=True), [pruner])
        model = pruner.finalize(inplace=True)
        masks = {each.key: each.value.detach().numpy() != 0 for each in parameters(model)}
        method = make(model)
        trained = prepare(method)
        train(trained, [method])
        return trained, method.finalize(), masks
    if order == "second":
        pruner = pruner_of(model)
        method = make(prepare(pruner))
        trained = prepare(method)
    else:
        method = make(model)
        trained = prepare(method)
        pruner = pruner_of(trained)
        prepare(pruner)
    train(trained, [method, pruner])
    return trained, pruner.finalize(method.finalize()), {}


METHODS = {
    "W8A8": (quantizer_of, {}, Quantized),
    "W4A8, affine": (quantizer_of, {"weight_dtype": "quint4", "quantization_scheme": "affine"}, Quantized),
    "W4, learnable": (
        quantizer_of,
        {"weight_dtype": "qint4", "activation_dtype": "float32", "algorithm": "learnable"},
        Quantized,
    ),
    "2 bits": (palettizer_of, {"n_bits": 2}, Palettized),
    "1 bit": (palettizer_of, {"n_bits": 1}, Palettized),
}
SLOW = ("W4, learnable", "1 bit")  # not much that others don't tell


def forms_of(model: nn.Module) -> dict[str, tuple[Parameter, Any]]:
    return {each.key: (each, read_weight(each)) for each in parameters(model)}


@pytest.mark.parametrize("order", ["after", "second", "first"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS])
def test_zeros_stay_and_the_package_has_joint_forms(name: str, order: str, tmp_path: Path) -> None:
    make, options, kind = METHODS[name]
    trained, finished, masks = jointly(lambda model: make(model, **options), order)
    found = forms_of(finished)
    assert set(found) == {"conv1.weight", "conv2.weight", "dense.weight"}
    for key, (parameter, form) in found.items():
        value = parameter.value.detach().numpy()
        assert isinstance(form, Sparse) and isinstance(form.values, kind), key
        assert np.array_equal(decompress(form), value)
        assert SPARSITY <= (value == 0).mean() < 1
        if masks:
            assert not value[~masks[key]].any()
    trained.eval()
    with torch.no_grad():
        expected, seen = finished(X), trained(X)
    scale = float(expected.abs().max())
    # A rounding may fall to the other side where a batch norm is folded in another order.
    assert float((expected - seen).abs().max()) < (0.03 * scale if kind is Quantized else 1e-5)

    convert(finished, X, "iOS18", "trace", tmp_path / "model.mlpackage")
    package = corepress.load(tmp_path / "model.mlpackage")
    stored = {weight.dense().tobytes(): weight.read() for weight in package.weights()}
    for key, (parameter, _) in found.items():
        form = stored[parameter.value.detach().numpy().tobytes()]
        assert isinstance(form, Sparse) and isinstance(form.values, kind), key
    (answer,) = load(package).predict({"x": X.numpy()}).values()
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4 if kind is Palettized else 0.03 * scale)


def test_a_pruner_knows_the_layers_of_a_prepared_model_by_their_own_names() -> None:
    model = prepare(quantizer_of(net()))
    prepare(pruner_of(model, module_name_configs={"conv2": {}}, module_type_configs={"Linear": {}}))
    pruned = [float((model.get_submodule(name).weight == 0).float().mean()) for name in ("conv1", "conv2", "dense")]
    assert pruned == [0, 0, 0]  # until the first step
