"""The report says what was done, what it cost, and what was left alone and why."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.formats.mlprogram import load
from corepress.reports.rows import Report, between
from tests.process import python
from tests.reports.made import rows as made_rows

ROOT = Path(__file__).parent.parent.parent


def test_rows_and_sums(package, tmp_path) -> None:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(), {"conv": None})
    model = cto.linear_quantize_weights(package(), config)
    report = corepress.report(model)
    source = {w.name: w for w in load(package()).weights()}
    now = {w.name: w for w in model.weights()}
    assert [row.name for row in report.rows] == list(source)
    for row in report.rows:
        exact = source[row.name].dense().astype(np.float64)
        error = exact - now[row.name].dense().astype(np.float64)
        assert row.bytes_before == source[row.name].stored_bytes and row.bytes_after == now[row.name].stored_bytes
        assert bool(row.compression) != bool(row.skipped)
        if row.compression:
            assert np.isclose(row.snr, 10 * np.log10((exact**2).sum() / (error**2).sum()), atol=1e-3)
    skipped = {row.name: row.skipped for row in report.skipped}
    assert "configuration" in skipped["conv_weight_0"] and "rank 2" in skipped["dense_bias_0"]
    saved = model.save(tmp_path / "out.mlpackage")
    assert corepress.report(saved).to_dict()["weights"] == report.to_dict()["weights"]
    assert report.size_after == saved.size() and report.size_before == load(package()).size()
    assert json.loads(report.to_json())["compressed"] == len(report.compressed) == 6
    assert report.table().row_count == len(report.rows)


def test_a_lossless_step_has_infinite_snr(package) -> None:
    int8 = cto.linear_quantize_weights(package(), cto.OptimizationConfig(cto.OpLinearQuantizerConfig()))
    again = cto.decompress_weights(int8)
    again.origin = int8
    assert all(row.snr == np.inf for row in corepress.report(again).rows if row.snr is not None)
    assert corepress.report(again).to_dict()["weights"][0]["snr"] == "inf"


def test_the_report_of_several_steps_compares_with_the_source(package) -> None:
    pruned = cto.prune_weights(package(), cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5)))
    both = cto.linear_quantize_weights(pruned, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()), True)
    worst = corepress.report(both).worst
    assert worst is not None and worst.compression == "sparse+quantized"
    assert worst.snr < min(row.snr for row in corepress.report(pruned).compressed)


def test_an_untouched_model_has_an_empty_report(package) -> None:
    report = corepress.report(load(package()))
    assert not report.compressed and report.ratio == 1.0 and report.worst is None


def test_any_kind_of_model_is_taken(package) -> None:
    path = package("iOS18")
    rows = [row.name for row in corepress.report(path).rows]
    assert (
        rows
        == [row.name for row in corepress.report(str(path)).rows]
        == [row.name for row in corepress.report(load(path)).rows]
    )
    assert not corepress.report(path).compressed and corepress.report(path).ratio == 1
    with pytest.raises(corepress.ConfigError, match="an MLModel is needed, not int"):
        corepress.report(3)


def test_an_mlmodel_that_was_made_here_is_compared_with_what_it_was_made_from(package) -> None:
    coremltools = pytest.importorskip("coremltools")
    given = coremltools.models.MLModel(str(package("iOS18")), skip_model_load=True)
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())
    result = corepress.report(cto.linear_quantize_weights(given, config))
    assert result.to_dict() == corepress.report(cto.linear_quantize_weights(package("iOS18"), config)).to_dict()
    assert result.compressed and result.ratio > 1 and not corepress.report(given).compressed


def test_parts_are_imported_on_first_use() -> None:
    light = "import sys, corepress.coreml; assert not {'torch', 'coremltools'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", light], check=True)
    parts = "c.experimental.linear_quantize_activations.__name__, c.calibrated.palettize_weights.__name__"
    said = python(f"import corepress.coreml as c; print({parts})").stdout
    assert said == "linear_quantize_activations palettize_weights\n"
    without = "import sys; sys.modules['torch'] = None\nimport corepress.coreml as c\n"
    wanted = "corepress.coreml.calibrated needs PyTorch: pip install 'corepress[torch]'\n"
    assert python(f"{without}try: c.calibrated\nexcept Exception as error: print(error)").stdout == wanted


def test_two_models_are_compared_by_the_names_of_their_weights(package, tmp_path) -> None:
    """As one that was made here with the model it was made from, but for the reasons, which only a run knows."""
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(), {"conv": None})
    model = cto.linear_quantize_weights(package(), config)
    saved = model.save(tmp_path / "out.mlpackage")
    known, found = corepress.report(model), between(load(package()), saved)
    for row, other in zip(known.rows, found.rows, strict=True):
        assert replace(row, skipped="") == other
    assert (known.size_before, known.size_after, known.target) == (found.size_before, found.size_after, found.target)
    assert not between(saved, saved).compressed and not between(saved, saved).decompressed


def test_models_of_other_weights_share_no_rows(package) -> None:
    digits = load(ROOT / "examples/digits.mlpackage")
    assert between(load(package()), digits).rows == ()
    assert between(load(package()), digits).size_after == digits.size()


def test_a_report_prints_as_one_line() -> None:
    small = made_rows(8)
    assert str(Report(small, 65_536, 16_384, "iOS16", "iOS18")).startswith("65.54 kB -> 16.38 kB, ratio 4.00, ")
    assert str(Report(small, 65_536, 16_384, "iOS16", "iOS18")).endswith("; 7 of 8 weights compressed")
    assert str(Report((), 10, 10, "iOS16", "iOS16")).endswith("; no weight was changed")
