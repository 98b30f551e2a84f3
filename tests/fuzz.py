"""Fuzz the parser: `make fuzz`, or `python -m tests.fuzz --runs N`.

Each input is a program and a weight file. Loading it, listing its weights, reading them, and, with `--execute`, running
the program must either work or raise a CorepressError; everything else is a bug. With atheris installed the search is
guided by coverage, without it inputs are random mutations of the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["corepress.formats.mlprogram"]):
        import corepress.formats.mlprogram.model
else:
    import corepress.formats.mlprogram.model

import numpy as np

from corepress.errors import CorepressError
from corepress.formats.dtypes import BY_NAME
from corepress.formats.mlprogram.constexpr import write_weight
from corepress.formats.mlprogram.values import set_tensor_type
from corepress.formats.schema import Model as ModelProto
from corepress.formats.schema import ModelDescription
from corepress.weights import Palettized, Quantized, Sparse

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
SPEC = FOLDER / "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = FOLDER / "Data/com.apple.CoreML/weights/weight.bin"
# An allocation beyond this is an attack that got through.
MEMORY = 8 << 30


def prepare() -> None:
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    items = {"a": {"path": "com.apple.CoreML/model.mlmodel"}, "b": {"path": "com.apple.CoreML/weights"}}
    (FOLDER / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items, "rootModelIdentifier": "a"}))


def split(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:3], "little")
    return data[3 : 3 + length], data[3 + length :]


def join(spec: bytes, weights: bytes) -> bytes:
    return len(spec).to_bytes(3, "little") + spec + weights


def check(data: bytes) -> None:
    """One input; raises whatever is a bug."""
    spec, weights = split(data)
    SPEC.write_bytes(spec)
    WEIGHTS.write_bytes(weights)
    try:
        model = corepress.formats.mlprogram.model.load(FOLDER)
        for weight in model.weights():
            value = weight.read()
            if not isinstance(value, np.ndarray) and weight.size < 1 << 20:
                value.decompress()
        model.size()
        if EXECUTE:
            execute(model)
    except CorepressError as error:
        assert "\n" not in str(error).strip(), f"not one sentence: {error}"


EXECUTE = False


def execute(model) -> None:
    """Run a program that loads, on zeros."""
    from corepress import runtime

    program = runtime.load(model)
    features = program.interface.inputs
    if all(feature.kind == "array" and math.prod(feature.shape) < 1 << 16 for feature in features):
        state = program.make_state() if program.interface.states else None
        program.predict({f.name: np.zeros(f.shape, f.dtype) for f in features}, state)


def forms(generation: int):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(4, 8)).astype(np.float16)
    mask = dense > 0
    yield dense
    yield Palettized(rng.integers(0, 4, (4, 8)).astype(np.uint8), rng.normal(size=(1, 1, 4, 1)).astype(np.float16))
    yield Quantized(rng.integers(-8, 8, (4, 8)).astype(np.int8), dense[:, :1], np.ones((4, 1), np.int8))
    yield Sparse(mask, dense)
    if generation == 2:
        grouped = rng.normal(size=(2, 1, 8, 1)).astype(np.float16)
        indices = rng.integers(0, 8, (4, 8)).astype(np.uint8)
        int4 = Quantized(rng.integers(-8, 8, (4, 8)).astype(np.int8), dense[:, ::4], None, 4)
        vectors = Palettized(indices[:2], rng.normal(size=(1, 1, 8, 2)).astype(np.float16), 0)
        int8_lut = Quantized(rng.integers(-9, 9, (1, 1, 8, 1)).astype(np.int8), np.ones((1, 1, 1, 1), np.float16))
        pairs = np.repeat(mask[::2], 2, axis=0)
        yield from (int4, vectors, Palettized(indices, grouped), Palettized(indices, int8_lut))
        yield from (Sparse(mask, int4), Sparse(mask, Palettized(indices, int8_lut)), Sparse(pairs, vectors))
        yield Quantized(Palettized(indices, grouped), dense[:, :1])
        yield Sparse(mask, Quantized(Palettized(indices, grouped), dense[:, :1]))


def describe(spec, function) -> None:
    """One input and one output."""
    set_tensor_type(function.inputs.add(name="x").type, BY_NAME["float16"], (1, 8))
    description = ModelDescription()
    for features, name, size in ((description.input, "x", 8), (description.output, "y", 4)):
        array = features.add(name=name).type.multiArrayType
        array.shape.extend((1, size))
        array.dataType = 65552  # float16
    spec.description = description.SerializeToString()


def seeds() -> list[bytes]:
    """A small package for each form, in both generations."""
    made = []
    out = FOLDER.with_name(FOLDER.name + "-seed.mlpackage")
    for generation in (1, 2):
        for form in forms(generation):
            spec = ModelProto(specificationVersion=7 if generation == 1 else 9)
            function = spec.mlProgram.functions.add(key="main").value
            function.opset = "CoreML6" if generation == 1 else "CoreML8"
            describe(spec, function)
            block = function.block_specializations.add(key=function.opset).value
            use = block.operations.add(type="linear")
            use.inputs.add(key="x").value.arguments.add(name="x")
            use.inputs.add(key="weight").value.arguments.add(name="w")
            set_tensor_type(use.outputs.add(name="y").type, BY_NAME["float16"], (1, 4))
            block.outputs.append("y")
            SPEC.write_bytes(spec.SerializeToString())
            WEIGHTS.write_bytes(b"")
            model = corepress.formats.mlprogram.model.load(FOLDER)
            block = model.spec.mlProgram.functions[0].value.block_specializations[0].value
            tail = [type(op).FromString(op.SerializeToString()) for op in block.operations]
            del block.operations[:]
            block.operations.extend(write_weight(form, "w", generation=generation, store=model.store))
            block.operations.extend(tail)
            shutil.rmtree(out, ignore_errors=True)
            saved = model.save(out)
            made.append(
                join(
                    saved.package.spec.read_bytes(),
                    saved.package.weight_path("@model_path/weights/weight.bin").read_bytes(),
                )
            )
    shutil.rmtree(out, ignore_errors=True)
    return made


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few random changes: flips, interesting numbers, cuts, repetitions."""
    spec, weights = map(bytearray, split(data))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        part = spec if rng.random() < 0.6 or not weights else weights
        if not part:
            continue
        at = rng.randrange(len(part))
        kind = rng.randrange(6)
        if kind == 0:
            part[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            part[at] = rng.choice((0, 1, 2, 63, 64, 127, 128, 255))
        elif kind == 2:
            number = rng.choice((0, 1, 64, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1))
            part[at : at + 8] = number.to_bytes(8, "little")
        elif kind == 3:
            del part[at : at + rng.randrange(1, 16)]
        elif kind == 4:
            part[at:at] = part[at : at + rng.randrange(1, 32)]
        else:
            part[at : at + 4] = rng.randbytes(4)
    return join(bytes(spec), bytes(weights))


def run_random(runs: int, seed: int) -> None:
    rng = random.Random(seed)
    pool = seeds()
    started = time.time()
    for number in range(runs):
        data = rng.choice(pool)
        for _ in range(rng.choice((1, 1, 2))):
            data = mutate(data, rng)
        try:
            check(data)
        except BaseException:
            Path("fuzz-crash.bin").write_bytes(data)
            print(f"input {number} (seed {seed}) is in fuzz-crash.bin", file=sys.stderr)
            raise
    print(f"{runs:,} inputs in {time.time() - started:.0f} s, no crash")


def run_guided(runs: int) -> None:
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    for number, data in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(data)

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(data, random.Random(seed))[:max_size] if seed % 2 else atheris.Mutate(data, len(data) + 8)

    options = [sys.argv[0], f"-atheris_runs={runs}", "-max_len=8192", "-rss_limit_mb=4096", "-print_final_stats=1"]
    atheris.Setup([*options, str(corpus)], check, custom_mutator=custom)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="do without atheris")
    parser.add_argument("--replay", type=Path, help="run one input from a file")
    parser.add_argument("--execute", action="store_true", help="also run every program that loads")
    arguments = parser.parse_args()
    global EXECUTE
    EXECUTE = arguments.execute
    prepare()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        if arguments.replay is not None:
            check(arguments.replay.read_bytes())
        elif atheris is None or arguments.random:
            run_random(arguments.runs, arguments.seed)
        else:
            run_guided(arguments.runs)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
