"""Content that nobody should trust: messages stay short, and reading it takes neither time nor memory without end."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from corepress import recipe
from corepress.coreml import OptimizationConfig
from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.fields import read_yaml, suggestion

SHORT = 900


def laughs(levels: int, merge: bool = False) -> str:
    """Lists (or merged mappings) of nine aliases each, so that 9 ** levels values stand in a few lines."""
    lines = ["a0: &a0 {k: lol}" if merge else "a0: &a0 [lol]"]
    for level in range(1, levels + 1):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{aliases}]}}" if merge else f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


BOMBS = {
    "aliases": laughs(12),
    "merges": laughs(12, merge=True),
    "alias in its own value": "a: &a [*a]",
    "deep lists": "a: " + "[" * 5000,
    "deep mappings": "a: " + "{a: " * 5000,
}
HARMLESS = {
    "long key": "k" * 100_000 + ": 1",
    "long value": "config_type: " + "v" * 100_000,
    "many keys": "\n".join(f"key{number}: 1" for number in range(1000)),
    "large number": "config_type: " + "9" * 10_000,
    "bad date": "config_type: 2001-99-99",
    "list": "config_type: [OpPalettizerConfig]",
    "control characters": 'config_type: "\\e[31m\\0"',
    "nothing": "",
}


@pytest.mark.parametrize("text", [*BOMBS.values(), *HARMLESS.values()], ids=[*BOMBS, *HARMLESS])
def test_configurations_and_recipes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    for read in (OptimizationConfig.from_yaml, recipe.load):
        with pytest.raises(ConfigError) as raised:
            read(path)
        assert 0 < len(str(raised.value)) < SHORT and str(raised.value).isprintable()


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_where_they_are_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"aliases stand for|not valid YAML|nested too deeply"):
        read_yaml(io.StringIO(text))


def test_a_value_that_is_written_once_and_used_often() -> None:
    text = "base: &base {nbits: 4}\nhead: {<<: *base, nbits: 8}\nlist: [*base, *base]\n"
    assert read_yaml(io.StringIO(text)) == {"base": {"nbits": 4}, "head": {"nbits": 8}, "list": [{"nbits": 4}] * 2}
    assert read_yaml(io.StringIO("")) is None


def test_deep_values_inside_of_a_configuration() -> None:
    nested = "[" * 200 + "]" * 200
    with pytest.raises(ConfigError) as raised:
        OptimizationConfig.from_yaml(
            io.StringIO(f"config_type: OpPalettizerConfig\nglobal_config: {{nbits: {nested}}}")
        )
    assert len(str(raised.value)) < SHORT


def test_every_message_is_short_and_one_line() -> None:
    text = str(FormatError("the name " + "\n\x1b" * 100_000 + " is what to do"))
    assert len(text) < SHORT and text.isprintable() and text.startswith("the name") and text.endswith("what to do")


def test_names_in_a_file_of_arrays(tmp_path: Path) -> None:
    samples = pytest.importorskip("corepress.runtime.samples")
    runtime = pytest.importorskip("corepress.runtime")
    program = runtime.load(Path(__file__).parent.parent / "examples/digits.mlpackage")
    path = tmp_path / "names.npz"
    np.savez(path, **{f"{number}\n{'n' * 1000}": np.zeros(1) for number in range(200)})
    with pytest.raises(CorepressError) as raised:
        list(samples.read_samples(path, program.interface))
    assert len(str(raised.value)) < SHORT and str(raised.value).isprintable()


def test_a_suggestion_is_never_what_was_written() -> None:
    assert "nbits" in suggestion("nbit", ["nbits", "mode"])
    assert 'mean "mode"' not in suggestion("mode", ["mode", "nbits"])
    assert suggestion("mode", ["mode", "modes"]) == 'Did you mean "modes"?'
    assert suggestion("x" * 1_000_000, ["nbits"]) == "Known are: nbits."
