"""What damaged inputs are given to. Each target makes one input and uses it; an exception that leaves it is a bug."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import corepress.coreml as cto
from corepress import recipe
from corepress.cli.app import app
from corepress.cli.guard import failure_of
from corepress.description import describe
from corepress.errors import CorepressError
from corepress.formats.features import default_function, interface_of
from corepress.formats.mlprogram import Model, load
from corepress.formats.package import find_package, read_spec
from corepress.runtime.samples import read_samples
from tests.fuzzing import messages
from tests.fuzzing.texts import mutate_bytes, mutate_text

STEPS: tuple[Callable[[Model], Model], ...] = (
    lambda model: cto.linear_quantize_weights(
        model, _config(cto.OpLinearQuantizerConfig(weight_threshold=0)), workers=1
    ),
    lambda model: cto.palettize_weights(
        model, _config(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0)), workers=1
    ),
    lambda model: cto.prune_weights(
        model, _config(cto.OpMagnitudePrunerConfig(0.5, weight_threshold=0)), True, workers=1
    ),
    lambda model: cto.linear_quantize_weights(
        model,
        _config(cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", weight_threshold=0)),
        target="iOS18",
        workers=1,
    ),
    lambda model: cto.decompress_weights(model),
)
CONFIG = """\
config_type: OpPalettizerConfig
global_config: {mode: kmeans, nbits: 4, granularity: per_tensor}
op_type_configs:
  linear: {config_type: OpPalettizerConfig, mode: uniform, nbits: 2}
  gather: null
op_name_configs:
  "dense*": {config_type: OpPalettizerConfig, mode: uniform, nbits: 6}
"""
RECIPE = """\
target: iOS18
steps:
  - prune: {target_sparsity: 0.5}
    ops: {conv: {n_m_ratio: [2, 4]}}
    names: {"*embed*": skip}
  - palettize: {nbits: 4, granularity: per_grouped_channel, group_size: 16}
    names: {"dense*": {nbits: 8, granularity: per_tensor}}
