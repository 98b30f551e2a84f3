"""What is fitted to data has the same bytes, however many threads PyTorch has (docs/recipes.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from corepress.algorithms.fitted.hessian import Hessian, factorize
from corepress.algorithms.fitted.statistics import Statistics
from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
from corepress.torch.layerwise_compression.layout import layout_of

COUNTS = (1, 2, 4)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_each(compute: Callable[[], Tensor]) -> list[Tensor]:
    found = []
    for count in COUNTS:
        torch.set_num_threads(count)
        found.append(compute())
        assert torch.get_num_threads() == count
    return found


def same(found: list[Tensor]) -> bool:
    return all(torch.equal(found[0], other) for other in found)


def data(count: int = 3, columns: int = 256) -> list[Tensor]:
    torch.manual_seed(0)
    mixing = torch.randn(columns, columns) / columns**0.5
    return [torch.randn(200, columns) @ mixing for _ in range(count)]


@pytest.mark.parametrize("columns", [40, 256, 700])
def test_a_factor_does_not_depend_on_threads(columns) -> None:
    torch.set_num_threads(1)
    hessian = Hessian(columns)
    for batch in data(3, columns):
        hessian.add(batch)
    assert same(with_each(lambda: factorize(hessian.matrix[0]).upper))
    assert same(with_each(lambda: factorize(hessian.matrix[0], by_activation=True).upper))


def test_a_regression_does_not_depend_on_threads() -> None:
    torch.set_num_threads(1)
    statistics = Statistics(layout_of(nn.Linear(256, 8))[1])
    for batch in data():
        statistics.add(batch[None], batch[None] * 1.01 + 0.1 * torch.randn_like(batch[None]))
    assert same(with_each(lambda: statistics.correction()))


def products_do_not() -> bool:
    """Whether this machine's products are the same with any number of threads: those of MKL are, but for a few rows."""
    batch, weight = data()[0], torch.randn(192, 256)
    return all(same(with_each(lambda one=one: one @ batch.T @ batch)) for one in (batch, weight))


@pytest.mark.parametrize(
    "config",
    [
        *(
            pytest.param({"algorithm": "gptq", "weight_dtype": "uint4", **blocks}, marks=pytest.mark.slow)
            for blocks in ({}, {"granularity": "per_block", "block_size": 32})
        ),
        {"algorithm": "gptq", "weight_dtype": "uint4", "use_activation_order_heuristic": True, "scale_search": True},
        {"algorithm": "sparse_gpt"},
        {"algorithm": "lut_gptq", "n_bits": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("match_original", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compressed_layers_do_not_depend_on_threads(config, match_original) -> None:
    if not products_do_not():
        pytest.skip("on this machine, products of matrices depend on the number of threads")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(256, 192), nn.ReLU(), nn.Linear(192, 64))
    whole = LayerwiseCompressorConfig.from_dict({"global_config": config, "match_original": match_original})

    def compressed() -> Tensor:
        found = LayerwiseCompressor(model, whole).compress(data())
        return torch.cat([found[layer].weight.detach().flatten() for layer in (0, 2)])

    batches = with_each(lambda: torch.stack(data()))
    assert same(batches) and same(with_each(compressed))
