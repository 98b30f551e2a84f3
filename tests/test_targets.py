"""The table of targets against coremltools' own tables and operations, and what it says of each stored form."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from corepress import targets
from corepress.errors import ConfigError
from corepress.targets import TARGETS, by_opset, by_spec_version, minimum_target, oldest_for, target
from corepress.weights import Palettized, Quantized, Sparse


def lut(bits: int, groups: tuple[int, ...] = (1, 1), dim: int = 1, dtype: Any = np.float16) -> Any:
    return np.zeros((*groups, 2**bits, dim), dtype)


def palettized(table: Any, vector_axis: int | None = None) -> Palettized:
    return Palettized(np.zeros((8, 16), np.uint8), table, vector_axis)


def quantized(scales: tuple[int, ...], offset: Any = None, bits: int = 8, data: Any = None) -> Quantized:
    data = np.zeros((8, 16), np.int8) if data is None else data
    return Quantized(data, np.ones(scales, np.float16), None if offset is None else np.zeros(scales, offset), bits)


MASK = np.ones((8, 16), bool)
DENSE = np.zeros((8, 16), np.float16)
INT8_LUT = Quantized(lut(4, dtype=np.int8), np.ones((1, 1, 1, 1), np.float16))

FORMS: dict[str, tuple[Any, str]] = {
    "dense": (DENSE, "iOS15"),
    **{f"palettized to {bits} bits": (palettized(lut(bits)), "iOS16") for bits in (1, 2, 4, 6, 8)},
    "palettized, float32": (palettized(lut(4, dtype=np.float32)), "iOS16"),
    "palettized to 3 bits": (palettized(lut(3)), "iOS18"),
    "palettized in groups": (palettized(lut(4, (2, 1))), "iOS18"),
    "palettized in blocks": (palettized(lut(4, (2, 4))), "iOS18"),
    "palettized, vectors": (palettized(lut(4, dim=2), 0), "iOS18"),
    "palettized, LUT of bare integers": (palettized(lut(4, dtype=np.uint8)), "iOS18"),
    "palettized, quantized LUT": (palettized(INT8_LUT), "iOS18"),
    "palettized, scaled integers": (quantized((8, 1), data=palettized(lut(4, dtype=np.int8))), "iOS18"),
    "palettized, per-channel scale": (quantized((8, 1), data=palettized(lut(4))), "iOS18"),
    "quantized per tensor": (quantized((1, 1)), "iOS16"),
    "quantized per channel": (quantized((8, 1), np.int8), "iOS16"),
    "quantized per input channel": (quantized((1, 16)), "iOS16"),
    "quantized in blocks": (quantized((8, 4)), "iOS18"),
    "quantized in groups of channels": (quantized((4, 1)), "iOS18"),
    "quantized to 4 bits": (quantized((8, 1), bits=4), "iOS18"),
    "quantized, float offset": (quantized((8, 1), np.float16), "iOS18"),
    "sparse": (Sparse(MASK, DENSE), "iOS16"),
    "sparse, palettized": (Sparse(MASK, palettized(lut(4))), "iOS18"),
    "sparse, quantized": (Sparse(MASK, quantized((8, 1))), "iOS18"),
}


@pytest.mark.parametrize(("form", "name"), FORMS.values(), ids=FORMS)
def test_minimum_target_of_each_form(form: Any, name: str) -> None:
    assert minimum_target(form) is target(name)
    for candidate in TARGETS:
        if candidate.spec_version >= target(name).spec_version:
            targets.check(form, candidate)
        else:
            with pytest.raises(ConfigError, match=f'supported since {name}.*pass target="{name}"'):
                targets.check(form, candidate)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("quantized in blocks", "The per_block quantization is supported since iOS18. Please re-convert your model"),
        ("quantized to 4 bits", "The 4-bit quantization is supported since iOS18"),
        ("palettized in groups", "The per_grouped_channel palettization is supported since iOS18"),
        ("palettized, vectors", "The vector palettization is supported since iOS18"),
        ("palettized to 3 bits", "The 3-bit palettization is supported since iOS18"),
        ("palettized, quantized LUT", "The int8-LUT palettization is supported since iOS18"),
        ("palettized, per-channel scale", "The per_channel_scale palettization is supported since iOS18"),
        ("sparse, quantized", "The joint compression is supported since iOS18"),
    ],
)
def test_messages_name_the_feature(form: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        targets.check(FORMS[form][0], target("iOS16"))
    assert message in str(error.value)
    assert "minimum_deployment_target set to at least ct.target.iOS18" in str(error.value)


def test_each_target_holds_what_older_ones_hold() -> None:
    for older, newer in itertools.pairwise(TARGETS):
        assert older.features <= newer.features
        assert newer.spec_version == older.spec_version + 1


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("iOS18", "iOS18"),
        ("ios18", "iOS18"),
        ("macOS15", "iOS18"),
        ("MACOS13", "iOS16"),
        ("visionOS1", "iOS17"),
        ("watchOS11", "iOS18"),
        ("tvOS26", "iOS26"),
        (6, "iOS15"),
        (10, "iOS26"),
        (TARGETS[1], "iOS16"),
    ],
)
def test_target_by_name_or_version(given: Any, name: str) -> None:
    assert target(given).name == name


@pytest.mark.parametrize("given", ["iOS81", "iOS13", "", 5, 11, None, 9.5])
def test_unknown_targets_are_refused_with_what_is_known(given: Any) -> None:
    with pytest.raises(ConfigError, match="iOS18"):
        target(given)


def test_unknown_target_suggests() -> None:
    with pytest.raises(ConfigError, match='Did you mean "macOS15"'):
        target("macOS-15")


def test_look_ups() -> None:
    assert by_spec_version(7) is by_opset("CoreML6") is target("iOS16")
    assert oldest_for("activation quantization").name == "iOS17"
    assert oldest_for("pruning", "3-bit palettization").name == "iOS18"
    for unknown in (lambda: by_opset("CoreML4"), lambda: by_spec_version(99)):
        with pytest.raises(ConfigError, match="Known are"):
            unknown()
    with pytest.raises(ConfigError, match='nearest that exists is "3-bit palettization"'):
        oldest_for("33-bit palettization")


def test_table_has_a_row_for_each_target() -> None:
    rows = targets.table_rows()
    assert [row[0] for row in rows] == [t.name for t in targets.ALL]
    assert all(len(row) == len(targets.COLUMNS) for row in rows)
    assert len(targets.markdown_table().splitlines()) == len(targets.ALL) + 2


def test_importing_targets_is_cheap() -> None:
    script = "import sys, corepress.targets; print('corepress.kernels' in sys.modules or 'attrs' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_names_versions_and_operation_sets_are_coremltools() -> None:
    ct = pytest.importorskip("coremltools")
    for name, member in ct.target.__members__.items():
        if member >= ct.target.iOS15:
            assert target(name) is target(member) is by_spec_version(int(member))
            assert target(member).opset == ct._OPSET[int(member)]


def test_operations_hold_what_the_table_says() -> None:
    """The numbers of bits and the types are those that coremltools' operations allow."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as old
    from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as new

    def names(op: Any, domain: str) -> set[str]:
        return {types.builtin_to_string(t) for t in op.type_domains[domain]}

    ios16, ios18 = target("iOS16"), target("iOS18")
    indices = {f"uint{bits}" for bits in ios18.palettized_bits}
    assert names(new.constexpr_lut_to_dense, "IndicesT") == indices
    assert names(new.constexpr_blockwise_shift_scale, "SrcT") >= set(ios18.quantized_dtypes)
    assert names(old.constexpr_affine_dequantize, "SrcT") == set(ios16.quantized_dtypes)


def test_the_page_of_the_documentation_is_up_to_date() -> None:
    from tools.write_docs import DOCS, targets_page

    assert (DOCS / "targets.md").read_text(encoding="utf-8") == targets_page(), "run `make docs`"
