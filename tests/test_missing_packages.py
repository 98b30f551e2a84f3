"""Where an optional package is not installed, one sentence names what needs it and the command that installs it.

A package whose entry in `sys.modules` is None can't be imported, as if it was not installed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from corepress.errors import EXTRAS, MissingDependencyError, importing
from tests.process import python
from tests.test_release import PROJECT

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits.mlpackage"
SAMPLES = ROOT / "examples" / "digits_test.npz"
TORCH = "needs PyTorch: pip install 'corepress[torch]'"
PILLOW = "needs Pillow: pip install 'corepress[images]'"
IMPORTS = [
    ("torch", "corepress.runtime", f"running models {TORCH}"),
    ("torch", "corepress.torch", f"corepress.torch {TORCH}"),
    ("torch", f"corepress.verify('{DIGITS}', '{DIGITS}')", f"running models {TORCH}"),
    ("torch", "corepress.coreml.calibrated", f"corepress.coreml.calibrated {TORCH}"),
    ("torch", "corepress.neural_network.quantization_utils.compare_models(1, 2, [{}])", f"running models {TORCH}"),
    (
        "torch",
        "corepress.coreml.experimental.linear_quantize_activations("
        f"'{DIGITS}', corepress.coreml.OptimizationConfig("
        "corepress.coreml.experimental.OpActivationLinearQuantizerConfig()), [{'image': numpy.zeros((1, 1, 28, 28))}])",
        f"calibration, which runs the model, {TORCH}",
    ),
    (
        "coremltools",
        "corepress.coreml.to_coremltools(corepress.coreml.OptimizationConfig())",
        "to_coremltools needs coremltools: pip install 'corepress[convert]'",
    ),
    (
        "safetensors",
        "corepress.torch.palettization.PostTrainingPalettizer(torch.nn.Linear(8, 8)).compress_checkpoint('a', 'b')",
        "a checkpoint in safetensors files needs safetensors: pip install 'corepress[checkpoints]'",
    ),
    (
        "ray",
        f"corepress.search('{DIGITS}', [{{'image': numpy.zeros((1, 1, 8, 8), 'f2')}}], bits=4, ray='auto')",
        "a search on a cluster needs Ray: pip install 'corepress[ray]'",
    ),
    (
        "coreai_torch",
        "corepress.torch.for_coreai(torch.nn.Linear(8, 8))",
        "corepress.torch.for_coreai needs coreai-torch: pip install 'corepress[coreai]'",
    ),
    (
        "torchao",
        "corepress.torch.quantization.CoreMLQuantizer()",
        "CoreMLQuantizer needs torchao: pip install 'corepress[pt2e]'",
    ),
]


@pytest.mark.parametrize(("module", "use", "sentence"), IMPORTS, ids=[f"{one}-{use[:40]}" for one, use, _ in IMPORTS])
def test_from_python(module: str, use: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    older = "sys.modules['torch.ao.quantization.quantizer'] = None\n" if module == "torchao" else ""  # had it, too
    done = python(
        f"import sys\nsys.modules['{module}'] = None\n{older}"
        f"import numpy, corepress\n{'import torch' if 'torch.nn' in use else ''}\n"
        f"try:\n    {use}\nexcept ImportError as error:\n    print(type(error).__name__, error, sep=': ')\n",
        tmp_path,
    )
    assert done.stdout == f"MissingDependencyError: {sentence}\n", done.stderr


@pytest.mark.parametrize(
    ("module", "command", "sentence"),
    [
        *(
            (
                module,
                ["prune", DIGITS, "-o", "out.mlpackage", "--sparsity", "0.5", "--report", "page.html"],
                f"a report needs {name}: pip install 'corepress[report]'",
            )
            for module, name in {"altair": "Altair", "jinja2": "Jinja2", "vl_convert": "vl-convert"}.items()
        ),
        ("torch", ["verify", DIGITS, DIGITS], f"running models {TORCH}"),
        ("torch", ["run", DIGITS], f"running models {TORCH}"),
        ("torch", ["palettize", DIGITS, "-o", "out.mlpackage", "--verify"], f"running models {TORCH}"),
        (
            "torch",
            ["palettize", DIGITS, "-o", "out.mlpackage", "--method", "skm", "--data", SAMPLES],
            f"running models {TORCH}",
        ),
        (
            "PIL",
            ["run", DIGITS, "--input", "image=one.png"],
            f"reading images {PILLOW}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_on_the_command_line(module: str, command: list[object], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"a picture")
    done = python(
        f"import sys\nsys.modules['{module}'] = None\nsys.argv = {['corepress', *map(str, command)]!r}\n"
        "from corepress.cli import main\nmain()",
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"corepress: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_each_extra_is_one_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]
    for _, (_, extra) in EXTRAS.items():
        assert extra in extras
    assert {extra for _, extra in EXTRAS.values()} == set(re.findall(r"\w+", extras["all"][0])) - {"corepress"}


def test_what_is_imported_stands_within_importing() -> None:
    """Or in a folder whose `__init__` is; PyTorch has folders of its own."""
    loose = []
    for file in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = [node for node in ast.walk(tree) if isinstance(node, ast.With | ast.Try)]
        inside = {id(child) for node in guarded for child in ast.walk(node)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if id(node) not in inside and {name.partition(".")[0] for name in names} & (EXTRAS.keys() - {"torch"}):
                loose.append((file.name, node.lineno))
    # Where an object of coremltools was given, it is installed.
    assert {name for name, _ in loose} <= {"interop.py", "model.py"}


def test_the_outermost_use_is_named_and_other_packages_are_left_alone() -> None:
    with (
        pytest.raises(MissingDependencyError, match=r"^the whole needs Pillow"),
        importing("the whole"),
        importing("a part"),
    ):
        raise ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"), importing("the whole"):
        import nothing_of_the_kind  # noqa: F401
