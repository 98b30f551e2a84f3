"""Recurrences over sequences of any length stay so: a loop of Core AI's program, as Apple's runtime runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import corepress
from corepress.formats.coreai import library
from tests.migrating.test_shapes import agree, converted

pytest.importorskip("coreai_torch")


class Tagger(nn.Module):
    """What a recurrence says of each word, and its last state."""

    def __init__(self, kind: type[nn.Module], both: bool) -> None:
        super().__init__()
        self.layer = kind(8, 16, batch_first=True, bidirectional=both)  # type: ignore[call-arg]
        self.out = nn.Linear(32 if both else 16, 4)

    def forward(self, x):
        found, _ = self.layer(x)
        return self.out(found)


@pytest.mark.parametrize(
    ("kind", "both"),
    [
        (nn.LSTM, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((nn.LSTM, True), (nn.RNN, False))),
    ],
)
def test_any_length(kind: type[nn.Module], both: bool, tmp_path: Path) -> None:
    import coremltools as ct

    inputs = [ct.TensorType("x", (1, ct.RangeDim(1, 40, 6), 8))]
    package = converted(Tagger(kind, both), (torch.zeros(1, 6, 8),), inputs, tmp_path / "net.mlpackage")
    assert corepress.migrate(package, tmp_path / "net.aimodel").notes == ()
    kinds = [one.name for one in library.operations(library.load(tmp_path / "net.aimodel"))]
    assert kinds.count("coreai.while") == (2 if both else 1)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, n, 8)).astype("f")} for n in (6, 1, 17, 40)]
    agree(package, tmp_path / "net.aimodel", samples)


@pytest.mark.slow
def test_what_coremltools_makes_a_loop_of_takes_the_default_length(tmp_path: Path) -> None:
    """It writes a GRU as a loop over a list, with which Apple's runtime fails where its length is flexible."""
    import coremltools as ct

    inputs = [ct.TensorType("x", (1, ct.RangeDim(1, 40, 6), 8))]
    package = converted(Tagger(nn.GRU, False), (torch.zeros(1, 6, 8),), inputs, tmp_path / "net.mlpackage")
    [note] = corepress.migrate(package, tmp_path / "net.aimodel").notes
    assert "input 'x' takes 1x6x8 only" in note and "carries a value of a flexible length" in note
    agree(package, tmp_path / "net.aimodel", [{"x": np.random.default_rng(0).standard_normal((1, 6, 8)).astype("f")}])


@pytest.mark.slow
def test_a_gru_of_other_converters_takes_any_length(tmp_path: Path) -> None:
    """As an operation, which coremltools makes of TensorFlow's, it becomes a loop like the others."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import get_new_symbol

    rng = np.random.default_rng(0)
    wide, own = (rng.standard_normal((48, size)).astype("f") * 0.3 for size in (8, 16))

    @mb.program(input_specs=[mb.TensorSpec((get_new_symbol(), 1, 8))], opset_version=ct.target.iOS18)
    def program(x):
        start = np.zeros((1, 16), np.float32)
        return mb.gru(x=x, initial_h=start, weight_ih=wide, weight_hh=own, bias=own[:, 0], output_sequence=True)[0]

    made = ct.convert(
        program, inputs=[ct.TensorType("x", (ct.RangeDim(1, 40, 6), 1, 8))], convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    made.save(str(tmp_path / "net.mlpackage"))
    assert corepress.migrate(tmp_path / "net.mlpackage", tmp_path / "net.aimodel").notes == ()
    samples = [{"x": rng.standard_normal((n, 1, 8)).astype("f")} for n in (6, 1, 17)]
    agree(tmp_path / "net.mlpackage", tmp_path / "net.aimodel", samples)
