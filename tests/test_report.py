"""The report says what was done, what it cost, and what was left alone and why."""

from __future__ import annotations

import json

import numpy as np

import corepress
import corepress.coreml as cto
from corepress.mlprogram import load


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
    assert corepress.report(again).to_dict()["weights"][0]["snr"] is None


def test_the_report_of_several_steps_compares_with_the_source(package) -> None:
    pruned = cto.prune_weights(package(), cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5)))
    both = cto.linear_quantize_weights(pruned, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()), True)
    worst = corepress.report(both).worst
    assert worst is not None and worst.compression == "sparse+quantized"
    assert worst.snr < min(row.snr for row in corepress.report(pruned).compressed)


def test_an_untouched_model_has_an_empty_report(package) -> None:
    report = corepress.report(load(package()))
    assert not report.compressed and report.ratio == 1.0 and report.worst is None
