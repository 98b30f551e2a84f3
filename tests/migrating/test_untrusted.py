"""Bad input: one sentence, and nothing is written."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.errors import CorepressError, FormatError, UnsupportedError
from corepress.formats.coreai.kept import KEY

pytest.importorskip("coreai_torch")
DIGITS = Path("examples/digits.mlpackage")


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(DIGITS, folder / "digits.mlpackage"))


def refused(package: Path, folder: Path) -> str:
    """The sentence with which a package is refused; nothing may lie beside it then."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CorepressError) as error:
        corepress.migrate(package, folder / "out.aimodel")
    assert sorted(path.name for path in folder.iterdir()) == before
    text = str(error.value)
    assert text and "\n" not in text and "Traceback" not in text
    return text


@pytest.mark.parametrize("file", ["model.mlmodel", "weights/weight.bin"])
@pytest.mark.parametrize(
    "part", [0.5, pytest.param(0, marks=pytest.mark.slow), pytest.param(0.99, marks=pytest.mark.slow)]
)
def test_packages_that_are_cut_off(file: str, part: float, tmp_path: Path) -> None:
    path = copied(tmp_path) / "Data/com.apple.CoreML" / file
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(tmp_path / "digits.mlpackage", tmp_path)


@pytest.mark.slow
def test_bytes_that_are_changed_at_random(tmp_path: Path) -> None:
    """A model that can be read all the same is brought over, or is refused in one sentence."""
    rng = random.Random(0)
    path = copied(tmp_path) / "Data/com.apple.CoreML/model.mlmodel"
    data = path.read_bytes()
    for _ in range(20):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            corepress.migrate(tmp_path / "digits.mlpackage", tmp_path / "out.aimodel", overwrite=True)
        except CorepressError as error:
            assert "\n" not in str(error)
        assert not [left for left in tmp_path.iterdir() if left.name.endswith(".partial")]


def test_what_is_no_network(tmp_path: Path) -> None:
    spec = corepress.load(DIGITS).spec
    model = type(spec)()
    model.specificationVersion = spec.specificationVersion
    model.description = spec.description
    (tmp_path / "none.mlmodel").write_bytes(model.SerializeToString())
    refused(tmp_path / "none.mlmodel", tmp_path)
    refused(tmp_path / "missing.mlpackage", tmp_path)


def test_a_core_ai_model_is_one_already(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    with pytest.raises(UnsupportedError, match="it is a Core AI model already"):
        corepress.migrate(tmp_path / "digits.aimodel", tmp_path / "again.aimodel")
    with pytest.raises(UnsupportedError, match="it is a Core AI model already"):
        corepress.foresee_migration(tmp_path / "digits.aimodel")


def test_metadata_that_were_damaged(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    path = tmp_path / "digits.aimodel/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["creatorDefinedMetadata"][KEY]["main"]["inputs"][0].pop("shape")
    path.write_text(json.dumps(metadata))
    with pytest.raises(FormatError, match=f"under {KEY} is damaged"):
        runtime.load(tmp_path / "digits.aimodel")
    del metadata["creatorDefinedMetadata"][KEY]
    path.write_text(json.dumps(metadata))
    sample = {"image": np.zeros((1, 1, 8, 8), np.float16)}
    assert runtime.load(tmp_path / "digits.aimodel").predict(sample)["logits"].shape == (1, 10)


def distorted(spec: Any, rng: random.Random) -> Any:
    """The program with one to three operations that are not what they were: the protobuf itself is sound."""
    changed = type(spec).FromString(spec.SerializeToString())
    [function] = changed.mlProgram.functions
    operations = function.value.block_specializations[0].value.operations
    names = [output.name for operation in operations for output in operation.outputs]
    types = sorted({operation.type for operation in operations})
    for _ in range(rng.randint(1, 3)):
        operation = rng.choice([one for one in operations if one.type != "const"])
        held, outputs = list(operation.inputs), list(operation.outputs)
        dimensions = [dimension for output in outputs for dimension in output.type.tensorType.dimensions]
        change = rng.randrange(7)
        if change == 0 and held:
            del operation.inputs[rng.randrange(len(held))]
        elif change == 1 and held:
            binding = rng.choice(held).value
            if binding.arguments:
                binding.arguments[0].name = rng.choice([*names, "nothing"])
        elif change == 2:
            operation.type = rng.choice([*types, "nothing", "reshape", "while_loop", "lstm", "constexpr_lut_to_dense"])
        elif change == 3 and dimensions:
            rng.choice(dimensions).constant.size = rng.choice([0, 1, 3, 1 << 40])
        elif change == 4:
            operations.remove(operation)
        elif change == 5 and outputs:
            outputs[0].name = rng.choice(names)
        elif held:
            rng.choice(held).key = rng.choice(["x", "y", "weight", "nothing"])
    return changed


@pytest.mark.parametrize("seeds", [range(25, 30), pytest.param(range(30, 120), marks=pytest.mark.slow)], ids=str)
def test_operations_that_are_not_what_they_were(seeds: range, tmp_path: Path, capfd: Any) -> None:
    """Such a program is brought over, or refused in one sentence, and then nothing is left of it."""
    spec, package = corepress.load(DIGITS).spec, copied(tmp_path)
    for seed in seeds:
        changed = distorted(spec, random.Random(seed))
        (package / "Data/com.apple.CoreML/model.mlmodel").write_bytes(changed.SerializeToString())
        shutil.rmtree(tmp_path / "out.aimodel", ignore_errors=True)
        try:
            corepress.migrate(package, tmp_path / "out.aimodel")
        except CorepressError as error:
            assert "\n" not in str(error) and "Traceback" not in str(error)
            assert [path.name for path in tmp_path.iterdir()] == [package.name]
    assert "Traceback" not in capfd.readouterr().err  # PyTorch says nothing besides