"""


def _config(config: Any) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(config)


class Fuzzer:
    """Seeds, a folder to work in, and the targets; `counts` says how many inputs of each were given, and taken."""

    def __init__(self, packages: list[Path], rng: random.Random):
        self.rng = rng
        self.packages = packages
        self.specs = [read_spec(find_package(path)) for path in packages]
        self.parts = messages.pool(self.specs)
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="fuzzing-", dir=memory if memory.is_dir() else None))
        self.targets = (self.message, self.message, self.message, self.manifest, self.config, self.recipe, self.arrays)
        self.counts: dict[str, list[int]] = {}

    def once(self) -> None:
        """One input for one target. On a bug the input is what lies in the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        target = self.rng.choice(self.targets)
        count = self.counts.setdefault(target.__name__, [0, 0])
        count[0] += 1
        try:
            target()
            count[1] += 1
        except CorepressError as error:
            assert str(error).strip() and "\n" not in str(error).strip(), f"not one sentence: {error}"

    def _package(self) -> tuple[Path, int]:
        """A copy of a random package."""
        number = self.rng.randrange(len(self.packages))
        path = self.folder / "net.mlpackage"
        shutil.copytree(self.packages[number], path)
        return path, number

    def message(self) -> None:
        """A changed program: loaded, described, compressed, saved, reloaded, decompressed; or given to a command."""
        path, number = self._package()
        changed = messages.mutate(self.specs[number], self.parts, self.rng)
        try:
            data = changed.SerializeToString()
        except ValueError:  # a text that is none
            return
        find_package(path).spec.write_bytes(data)
        if self.rng.random() < 0.2:
            self._command(path)
            return
        with contextlib.suppress(CorepressError):
            describe(path)
        model = load(path)
        result = self.rng.choice(STEPS)(model)
        values = [weight.dense() for weight in result.weights()]
        with _no_refusal("what was compressed can't be saved and loaded"):
            saved = result.save(self.folder / "out.mlpackage")
            again = [weight.dense() for weight in saved.weights()]
            assert len(values) == len(again), "weights were lost"
            for one, other in zip(values, again, strict=True):
                assert one.tobytes() == other.tobytes(), "saving changed a value"
            cto.decompress_weights(saved).save(self.folder / "dense.mlpackage")

    def manifest(self) -> None:
        path, _ = self._package()
        text = (path / "Manifest.json").read_text()
        with contextlib.suppress(UnicodeEncodeError):
            (path / "Manifest.json").write_text(mutate_text(text, self.rng))
        if self.rng.random() < 0.3:
            self._command(path)
        else:
            load(path).save(self.folder / "out.mlpackage")

    def config(self) -> None:
        text = self._text("config.yaml", CONFIG)
        if self.rng.random() < 0.3:
            path, _ = self._package()
            self._run("palettize", path, "-o", self.folder / "out.mlpackage", "--config", text)
        else:
            config = cto.OptimizationConfig.from_yaml(text)
            cto.palettize_weights(self.rng.choice(self.packages), config, workers=1)

    def recipe(self) -> None:
        text = self._text("recipe.yaml", RECIPE)
        if self.rng.random() < 0.3:
            path, _ = self._package()
            self._run("compress", path, "-o", self.folder / "out.mlpackage", "--recipe", text)
        else:
            recipe.run(self.rng.choice(self.packages), recipe.load(text))

    def _text(self, name: str, seed: str) -> Path:
        path = self.folder / name
        text = seed if self.rng.random() < 0.7 else yaml.safe_dump(yaml.safe_load(seed))
        path.write_bytes(mutate_text(text, self.rng).encode(errors="replace"))
        return path

    def arrays(self) -> None:
        number = self.rng.randrange(len(self.packages))
        described = self.specs[number].description
        interface = interface_of(described, default_function(described))
        path = self.folder / "x.npz"
        arrays = {feature.name: np.zeros((2, *feature.shape), feature.dtype) for feature in interface.inputs}
        if self.rng.random() < 0.5:
            name = self.rng.choice(list(arrays))
            arrays[self.rng.choice((name, name, "other"))] = self._array(arrays.pop(name))
            np.savez(path, **arrays)
        else:
            np.savez(path, **arrays)
            path.write_bytes(mutate_bytes(path.read_bytes(), self.rng))
        if self.rng.random() < 0.1:
            package = self.packages[number]
            self._run("verify", package, package, "--data", path)
        else:
            list(read_samples(path, interface))

    def _array(self, array: Any) -> Any:
        """Another shape, another type, or numbers that are none."""
        return self.rng.choice(
            (
                array[0],
                array[:0],
                array[..., :1],
                array[None],
                array.reshape(-1),
                np.float64(1),
                np.array(["text"]),
                array.astype(np.complex64),
                array.astype(bool),
                np.full(array.shape, np.nan),
                np.full(array.shape, 1e300),
                array.astype([("a", "f4")]),
                array.astype("datetime64[s]"),
            )
        )

    def _command(self, path: Path) -> None:
        out = self.folder / "out.mlpackage"
        self._run(
            *self.rng.choice(
                (
                    ("info", path, "--all"),
                    ("info", path, "--json"),
                    ("quantize", path, "-o", out, "--weight-threshold", 0),
                    ("palettize", path, "-o", out, "--nbits", 2, "--mode", "uniform"),
                    ("prune", path, "-o", out, "--sparsity", 0.5),
                    ("decompress", path, "-o", out),
                    ("run", path, "--random", "--json"),
                    ("verify", path, path, "--samples", 1),
                )
            )
        )

    def _run(self, *arguments: Any) -> None:
        """A command in this process; a failure that the command line does not know is a bug."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                app([str(argument) for argument in arguments], prog_name="corepress", standalone_mode=False)
            except (KeyboardInterrupt, AssertionError):
                raise
            except BaseException as error:
                failure = failure_of(error.__cause__ if type(error).__name__ == "Carried" else error)
                if failure.kind == "unforeseen":
                    raise
                raise CorepressError(failure.message) from error


@contextlib.contextmanager
def _no_refusal(what: str) -> Iterator[None]:
    try:
        yield
    except CorepressError as error:
        raise AssertionError(f"{what}: {error}") from error
