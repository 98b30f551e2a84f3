"""Exported functions as a Core AI model: what coreai-torch can't convert, by name, and the file."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corepress.errors import importing
from corepress.formats.coreai.kept import KEY, Kept, to_metadata
from corepress.formats.coreai.library import fill
from corepress.formats.features import metadata_of
from corepress.formats.mlprogram import Model
from corepress.formats.neural_network import Model as Networks
from corepress.migrating.exporting import Exported, said
from corepress.migrating.functions import Function
from corepress.migrating.stored import LOWERED, Stored, writer

_WORK = "a migration to Core AI"

_PYTORCHS = re.compile(r"aten\.\w+\.\w+")


def obstacles(own: Exported) -> Iterator[str]:
    """What keeps a function from being converted: sentences, which name operations of the package."""
    function = f"function {own.function.name!r} can't be migrated"
    for step, reason in own.failures.items():
        cause = said(reason.removeprefix(f"{step} can't be computed: "))
        yield f"{function}: {step} can't be exported: {cause}"
    if unknown := _unknown(own):
        named = ", ".join(own.steps(unknown)) or "some operations"
        yield f"{function}: coreai-torch has nothing for {named} ({', '.join(sorted(unknown))} of PyTorch)"


def converted(exported: Sequence[Exported]) -> tuple[Any, str]:
    """The program of coreai-torch; or None, and a sentence that says why not."""
    with importing(_WORK):
        from coreai_torch import TorchConverter

    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    forms = (form for own in exported for stage in own.function.stages.values() for form in stage.forms.values())
    weights = {form.number: form for form in forms if isinstance(form, Stored)}
    converter.register_torch_lowering(LOWERED)(writer(weights))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            for own in exported:
                converter.add_exported_program(
                    own.program, input_names=list(own.function.inputs), output_names=list(own.function.outputs),
                    state_names=list(own.states) or None, entrypoint_name=own.function.name,
                )  # fmt: skip
            return converter.to_coreai(), ""
        except Exception as error:  # of all kinds
            names = ", ".join(own.function.name for own in exported)
            return None, f"function {names!r} can't be migrated: {said(error)}"


def _unknown(own: Exported) -> set[str]:
    """The operations of PyTorch that coreai-torch has nothing for, all of them.

    It names those of one kind at a time; so what it named is passed for known, and it is asked again. (Not by way of a
    converter, which packs the indices of a program when it is added.)
    """
    with importing(_WORK):
        from coreai_torch._validate import validate_exported_program

    found = set[str]()
    while True:
        try:
            validate_exported_program(own.program, {target.replace("aten.", "aten::", 1): None for target in found})
        except ValueError as error:
            named = set(_PYTORCHS.findall(str(error).partition("Example:")[0])) - found
            if not named:
                return found
            found |= named
        else:
            return found


def save(program: Any, functions: Sequence[Function], source: Model | Networks, folder: Path) -> None:
    """Write a program of coreai-torch into a folder, with metadata."""
    with importing(_WORK):
        from coreai.runtime import AIModelAssetMetadata

    metadata = AIModelAssetMetadata()
    said_of_it = metadata_of(source.spec)
    metadata.model_description = said_of_it.pop("description", "")
    metadata.author, metadata.license = said_of_it.pop("author", ""), said_of_it.pop("license", "")
    for key, text in said_of_it.items():
        metadata.set_custom(key, text)
    kept = {function.name: Kept(function.interface, function.classes) for function in functions}
    metadata.set_custom(KEY, to_metadata(kept))
    fill(folder, program, metadata)
