"""`LayerwiseCompressorConfig(match_original=True)`: layers make up for the errors of those before them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from corepress.torch import layerwise_compression as ours
from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from tests.torch.test_layerwise import GPTQ4, compress, correlated

COARSE = {
    "gptq": GPTQ4 | {"weight_dtype": "uint3"},
    "sparse_gpt": {"algorithm": "sparse_gpt", "weight_dtype": "float32", "target_sparsity": 0.6},
    "lut_gptq": {"algorithm": "lut_gptq", "n_bits": 2},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Tower(nn.Module):
    """Blocks with residual connections, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(8, 32, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32)) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).mT
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def chain() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(4)), nn.Linear(32, 10))


@torch.no_grad()
def error(model, compressed, batches) -> float:
    return sum(float((model(batch) - compressed(batch)).square().sum()) for batch in batches)


@pytest.mark.parametrize("kind", COARSE)
@pytest.mark.parametrize("make, shape", [(chain, (32,)), (Tower, (8, 12))], ids=["chain", "tower"])
def test_answers_come_nearer_on_samples_that_were_not_seen(kind, make, shape) -> None:
    model = make().eval()
    mixing = torch.randn(shape[-1], shape[-1]) / shape[-1] ** 0.5 + 0.5 * torch.eye(shape[-1])
    batches = [torch.randn(16, *shape) @ mixing for _ in range(48)]
    plain, _ = compress(model, batches[:40], COARSE[kind])
    matched, _ = compress(model, batches[:40], COARSE[kind], match_original=True)
    assert error(model, matched, batches[40:]) < 0.97 * error(model, plain, batches[40:])


def regression(model, matched, batches, before: str, name: str) -> np.ndarray:
    """The weight of a layer that is best behind compressed ones, by NumPy. `before`: the module before it."""
    seen = []
    for each in (model, matched):
        found: list[torch.Tensor] = []
        hook = each.get_submodule(before).register_forward_hook(lambda _, args, out, found=found: found.append(out))
        for batch in batches:
            each(batch)
        hook.remove()
        seen.append(torch.cat(found).detach().numpy())
    (x, y), weight = seen, model.get_submodule(name).weight.detach().numpy()
    damping = 0.1 * np.square(y).sum() / y.shape[1]
    system = np.concatenate([y, np.sqrt(damping) * np.eye(y.shape[1])])
    return np.linalg.lstsq(system, np.concatenate([x @ weight.T, np.sqrt(damping) * weight.T]), rcond=None)[0].T


@pytest.mark.parametrize("whole", [False, True])
def test_layers_behind_compressed_ones_are_regressed_on_the_original_outputs(whole) -> None:
    """The first block is coarse, the two layers of the second are fine: their weights are those of the regression."""
    chain = nn.Sequential(
        nn.Sequential(nn.Linear(16, 12), nn.Tanh()), nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 6))
    ).double()  # fmt: skip

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = chain

        def forward(self, x):
            return self.blocks(x)

    model = (Wrapped() if whole else nn.Sequential(chain[0], chain[1])).eval()
    at = "blocks." if whole else ""
    batches = [batch.double() for batch in correlated(8, 16)]
    names = {f"{at}0.0": COARSE["lut_gptq"], f"{at}1.0": {"algorithm": "gptq"}, f"{at}1.2": {"algorithm": "gptq"}}
    options = {"module_name_configs": names, "match_original": True}
    matched, _ = compress(model, batches, None, **options)
    plain, _ = compress(model, batches, None, **options | {"match_original": False})
    # Before the first layer nothing has changed.
    assert torch.equal(*(each.get_submodule(f"{at}0.0").weight for each in (plain, matched)))
    for before, name in [(f"{at}0", f"{at}1.0"), (f"{at}1.1", f"{at}1.2")]:
        wanted = regression(model, matched, batches, before, name)
        step = np.abs(wanted).max() / 127
        assert np.abs(matched.get_submodule(name).weight.detach().numpy() - wanted).max() < 4 * step
    wanted = regression(model, matched, batches, f"{at}0", f"{at}1.0")
    assert np.abs(plain.get_submodule(f"{at}1.0").weight.detach().numpy() - wanted).max() > 8 * step


def test_a_chain_and_the_whole_model_come_to_the_same() -> None:
    model = chain()[:4]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = copy.deepcopy(model)

        def forward(self, x):
            return self.blocks(x)

    batches = correlated(4, 32)
    one, _ = compress(model, batches, match_original=True)
    two, _ = compress(Wrapped(), batches, match_original=True)
    three, _ = compress(Wrapped(), batches, match_original=True, layers=[r"blocks\.\d"])
    for i in range(4):
        assert torch.equal(one[i][0].weight, two.blocks[i][0].weight)
        assert torch.equal(one[i][0].weight, three.blocks[i][0].weight)


def test_zeros_of_a_pruned_weight_stay() -> None:
    pruner = MagnitudePruner(chain(), MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.5}}))
    pruner.prepare(inplace=True)
    model = pruner.finalize().eval()
    batches = correlated(8, 32)
    matched, report = compress(model, batches, COARSE["gptq"], match_original=True)
    assert not report.skipped and len(report) == 5
    plain, _ = compress(model, batches, COARSE["gptq"])
    assert not torch.equal(plain[3][0].weight, matched[3][0].weight)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            assert (matched.get_parameter(name)[weight == 0] == 0).all()


def test_a_layer_that_is_called_twice_sees_each_original_input() -> None:
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.ModuleList([nn.Linear(16, 16)])  # a block of its own, compressed before the others
            self.shared = nn.Linear(16, 16)

        def forward(self, x):
            return self.shared(torch.tanh(self.shared(torch.tanh(self.first[0](x)))))

    model = Twice().eval()
    batches = correlated(24, 16)
    plain, _ = compress(model, batches, COARSE["lut_gptq"])
    matched, _ = compress(model, batches, COARSE["lut_gptq"], match_original=True)
    assert error(model, matched, batches) < error(model, plain, batches)


def test_float16_and_an_algorithm_without_originals() -> None:
    model = chain().half().eval()
    matched, _ = compress(model, [batch.half() for batch in correlated(4, 32)], match_original=True)
    assert all(value.dtype is torch.float16 and value.isfinite().all() for value in matched.parameters())

    class Own(ours.GPTQ):
        def add_batch(self, inp, out):  # as coremltools calls it
            super().add_batch(inp, out)

    layer = nn.Linear(8, 8)
    own = Own(layer, ours.ModuleGPTQConfig())
    own.add_batch(torch.randn(20, 8), torch.randn(20, 8))
    assert own.compress().shape == (8, 8)
