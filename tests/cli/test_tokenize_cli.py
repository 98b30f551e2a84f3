"""`corepress tokenize`: what it writes is what --data takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import corepress, fails
from tests.tokenizing.packages import reader, text, tokenizer


@pytest.fixture
def command(tmp_path: Path) -> list[object]:
    model = reader(tmp_path, {"ids": None, "attention_mask": None})
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(f"{text(1, 2)}\n{text(*range(9))}\n")
    (tmp_path / "b.jsonl").write_text(f'{{"text": "{text(3)}"}}\n')
    return ["tokenize", model, "--tokenizer", tmp_path / "tokenizer.json", "-o", tmp_path / "samples.npz"]


def test_texts_become_samples_for_other_commands(command: list[object], tmp_path: Path) -> None:
    done = corepress(*command, tmp_path / "a.txt", tmp_path / "b.jsonl")
    assert "ids 1x8, attention_mask 1x8" in done.stdout
    arrays = np.load(tmp_path / "samples.npz")
    assert arrays["ids"][:, 0].tolist() == [
        [1, 5, 6, 2, 0, 0, 0, 0],
        [1, 4, 5, 6, 7, 8, 9, 2],
        [1, 10, 11, 12, 2, 0, 0, 0],
        [1, 7, 2, 0, 0, 0, 0, 0],
    ]
    done = corepress("verify", command[1], command[1], "--data", tmp_path / "samples.npz")
    assert "4 inputs" in done.stdout or "4 samples" in done.stdout


def test_refusals(command: list[object], tmp_path: Path) -> None:
    assert "no such file" in fails(*command, tmp_path / "none.txt")
    assert "--length 9" in fails(*command, "--length", 9)
    assert ".npz" in fails(*command[:-1], tmp_path / "samples.txt")
    corepress(*command, "--count", 2)
    assert "--overwrite" in fails(*command)
