"""Values that wait on disk beyond a budget of memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.errors import ResourceError
from corepress.runtime import aside, load
from corepress.runtime.aside import Store, Values
from corepress.runtime.walk import walk
from tests import structures
from tests.packages import saved

KINDS = (torch.float32, torch.float16, torch.int32, torch.bool)


def tensor(size: int, kind: torch.dtype, seed: int) -> torch.Tensor:
    found = torch.randn(2, size, 3, generator=torch.Generator().manual_seed(seed)) * 9
    return found.to(kind).transpose(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from([0, 5, 20_000]), st.sampled_from(KINDS), st.booleans()),
        max_size=12,
    ),
    st.sampled_from([0, 300_000, 1 << 30]),
)  # fmt: skip
def test_they_are_a_dictionary(steps: list[Any], budget: int) -> None:
    store = Store(budget)
    values, wanted = Values(store, {"given": tensor(30_000, torch.float32, 99), "word": "ten"}), {}
    wanted |= dict(values)
    for seed, (name, size, kind, leaves) in enumerate(steps):
        if leaves:
            values.pop(name, None)
            wanted.pop(name, None)
        else:
            values[name] = wanted[name] = tensor(size, kind, seed)
        assert set(values) == set(wanted) and ("a" in values) == ("a" in wanted)
    copies = (dict(values), {**values}, values | {}, {name: values[name] for name in values})
    for copy in copies:
        assert copy.keys() == wanted.keys()
        assert all(
            torch.equal(copy[name], value) and copy[name].dtype is value.dtype
            if name != "word"
            else copy[name] == value
            for name, value in wanted.items()
        )


def test_pages_serve_again() -> None:
    store = Store(0)
    values = Values(store, {})
    for number in range(50):
        values["x"] = tensor(20_000 + 100 * number, torch.float32, number)
    assert store._end * aside._PAGE < 2.5 * values["x"].nbytes
    assert torch.equal(values["x"], tensor(24_900, torch.float32, 49))


def test_a_walk_on_disk_is_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_PAGE", 16)
    program = load(structures.classifier(tmp_path), precision="float32")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(4)]
    seen: list[list[Any]] = []
    for budget in (1 << 30, 0):
        monkeypatch.setattr(aside, "BUDGET", budget)
        found: list[Any] = []

        def visit(step: Any, arguments: Any, originals: Any, found: list[Any] = found) -> dict[str, Any]:
            assert len(arguments) == len(originals) == 4
            found += [value for own in (*arguments, *originals) for value in own.values()]
            return {}

        walk(program, samples, visit, originals=samples)
        seen.append([value for value in found if isinstance(value, torch.Tensor)])
    assert len(seen[0]) == len(seen[1]) > 20
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        Values(Store(0), {"x": torch.zeros(100_000)})


_MEASURED = """
import resource, sys
import numpy as np, torch
import corepress
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated
from corepress.runtime import aside

