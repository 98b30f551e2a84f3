"""What a command did not do, or did beyond what was asked, is said where people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corepress.formats.mlprogram import load
from tests.cli.test_cli import corepress, fails


def compressed(path) -> dict[str, str]:
    return {weight.name: weight.compression for weight in load(path).weights()}


def test_added_constants_are_spared_unless_all_are_asked_for(package, tmp_path) -> None:
    sparing = corepress("quantize", package(), "-o", tmp_path / "a.mlpackage")
    assert compressed(tmp_path / "a.mlpackage")["shift_y_0"] == ""
    assert "no product, look-up or recurrence reads it" in sparing.stdout.replace("\n", " ")
    assert (
        "--all-constants compresses it" in " ".join(sparing.stdout.split()) and "spare_constants" not in sparing.stdout
    )
    everything = corepress("quantize", package(), "-o", tmp_path / "b.mlpackage", "--all-constants")
    assert compressed(tmp_path / "b.mlpackage")["shift_y_0"] == "quantized"
    assert "all-constants" not in everything.stdout + everything.stderr
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - quantize: {}\n")
    corepress("compress", package(), "-o", tmp_path / "c.mlpackage", "--recipe", recipe)
    assert compressed(tmp_path / "c.mlpackage") == compressed(tmp_path / "a.mlpackage")


def test_nothing_compressed(package, tmp_path) -> None:
    options = ["quantize", package(), "--weight-threshold", 10**6]
    done = corepress(*options, "-o", tmp_path / "a.mlpackage")
    assert done.stderr.startswith("corepress: warning: no weight was compressed: the largest of 8, ")
    assert "it has no more than 1000000 elements (--weight-threshold)." in done.stderr
    assert "compressed" in done.stdout and "0 of 8 weights" in done.stdout and "largest left" in done.stdout
    said = json.loads(corepress(*options, "-o", tmp_path / "b.mlpackage", "--json").stdout)
    assert said["compressed"] == 0 and "no weight was compressed" in said["warnings"][0]
    strict = corepress(*options, "-o", tmp_path / "c.mlpackage", "--strict", check=False)
    assert (
        strict.returncode == 1
        and "no weight was compressed" in strict.stderr
        and not (tmp_path / "c.mlpackage").exists()
    )


def test_a_package_that_grew(package, tmp_path) -> None:
    done = corepress("prune", package(), "-o", tmp_path / "a.mlpackage", "--sparsity", 0)
    assert "the model did not become smaller" in done.stderr and "--weight-threshold" in done.stderr


def test_few_bits_without_data_end_with_a_hint(tmp_path) -> None:
    model, images = "examples/digits.mlpackage", "examples/digits_test.npz"

    def hint(command: str, *options: object) -> str:
        done = corepress(command, model, "-o", tmp_path / "out.mlpackage", "--overwrite", "--json", *options)
        return str(json.loads(done.stdout).get("hint", ""))

    assert "--method lut-gptq fits" in hint("palettize", "--nbits", 4)
    assert "--method gptq fits" in hint("quantize", "--dtype", "int4", "--target", "iOS18")
    assert "--method sparsegpt fits" in hint("prune", "--sparsity", 0.5)
    assert (
        hint("palettize", "--nbits", 6) == hint("quantize") == hint("palettize", "--nbits", 2, "--data", images) == ""
    )
    shown = corepress("palettize", model, "-o", tmp_path / "b.mlpackage", "--nbits", 2).stdout
    assert "--data compares them" in " ".join(shown.split())


def test_groups_that_do_not_divide_become_smaller(package, tmp_path) -> None:
    grouped = ["--granularity", "per_grouped_channel", "--group-size", 32]
    done = corepress("palettize", package(), "-o", tmp_path / "a.mlpackage", *grouped)
    assert '"dense_weight_0 (groups of 24)"' in done.stderr
    assert compressed(tmp_path / "a.mlpackage")["dense_weight_0"] == "palettized"
    corepress("palettize", package(), "-o", tmp_path / "b.mlpackage", *grouped, "--no-smaller-group")
    assert compressed(tmp_path / "b.mlpackage")["dense_weight_0"] == ""


def test_a_second_run_counts_what_it_did_itself(package, tmp_path) -> None:
    first, config = tmp_path / "first.mlpackage", tmp_path / "config.yaml"
    corepress("prune", package(), "-o", first, "--sparsity", 0.5)
    config.write_text(
        "config_type: OpLinearQuantizerConfig\nglobal_config: null\nop_type_configs:\n  linear: {}\n  gather: {}\n"
    )
    again = ["quantize", first, "--config", config, "--joint"]
    done = corepress(*again, "-o", tmp_path / "a.mlpackage")
    before = sum(bool(form) for form in compressed(first).values())
    assert "2 of 8 weights" in done.stdout and f"{before - 2} weights, left as they were" in done.stdout
    facts = json.loads(corepress(*again, "-o", tmp_path / "b.mlpackage", "--json").stdout)
    assert (facts["compressed"], facts["compressed_before"]) == (2, before - 2)
    dense = corepress("decompress", first, "-o", tmp_path / "c.mlpackage")
    assert f"{before} of 8 weights" in dense.stdout and "decompressed" in dense.stdout
    idle = corepress("decompress", package(), "-o", tmp_path / "e.mlpackage")
    assert "no weight was decompressed: none of the model is compressed" in idle.stderr
    nothing = corepress("quantize", first, "-o", tmp_path / "d.mlpackage")
    assert "it is sparse already; --joint compresses it further" in " ".join((nothing.stderr + nothing.stdout).split())


def test_a_weight_that_only_the_last_step_left_counts_once(package, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n- prune: {target_sparsity: 0.5}\n- quantize: {}\n  ops: {linear: skip}\n")
    command = ["compress", package(), "--recipe", recipe, "--json"]
    facts = json.loads(corepress(*command, "-o", tmp_path / "a.mlpackage").stdout)
    twice = [row for row in facts["weights"] if row["changed"] and row["skipped"]]
    assert twice and all(row["compression"] == "sparse" for row in twice)
    assert facts["compressed"] + facts["skipped"] == len(facts["weights"])
    shown = corepress(*command[:-1], "-o", tmp_path / "b.mlpackage").stdout
    assert f"left by last step  {len(twice)}: the configuration leaves it alone" in shown


def test_a_rule_that_matches_nothing(package, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("config_type: OpLinearQuantizerConfig\nglobal_config: {}\nop_name_configs: {dens: null}\n")
    options = ["quantize", package(), "--config", config]
    done = corepress(*options, "-o", tmp_path / "a.mlpackage")
    assert (
        'op_name_configs "dens" has no effect: nothing in the model matches it. The nearest are: "dense"' in done.stderr
    )
    strict = corepress(*options, "-o", tmp_path / "b.mlpackage", "--strict", check=False)
    assert strict.returncode == 2 and '"dens" has no effect' in strict.stderr
    assert not (tmp_path / "b.mlpackage").exists()


def test_a_rise_of_the_system(package, tmp_path) -> None:
    done = corepress("quantize", package("iOS15"), "-o", tmp_path / "a.mlpackage")
    assert "iOS15 -> iOS16" in done.stdout and "raised from iOS15 to iOS16" in done.stderr
    facts = json.loads(corepress("quantize", package("iOS15"), "-o", tmp_path / "b.mlpackage", "--json").stdout)
    assert (facts["target_before"], facts["target"]) == ("iOS15", "iOS16") and "raised" in facts["warnings"][0]
    asked = ["quantize", package("iOS15"), "--target", "iOS18", "-o", tmp_path / "c.mlpackage"]
    assert corepress(*asked).stderr == ""
    same = corepress("quantize", package(), "-o", tmp_path / "d.mlpackage")
    assert "->" in same.stdout and "iOS" not in same.stdout


FOREIGN = """steps:
- {palettize: skip, names: {enc.0: {nbits: 2}, enc.1: {nbits: 3}}}
- {quantize: skip, names: {enc.2: {}, enc.3: {}}}
"""


def test_a_recipe_for_another_model_is_one_sentence(package, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(FOREIGN)
    command = ["compress", package(), "--recipe", recipe, "-o", tmp_path / "a.mlpackage"]
    message = fails(*command)
    assert (
        f'{recipe} compresses nothing in {package().name}: it asks for "enc.0", "enc.1", "enc.2" and 1 more' in message
    )
    assert (
        f'where the model has weights such as "{max(load(package()).weights(), key=lambda w: w.stored_bytes).name}"'
        in message
    )
    assert corepress(*command, check=False).returncode == 2 and not (tmp_path / "a.mlpackage").exists()
    recipe.write_text("steps: [{palettize: skip}]")
    assert "it leaves everything alone" in fails(*command)
    # Where one step is for this model, the other is a warning.
    recipe.write_text(FOREIGN.replace("quantize: skip, names: {enc.2: {}, enc.3: {}}", "quantize: {}"))
    done = corepress(*command)
    assert 'names: "enc.0" and 1 more rule have no effect: nothing in the model matches any of them' in done.stderr
    assert done.stderr.count("warning") == 1


@pytest.mark.parametrize(("command", "settings"), [
    ("palettize", "config_type: OpPalettizerConfig\nop_name_configs: {enc.0: {nbits: 4}}"),
    ("quantize", "config_type: OpLinearQuantizerConfig\nop_name_configs: {enc.0: {}, enc.1: {dtype: int4}}"),
    ("prune", "config_type: OpMagnitudePrunerConfig\nop_name_configs: {enc.0: {target_sparsity: 0.5}}"),
])  # fmt: skip
def test_settings_for_another_model_are_one_sentence(package, tmp_path, command: str, settings: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(settings)
    options = [command, package(), "--config", config, "-o", tmp_path / "a.mlpackage"]
    assert "compresses nothing in" in fails(*options) and not (tmp_path / "a.mlpackage").exists()


EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize("command", [
    "info MODEL", "palettize MODEL -o SMALL --nbits 1", "compare MODEL MODEL", "targets", "lint MODEL",
    "verify MODEL MODEL --per-op --samples 1", "run MODEL --random", "info OTHER", "lint OTHER --device ane",
])  # fmt: skip
def test_what_is_no_terminal_gets_no_padding_and_no_colours(command: str, tmp_path) -> None:
    places = {
        "MODEL": EXAMPLES / "digits.mlpackage",
        "OTHER": tmp_path / "1.mlpackage",
        "SMALL": tmp_path / "small.mlpackage",
    }
    if "OTHER" in command:
        corepress("palettize", places["MODEL"], "-o", places["OTHER"], "--nbits", 1)
    done = corepress(*(places.get(word, word) for word in command.split()))
    assert done.stdout and not [line for line in done.stdout.splitlines() if line != line.rstrip()]
    assert "\x1b" not in done.stdout + done.stderr and "1 bits" not in done.stdout


@pytest.mark.slow
def test_settings_of_activations_for_another_model_are_one_sentence(tmp_path) -> None:
    config, recipe = tmp_path / "config.yaml", tmp_path / "recipe.yaml"
    config.write_text("config_type: OpLinearQuantizerConfig\nop_name_configs: {enc.0: {}, enc.1: {}}\n")
    recipe.write_text("steps: [{activations: skip, names: {enc.0: {}, enc.1: {}}}]")
    given = [EXAMPLES / "digits.mlpackage", "-o", tmp_path / "a.mlpackage", "--data", EXAMPLES / "digits_test.npz"]
    for command in (["quantize", "--activations", "--config", config], ["compress", "--recipe", recipe]):
        assert 'compresses nothing in digits.mlpackage: it asks for "enc.0", "enc.1"' in fails(*command, *given)
    assert not (tmp_path / "a.mlpackage").exists()
    # An operation without a weight may be meant.
    recipe.write_text("steps: [{activations: skip, names: {input_11_cast_fp16: {}}}]")
    assert corepress("compress", "--recipe", recipe, *given).returncode == 0
