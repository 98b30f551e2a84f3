"""Two processes that train a prepared model come to what one process comes to on the joined batches.

All is computed in float64: sums are in another order then, which in float32 now and then takes a value over the edge
between two integers or two table entries.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock  # which PyTorch needs
from torch import Tensor, nn

from corepress.errors import CorepressError
from corepress.torch.distributed import whole
from corepress.torch.metadata import PREFIX
from corepress.torch.palettization import DKMPalettizer, DKMPalettizerConfig
from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from tests.process import starting
from tests.torch.models import mlp

STEPS = 6
Method = Any


# What is trained.


def pruner(model: nn.Module, **options: Any) -> list[Method]:
    """From a half to three quarters of the values, at three of the steps."""
    options = {"scheduler": {"update_steps": [1, 3, 5]}, "initial_sparsity": 0.5, "target_sparsity": 0.75, **options}
    method = MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": options}))
    method.prepare(inplace=True)
    return [method]


def palettizer(model: nn.Module, **options: Any) -> list[Method]:
    options = {"n_bits": 2, "weight_threshold": 0, "palett_tau": 0.01, "milestone": 1, **options}
    method = DKMPalettizer(model, DKMPalettizerConfig.from_dict({"global_config": options}))
    method.prepare(inplace=True)
    return [method]


def quantizer(model: nn.Module, **options: Any) -> list[Method]:
    method = LinearQuantizer(model, LinearQuantizerConfig.from_dict({"global_config": options}))
    method.prepare(torch.randn(4, 32, dtype=torch.float64), inplace=True)
    return [method]


def normalized() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (2, 16)), nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 16))


CASES: dict[str, Callable[[nn.Module], list[Method]]] = {
    "pruner": pruner,
    "pruner of blocks": lambda model: pruner(model, block_size=2),
    "palettizer": palettizer,
    "palettizer of groups": lambda model: palettizer(model, granularity="per_grouped_channel", group_size=4),
    "palettizer with noise": lambda model: palettizer(model, palett_mode="gsm"),
    "palettizer with rounded outputs": lambda model: palettizer(model, quantize_activations=True),
    "pruner and palettizer": lambda model: pruner(model) + palettizer(model),
    "quantizer": lambda model: quantizer(model, milestones=[0, 2, 4, 5]),
    "quantizer of batch norms": lambda model: quantizer(model, milestones=[0, 2, 4, 5]),
    "quantizer of learned scales": lambda model: quantizer(model, algorithm="learnable", milestones=[0, 0, 2, 9]),
}
LEARNED = "quantizer of learned scales"
# A batch norm has the statistics of what its own process sees.
SOME = ("pruner and palettizer", "quantizer")
ALIKE = ("quantizer of batch norms",)
OTHERS = tuple(case for case in CASES if case not in SOME)
BOTH = [(case, way) for case in CASES for way in ("copies", "parts") if (case, way) != (LEARNED, "parts")]


def prepared(case: str) -> tuple[nn.Module, list[Method]]:
    methods = CASES[case]((normalized() if case in ALIKE else mlp()).double())
    return methods[-1]._model, methods


def split(model: nn.Module, **options: Any) -> nn.Module:
    """Each layer a part of its own, as in large models, then the rest."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def train(model: nn.Module, methods: list[Method], steps: range, share: slice = slice(None), optimizer=None) -> Any:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)
    for step in steps:
        x = torch.randn(8, 32, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[share]
        optimizer.zero_grad()
        (model(x) - x[:, :16]).square().mean().backward()
        optimizer.step()
        for method in methods:
            method.step()
    return optimizer


def result(model: nn.Module, methods: list[Method], wrapped: nn.Module | None = None) -> dict[str, dict[str, Any]]:
    report = {name: {k: v for k, v in row.items() if k != "device"} for name, row in methods[-1].report().items()}
    return {
        "trained": {name: whole(value).clone() for name, value in model.state_dict().items()},
        "finished": dict(methods[-1].finalize(wrapped).state_dict()),
        "report": report,
    }


# What two processes do, each case after the other, so that they start but once; and once more for what is slow.


def work(rank: int, folder: str, cases: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    for case, way in BOTH:
        if case in cases:
            _save(f"{folder}/{case} {way} {rank}.pt", lambda case=case, way=way: _trained(case, way, rank))
    if cases == SOME:
        for case in SOME:
            _save(f"{folder}/{case} halves {rank}.pt", lambda case=case: _in_bfloat16(case, rank))
            _save(f"{folder}/{case} resumed {rank}.pt", lambda case=case: _resumed(case))
        _save(f"{folder}/errors {rank}.pt", _errors)
    dist.destroy_process_group()


def _save(path: str, function: Callable[[], Any]) -> None:
    try:
        torch.save(function(), path)
    except Exception:
        torch.save(traceback.format_exc(), path)


def _trained(case: str, way: str, rank: int) -> Any:
    torch.manual_seed(1)
    model, methods = prepared(case)
    # Noise is that of the first process.
    torch.manual_seed(2 + rank)
    if way == "copies":  # learned scales are in use from a milestone on
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=case == LEARNED)
    else:
        parallel = split(model)
    train(parallel, methods, range(STEPS), slice(None) if case in ALIKE else slice(rank, None, 2))
    return result(model, methods, parallel)


def _in_bfloat16(case: str, rank: int) -> Any:
    """Trained in float64, and computed in bfloat16, by parts."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    model, methods = prepared(case)
    split(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    train(model, methods, range(STEPS), slice(rank, None, 2))
    return result(model, methods)


def _resumed(case: str) -> Any:
    """The states after a training, and after one that went on from the checkpoint of another."""
    model, methods = prepared(case)
    split(model)
    optimizer = train(model, methods, range(3))
    checkpoint = model.state_dict(), optimizer.state_dict()
    checkpoint = tuple({name: _copied(value) for name, value in state.items()} for state in checkpoint)
    train(model, methods, range(3, STEPS), optimizer=optimizer)

    other, others = prepared(case)
    split(other)
    optimizer = torch.optim.SGD(other.parameters(), 0.05, momentum=0.5)
    other.load_state_dict(checkpoint[0])
    optimizer.load_state_dict(checkpoint[1])
    train(other, others, range(3, STEPS), optimizer=optimizer)
    return [{name: whole(value).clone() for name, value in each.state_dict().items()} for each in (model, other)]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else value


def _errors() -> dict[str, str]:
    from torch.distributed.fsdp import fully_shard

    def learned() -> None:
        model, methods = prepared(LEARNED)
        fully_shard(model, ignored_params={each for each in model.parameters() if not each.ndim})
        methods[0].step()

    def inner() -> None:
        model, _ = prepared("quantizer")
        fully_shard(model.get_submodule("0.layer"))
        model(torch.randn(4, 32, dtype=torch.float64))

    def inplace() -> None:
        model, methods = prepared("pruner")
        split(model)
        methods[0].finalize(inplace=True)

    calls = {"split before": lambda: pruner(split(mlp())), "learned": learned, "inner": inner, "inplace": inplace}
    return {name: _error(call) for name, call in calls.items()}


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except CorepressError as error:
        return str(error)
    return "no error"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[tuple[str, ...]], Path]:
    """Where those of some cases are, made once for all workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def made(cases: tuple[str, ...]) -> Path:
        folder = base / ("some processes" if cases == SOME else "other processes")
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                torch.multiprocessing.start_processes(work, (str(folder), cases), nprocs=2, start_method=starting())
        return folder

    return made


def read(results: Callable[[tuple[str, ...]], Path], name: str, cases: tuple[str, ...] = SOME) -> list[Any]:
    """What both processes gave."""
    found = [torch.load(results(cases) / f"{name} {rank}.pt", weights_only=False) for rank in range(2)]
    for each in found:
        assert not isinstance(each, str), each
    return found


# What must be so.


@pytest.mark.parametrize(
    "case, way", [pytest.param(*each, marks=[] if each[0] in SOME else pytest.mark.slow) for each in BOTH]
)
def test_two_processes_train_as_one(case: str, way: str, results) -> None:
    first, second = read(results, f"{case} {way}", SOME if case in SOME else OTHERS)
    torch.manual_seed(1)
    model, methods = prepared(case)
    torch.manual_seed(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, methods, range(STEPS))
    expected = result(model, methods)
    for kind in ("trained", "finished"):
        assert first[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            assert torch.equal(first[kind][name], second[kind][name]), (kind, name)
            # Tables are float32; so are learned zero points, of about 128, and with them all that is trained.
            tolerance = 1e-4 if case == LEARNED else 1e-9 if value.dtype == torch.float64 else 1e-6
            torch.testing.assert_close(first[kind][name], value, rtol=tolerance, atol=tolerance)
    assert repr(first["report"]) == repr(second["report"])  # in which NaN equals itself
    assert expected["report"].keys() == first["report"].keys() and expected["report"]
    trained = [name for name in before if name.endswith(("original", "layer.weight"))]
    assert trained and not any(torch.equal(before[name], first["trained"][name]) for name in trained)
    assert any(name.split(".")[-1].startswith(f"{PREFIX}/weight") for name in first["finished"])


@pytest.mark.parametrize("case", SOME)
def test_parts_may_compute_in_bfloat16(case: str, results) -> None:
    first, second = read(results, f"{case} halves")
    model, methods = prepared(case)
    train(model, methods, range(STEPS))
    for kind in ("trained", "finished"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]) and value.isfinite().all(), (kind, name)
    for name, value in model.named_parameters():
        found = first["trained"][name]
        assert found.dtype == value.dtype and (found - value).norm() < 0.05 * value.norm(), name


@pytest.mark.parametrize("case", SOME)
def test_a_split_model_resumes_bit_for_bit(case: str, results) -> None:
    for whole_training, resumed in read(results, f"{case} resumed"):
        assert whole_training.keys() == resumed.keys()
        for name, value in whole_training.items():
            assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize(
    "what, message",
    [
        ("split before", "compress or prepare it first, and call fully_shard afterwards"),
        ("learned", "which fully_shard must not split: train with DistributedDataParallel"),
        ("inner", "call fully_shard on a FakeQuantizedLayer"),
        ("inplace", "let finalize() copy it"),
    ],
)
def test_what_can_not_work_says_so(what: str, message: str, results) -> None:
    for errors in read(results, "errors"):
        assert message in errors[what]