aside.BUDGET = 64 << 20
rng = np.random.default_rng(0)
samples = [{"x": rng.normal(size=(1, 16, 256, 256)).astype(np.float32)} for _ in range(int(sys.argv[2]))]
config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=100))
calibrated.palettize_weights(sys.argv[1], config, samples[:2], held_back=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calibrated.palettize_weights(sys.argv[1], config, samples, held_back=0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


# Each step reads a state of 1 MB.
_STEPS, _ROWS, _WIDTH = 48, 1024, 256
_MEASURED_STATES = """
import resource, sys
import numpy as np, torch
from corepress.runtime import aside, load
from corepress.runtime.walk import walk

aside.BUDGET = 16 << 20
program = load(sys.argv[1], precision="float32")
rng = np.random.default_rng(0)
samples = [
    [{"x": rng.normal(size=(1, 256)).astype(np.float16), "place": np.array([n], np.int32)} for n in range(48)]
    for _ in range(int(sys.argv[2]))
]
visit = lambda step, arguments, originals: {"weight": arguments[0]["weight"]} if step.kind == "linear" else {}
walk(program, samples[:1], visit, originals=samples[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
walk(program, samples, visit, originals=samples)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def cached(path: Path) -> Path:
    """Two layers, each of which writes a row of a cache, and looks at all of it."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    states = [mb.StateTensorSpec((_ROWS, _WIDTH), types.fp16) for _ in range(2)]
    inputs = [mb.TensorSpec((1, _WIDTH), types.fp16), mb.TensorSpec((1,), types.int32)]

    @mb.program(input_specs=[*inputs, *states], opset_version=ct.target.iOS18)
    def program(x, place, first, second):
        for number, rows in enumerate((first, second)):
            weight = (rng.normal(size=(_WIDTH, _WIDTH)) / _WIDTH**0.5).astype(np.float16)
            x = mb.linear(x=x, weight=weight)
            begin = mb.concat(values=[place, np.array([0], np.int32)], axis=0)
            end = mb.concat(values=[mb.add(x=place, y=np.array([1], np.int32)), np.array([_WIDTH], np.int32)], axis=0)
            update = mb.slice_update(x=mb.read_state(input=rows), update=x, begin=begin, end=end)
            after = mb.coreml_update_state(state=rows, value=update)
            seen = mb.reduce_sum(x=mb.slice_by_index(x=after, begin=[0, 0], end=[_STEPS, _WIDTH]), axes=[0])
            x = mb.add(x=x, y=mb.tanh(x=seen), name=f"y{number}")
        return x

    return saved(program, path)


def test_a_walk_of_sequences_on_disk_is_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_PAGE", 64)
    program = load(cached(tmp_path / "cached.mlpackage"), precision="float32")
    rng = np.random.default_rng(0)
    samples = [
        [
            {"x": rng.normal(size=(1, _WIDTH)).astype(np.float16), "place": np.array([place], np.int32)}
            for place in range(5)
        ]
        for _ in range(2)
    ]
    seen: list[list[Any]] = []
    for budget in (1 << 30, 0):
        monkeypatch.setattr(aside, "BUDGET", budget)
        found: list[Any] = []

        def visit(step: Any, arguments: Any, originals: Any, found: list[Any] = found) -> dict[str, Any]:
            found += [value.clone() for own in (*arguments, *originals) for value in own.values()
                      if isinstance(value, torch.Tensor)]  # fmt: skip
            return {"weight": 0.5 * arguments[0]["weight"]} if step.kind == "linear" else {}

        walk(program, samples, visit, originals=samples)
        seen.append(found)
    assert len(seen[0]) == len(seen[1]) > 200
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
    # The states are those of a run: the originals see what it sees.
    sums = [value for value in seen[0] if value.shape == (_STEPS, _WIDTH)]
    whole: list[Any] = []
    for sample in samples:
        program.run_sequence(sample, observe=lambda _, value: whole.append(value.clone()))
    for value in (value for value in whole if value.shape == (_STEPS, _WIDTH)):
        assert any(torch.equal(value, one) for one in sums)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix")
def test_memory_does_not_grow_with_sequences(tmp_path: Path) -> None:
    """Each step of each sequence reads two states of 1 MB, in both programs: 12 sequences of 48 steps, 2 GB in all."""
    path = cached(tmp_path / "cached.mlpackage")
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED_STATES, str(path), "12"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix")
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Each sample makes two values of 4 MB at a time, in both programs: 64 samples, more than 1 GB without a budget."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)

    def body(x: Any) -> Any:
        for number in range(4):
            y = mb.conv(x=x, weight=rng.normal(size=(16, 16, 3, 3)).astype(np.float32) / 12, pad_type="same")
            x = mb.add(x=x, y=mb.relu(x=y), name=f"y{number}")
        return mb.reduce_mean(x=x, axes=[2, 3])

    specs = [mb.TensorSpec((1, 16, 256, 256))]
    model = ct.convert(
        mb.program(input_specs=specs, opset_version=ct.target.iOS18)(body), convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(tmp_path / "net.mlpackage"))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path / "net.mlpackage"), "64"],
        capture_output=True, text=True, check=True,
        # Else glibc keeps some hundred MB of what was freed, which depends on the machine.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
    )  # fmt: skip
    grown = int(done.stdout.split()[-1])
    # Budgets of 64 MB for values and for what vectors count.
    assert grown < 400, f"{grown} MB more"
