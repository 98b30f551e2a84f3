"""Every public name has a docstring with an example, and every example runs (docs/reference)."""

from __future__ import annotations

import doctest
import enum
import inspect
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_site import ROOT, found, listed


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that docs/reference/index.md promises."""
    import coremltools as ct
    import numpy as np

    import corepress as cto

    folder = tmp_path_factory.mktemp("given")
    model = shutil.copytree(ROOT / "examples/digits.mlpackage", folder / "model.mlpackage")
    config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
    cto.coreml.palettize_weights(model, config).save(folder / "small.mlpackage")
    np.savez(folder / "samples.npz", image=np.load(ROOT / "examples/digits_test.npz")["images"][:20, None])
    floats = ct.models.datatypes.Array(8)
    builder = ct.models.neural_network.NeuralNetworkBuilder([("x", floats)], [("y", ct.models.datatypes.Array(4))])
    weight = np.random.default_rng(0).standard_normal((4, 8)).astype("f4")
    builder.add_inner_product("dense", weight, None, 8, 4, False, "x", "y")
    ct.models.utils.save_spec(builder.spec, str(folder / "net.mlmodel"))
    return folder


# What a search gives: its examples search first, as that of `corepress.search` does.
LONG = {
    f"corepress.{name}"
    for name in ("Result", *(f"searching.result.{part}" for part in ("Activations", "Chosen", "Point")))
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in listed()]
)
def test_the_examples_of_a_public_name_run(
    name: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = found(name)
    if not callable(thing):  # data, which has no docstring of its own
        return
    if re.search(r"coreai_torch|\.aimodel", documentation(thing)):
        pytest.importorskip("coreai_torch")  # which has no wheel for some systems
    examples = doctest.DocTestParser().get_doctest(documentation(thing), session(), name, None, None)
    assert examples.examples, f"{name} has no example: write one into its docstring, under `Examples:`"
    monkeypatch.chdir(shutil.copytree(given, tmp_path / "folder"))
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", listed())
def test_the_arguments_of_a_public_name_are_described(name: str) -> None:
    thing = found(name)
    inherited = inspect.isclass(thing) and "__init__" not in vars(thing)
    given_by_others = "Attributes:" in documentation(thing) or getattr(thing, "_is_protocol", False)
    if not callable(thing) or inherited or given_by_others or issubclass(type(thing), enum.EnumMeta):
        return
    text = documentation(thing)
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", text + "\n", flags=re.M)
    described = re.findall(r"^    \*?(\w+): ", section[1] if section else "", flags=re.M)
    taken = [name for name in inspect.signature(thing).parameters if name != "self"]
    assert [name for name in described if name not in taken] == [], "the docstring describes what is no argument"
    assert [name for name in taken if not re.search(rf"\b{name}\b", text)] == [], "an argument is not described"


def documentation(thing: Any) -> str:
    """The docstring of a name itself, not of what it derives from."""
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    return inspect.cleandoc(own or "")


def session() -> dict[str, Any]:
    """What docs/reference/index.md lets examples begin with."""
    import numpy as np
    import torch

    import corepress as cto

    return {"np": np, "torch": torch, "cto": cto}
