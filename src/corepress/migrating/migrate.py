"""From a Core ML package to a Core AI model (`.aimodel`, iOS 27), without the source of the model."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx.traceback import preserve_node_meta

from corepress.errors import CorepressError, UnsupportedError, first_line, importing
from corepress.fields import some
from corepress.formats.atomic import check_destination, replacing
from corepress.formats.coreai.asset import ASSET
from corepress.formats.kinds import PIPELINES
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.formats.read import load as read_model
from corepress.migrating.constants import Constant, compressed, know_operations
from corepress.migrating.decompositions import decompositions
from corepress.migrating.exportable import STEP, Exportable
from corepress.runtime.domains import domains
from corepress.runtime.precision import Precision
from corepress.runtime.program import Program, load_program
from corepress.runtime.random_inputs import random_inputs
from corepress.runtime.values import to_tensors
from corepress.runtime.walk import without_labels


@dataclass(frozen=True)
class Migration:
    """What came of a migration.

    Args:
        path: The Core AI model.
        functions: Its functions.
        compressed: How many weights it stores compressed, as the package does.
        notes: Sentences on what is not as it was.

    Examples:
        >>> found = cto.migrate("model.mlpackage", "model.aimodel")
        >>> found.compressed, found.notes
        (0, ())
    """

    path: Path
    functions: tuple[str, ...]
    compressed: int
    notes: tuple[str, ...]


def migrate(
    model: str | Path | Model | Networks,
    output: str | Path,
    *,
    precision: str = "as_is",
    overwrite: bool | None = False,
) -> Migration:
    """Write a Core AI model, for iOS 27 and macOS 27, that answers as a Core ML package does.

    The program goes through PyTorch (`torch.export`) and coreai-torch. Compressed weights stay compressed, with the
    same indices, tables, integers, scales and masks. Each function becomes one of the same name, and a state becomes a
    state that its function changes. `corepress.verify(model, output)` compares the two: ours with Apple's runtime.

    Args:
        model: A path, or a `corepress.Model`, of an ML program.
        output: The `.aimodel` to write, a folder.
        precision: "as_is" keeps the types of the package; "float32" or "float16" computes in that type instead.
        overwrite: Whether to replace a Core AI model that exists.

    Returns:
        What was written, and what is not as it was.

    Raises:
        UnsupportedError: For a model with something that Core AI, or coreai-torch, has no form for; the message names
            the operation.
        OutputError: For an output that can't be written.
        MissingDependencyError: Without PyTorch or coreai-torch.

    Examples:
        >>> found = cto.migrate("model.mlpackage", "model.aimodel")
        >>> found.functions
        ('main',)
        >>> cto.verify("model.mlpackage", "model.aimodel").ok
        True
    """
    know_operations("a migration to Core AI")
    destination = Path(output)
    source = model if isinstance(model, Model | Networks) else read_model(model)
    sources = () if source.path is None else (Path(source.path),)
    check_destination(destination, ASSET, overwrite=overwrite, sources=sources)
    if isinstance(source, Model) and source.core_ai:
        raise UnsupportedError(f"{source.path}: it is a Core AI model already")
    kind = source.spec.WhichOneof("Type")
    if not isinstance(source, Model) or kind != "mlProgram":
        what = "a pipeline" if kind in PIPELINES else f"a {kind}"
        raise UnsupportedError(f"{source.path}: {what} can't be migrated to Core AI; an ML program can")
    names = sorted(entry.key for entry in source.spec.mlProgram.functions)
    packed = [weight for weight in source.weights() if weight.compression]
    forms: dict[str, dict[str, Constant]] = {name: {} for name in names}
    for weight in packed:
        forms[weight.function][weight.output] = compressed(weight.read())
    exported = {name: _exported(source, name, forms[name], Precision(precision)) for name in names}
    with replacing(destination, ASSET, overwrite=overwrite, sources=sources) as partial:
        _write(exported, source, partial)
    notes = [note for own in exported.values() for note in own.notes]
    if wider := [weight.name for weight in packed if weight.bits == 3 and "palettized" in weight.compression]:
        notes.append(f"{some(wider)}: indices of 3 bits take 4, as coreai-torch can't store them")
    return Migration(destination, tuple(names), len({weight.key for weight in packed}), tuple(notes))


@dataclass(frozen=True)
class _Exported:
    """A function as `torch.export` has it, with the names of its inputs, outputs and states, and what is not as
    it was."""

    program: torch.export.ExportedProgram
    inputs: list[str]
    outputs: list[str]
    states: list[str]
    notes: tuple[str, ...]


def _exported(model: Model, name: str, forms: Mapping[str, Constant], precision: Precision) -> _Exported:
    program = load_program(model, model.spec, torch.device("cpu"), precision, name, widens=False)
    executor = program.module
    types = dict(zip(executor.plan.output_names, executor.output_types, strict=True))
    executor.plan = without_labels(executor.plan)
    executor.output_types = [types.get(name) for name in executor.plan.output_names]
    packed = {program.constants[output]: form for output, form in forms.items() if output in program.constants}
    module = Exportable(executor, packed, program.make_state()).eval()
    given = next(iter(random_inputs(program.interface, 0, 1, domains(program))))
    tensors = program.tensors(to_tensors(program.interface.inputs, given))
    with _naming(model, name), warnings.catch_warnings(), torch.no_grad(), preserve_node_meta():
        warnings.simplefilter("ignore")
        found = torch.export.export(module, tuple(tensors), strict=False).run_decompositions(decompositions())
    states = [module.state_buffers()[buffer] for buffer in found.graph_signature.buffers_to_mutate.values()]
    plan = executor.plan
    return _Exported(found, list(plan.inputs), list(plan.output_names), states, tuple(_notes(program)))


def _notes(program: Program) -> Iterator[str]:
    for feature in program.interface.inputs:
        if feature.ranges or feature.shapes:
            shape = "x".join(map(str, feature.shape))
            yield f"input {feature.name!r} takes {shape} only: flexible shapes are not migrated"
        if feature.kind == "image":
            yield f"input {feature.name!r} takes an array of the pixels, 0 to 255, and no image"
    if program.interface.label:
        yield f"the output is the probabilities of the classes: the label {program.interface.label!r} is not migrated"


@contextlib.contextmanager
def _naming(model: Model, function: str, program: torch.export.ExportedProgram | None = None) -> Iterator[None]:
    """Errors of PyTorch and coreai-torch in one sentence of ours, which names the operation of the package."""
    try:
        yield
    except CorepressError:
        raise
    except Exception as error:  # of all kinds
        unknown = set(re.findall(r"aten\.\w+\.\w+", str(error))) if program is not None else set()
        steps = [] if program is None else [
            node.meta.get("custom", {}).get(STEP) for node in program.graph.nodes if str(node.target) in unknown
        ]  # fmt: skip
        if named := list(dict.fromkeys(step for step in steps if step)):
            reason = f"coreai-torch has nothing for {', '.join(named)} ({', '.join(sorted(unknown))} of PyTorch)"
        else:
            reason = first_line(error)
        raise UnsupportedError(f"{model.path}: function {function!r} can't be migrated: {reason}") from error


def _write(exported: Mapping[str, _Exported], model: Model, folder: Path) -> None:
    with importing("a migration to Core AI"):
        from coreai_torch import TorchConverter

    converter = TorchConverter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name, own in exported.items():
            with _naming(model, name, own.program):
                converter.add_exported_program(
                    own.program, input_names=own.inputs, output_names=own.outputs, state_names=own.states or None,
                    entrypoint_name=name,
                )  # fmt: skip
        with _naming(model, ", ".join(exported)):
            program = converter.to_coreai()
        inner = folder / "inner.aimodel"
        program.save_asset(inner)
    for part in inner.iterdir():
        part.rename(folder / part.name)
    inner.rmdir()
