"""What is called of coreai-core, all of it: a program is read, its operations are listed, constants are read and made.

Loading, copying and saving are calls of its public interface, `coreai.authoring`. To list and to replace operations it
has no public name yet: for that its documentation points to the bindings below (`coreai._compiler.ir`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, UnsupportedError, first_line, importing
from corepress.formats.coreai.asset import HASH, METADATA, PROGRAM, is_asset, metadata
from corepress.formats.coreai.guarded import guarded, outlived
from corepress.formats.dtypes import BY_NAME, DType
from corepress.formats.mistaken import refuse
from corepress.formats.mlprogram.values import packed_bytes
from corepress.weights import pack_bits

Array = NDArray[Any]

_WORK = "reading a Core AI model"
# The versions of folders that coreai-core 1.0 writes begin with this number.
_VERSION = 2
_NOTED_ANEW = ("assetVersion", "creationDate", "producer")
# Of MLIR's bytecode.
_BEGINNING = b"ML\xefR"
# Of element types, by the names that MLIR prints.
DTYPES = {
    "i1": "bool",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "f4E2M1FN": "float4_e2m1fn",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E5M2": "float8_e5m2",
    "f8E8M0FNU": "float8_e8m0fnu",
    **{f"{'u' if unsigned else 's'}i{bits}": f"{'u' if unsigned else ''}int{bits}"
       for unsigned in (False, True) for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}  # fmt: skip
# Of what the library says of a program, that much is told.
_LONGEST = 200
# In an attribute as MLIR prints it.
_WORD = re.compile(r'([\w.$-]+)[>"]')
# Of attributes that it prints as numbers, what these mean.
_NUMBERED = {"scan_op": ("sum", "product", "min", "max")}
# No number below a byte, on its own in a byte, has this pattern.
_UNTOUCHED = 0x55


def load(path: Path, *, checked: bool = False) -> Any:
    """The program in an `.aimodel`, of the library's own type; `checked`: it was written here.

    Raises FormatError for what is no sound model.
    """
    asset = _asset()
    if not checked:
        _check_files(path)
    said: list[str] = []

    def listen(told: Any) -> bool:
        """Or the library would say it on the standard error stream of the process."""
        with suppress(RuntimeError):  # for what is no UTF-8
            said.append(told.message)
        return True

    def read() -> Any:
        with _context() as context:
            listening = context.attach_diagnostic_handler(listen)
            program = asset.load(path).program
            listening.detach()
            return program

    _context()  # imports the library, once
    if not checked and not outlived(read):
        raise FormatError(f"{path}: Core AI can't read it: it is damaged")
    try:
        return guarded(read)
    except Exception as error:  # of all kinds
        reason = first_line(ValueError(said[0]) if said else error)
        raise FormatError(f"{path}: Core AI can't read it: {reason[:_LONGEST]}") from error


def check(path: Path) -> None:
    """Raise a FormatError for what is no sound `.aimodel`, before a runtime takes it, which would end the process."""
    load(path)


def _check_files(path: Path) -> None:
    """Raise a FormatError for what is no `.aimodel`, for a newer version, and for what is not as it was written."""
    if not is_asset(path):
        if not os.path.lexists(path):
            refuse(path)
        raise FormatError(f"{path}: it is no Core AI model: a folder with a program and its metadata")
    try:
        version = str(json.loads((path / METADATA).read_bytes())["assetVersion"])
        with (path / PROGRAM).open("rb") as file:
            beginning = file.read(len(_BEGINNING))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
        noted = (path / HASH).read_bytes() if (path / HASH).is_file() else None
    except OSError as error:
        raise FormatError(f"{error.filename}: can't read it: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path / METADATA}: it is no metadata of a Core AI model, or damaged") from error
    if version.partition(".")[0] != str(_VERSION):
        raise UnsupportedError(f"{path}: a Core AI model of version {version[:40]}; corepress reads version {_VERSION}")
    if beginning != _BEGINNING or (noted is not None and noted != digest):
        raise FormatError(f"{path / PROGRAM}: it is damaged or truncated: not what {HASH} was made of")


def save(program: Any, source: Path, folder: Path) -> None:
    """Write a program with the metadata of the model at `source` as an `.aimodel` into an empty folder."""
    fill(folder, program)
    # Through the library, numbers of what its maker noted would become true where they are 1.
    noted = metadata(source) | {name: metadata(folder)[name] for name in _NOTED_ANEW}
    (folder / METADATA).write_text(json.dumps(noted, indent=2), encoding="utf-8")


def fill(folder: Path, program: Any, *noted: Any) -> None:
    """Write a program into an empty folder, which becomes an `.aimodel`; `noted`: metadata, of the library's own type.

    The library itself writes into no folder that exists.
    """
    inner = folder / "inner.aimodel"
    program.save_asset(inner, *noted)
    for part in inner.iterdir():
        part.rename(folder / part.name)
    inner.rmdir()


def functions(program: Any) -> list[Any]:
    """The functions of a program, as operations: those that are called from outside, and those that these call."""
    return [operation for operation in operations(program) if operation.name == "coreai.graph"]


def operations(program: Any) -> list[Any]:
    """All operations of a program, each before those within it."""
    return list(_below(program._module._mlir_module.operation))


def within(operation: Any) -> list[list[Any]]:
    """The operations of each block inside an operation."""
    return [operations for _, operations in blocks(operation)]


def blocks(operation: Any) -> list[tuple[list[Any], list[Any]]]:
    """Of each block inside an operation the values that go in, and the operations."""
    found = [block for region in operation.regions for block in region.blocks]
    return [(list(block.arguments), [inner.operation for inner in block.operations]) for block in found]


def text(operation: Any, attribute: str) -> str | None:
    """The word or the name that an attribute holds, such as "constant" of a `#coreai.padding_mode<constant>`."""
    if attribute not in operation.attributes:
        return None
    printed = str(operation.attributes[attribute])
    if attribute in _NUMBERED:
        return _NUMBERED[attribute][int(printed.partition(" ")[0])]
    found = _WORD.search(printed)
    return None if found is None else found[1]


def plain(operation: Any) -> Any:
    """An operation as such, whatever class the library has for its kind."""
    return operation.operation


def owner(value: Any) -> Any:
    """The operation that gives a value; None for an argument."""
    ir = _ir()
    return ir.OpResult(value).owner.operation if ir.OpResult.isinstance(value) else None


def function_name(graph: Any) -> str:
    """The name of a function."""
    return str(graph.attributes["sym_name"].value)


def is_private(graph: Any) -> bool:
    """Whether only other functions of the program call it."""
    return "priv" in graph.attributes


def arguments(graph: Any) -> list[tuple[Any, str]]:
    """The values that a function takes, each with its name."""
    values = list(graph.regions[0].blocks[0].arguments)
    return list(zip(values, _names(graph, "arg_attrs", len(values)), strict=True))


def outputs(graph: Any) -> list[tuple[Any, str]]:
    """The types of what a function gives, each with its name."""
    kinds = list(graph.attributes["function_type"].value.results)
    return list(zip(kinds, _names(graph, "res_attrs", len(kinds)), strict=True))


def _names(graph: Any, which: str, count: int) -> list[str]:
    if which not in graph.attributes:
        return [""] * count
    held = list(graph.attributes[which])
    return [str(entry["coreai.name"].value) if "coreai.name" in entry else "" for entry in held]


class Tensor(NamedTuple):
    """The type of a tensor: `dtype` is None for one that no weight has, a size of -1 is not fixed."""

    dtype: DType | None
    shape: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        """Whether all sizes are known."""
        return min(self.shape, default=0) >= 0


def tensor(kind: Any) -> Tensor | None:
    """What a type says, if it is that of a tensor, or of a state that holds one."""
    ir = _ir()
    coreai = calls()

    if coreai.HandleType.isinstance(kind):
        kind = coreai.HandleType(kind).inner_type
    if not ir.RankedTensorType.isinstance(kind):
        return None
    ranked = ir.RankedTensorType(kind)
    shape = tuple(-1 if ranked.is_dynamic_dim(axis) else ranked.get_dim_size(axis) for axis in range(ranked.rank))
    return Tensor(BY_NAME.get(DTYPES.get(str(ranked.element_type), "")), shape)


def type_of(operation: Any) -> Tensor:
    """The type of what an operation gives, which is known to be a tensor."""
    found = tensor(operation.results[0].type)
    assert found is not None
    return found


def is_state(kind: Any) -> bool:
    """Whether a type is that of a state."""
    return bool(calls().HandleType.isinstance(kind))


def constant_bytes(constant: Any, dtype: DType, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The bytes of a constant, packed as a Core ML weight file has them."""
    count = math.prod(shape)
    # The library writes as many bytes as the constant has, of which some have one for each number.
    size = count * dtype.numpy.itemsize
    held = np.empty(max(size, 1), np.uint8)
    if dtype.sub_byte or dtype.name == "bool":
        held[:] = 0 if dtype.name == "bool" else _UNTOUCHED
    _bindings().compiler.copy_constant_value_to_array(constant_op=constant, destination=held)
    packed = -(-count * dtype.bits // 8)
    if dtype.sub_byte and count > 1 and held[size - 1] != _UNTOUCHED:
        return pack_bits(held[:size], dtype.bits)
    return held[:packed]


@contextmanager
def inserting(operation: Any) -> Iterator[None]:
    """New operations are put before `operation`, and carry what is known of where it came from."""
    ir = _ir()

    with operation.context, operation.location, ir.InsertionPoint(operation):
        yield


@contextmanager
def behind(value: Any) -> Iterator[None]:
    """New operations are put behind what gives a value, so that all that reads it can read them."""
    ir, maker = _ir(), owner(value)
    if maker is None:
        block = ir.BlockArgument(value).owner
        with block.owner.context, block.owner.location, ir.InsertionPoint.at_block_begin(block):
            yield
    else:
        with maker.context, maker.location, ir.InsertionPoint.after(maker):
            yield


def reread(operation: Any, value: Any, other: Any) -> None:
    """Let an operation read `other` wherever it reads `value`."""
    for index, operand in enumerate(operation.operands):
        if operand == value:
            operation.operands[index] = other


def replace(operation: Any, value: Any) -> None:
    """Let everything that reads what `operation` gives read `value` instead, and remove it, with what only it reads."""
    operation.results[0].replace_all_uses_with(value)
    # Each once, after all that reads it: nothing may be asked of an operation that is gone.
    for part in reversed(_with_parts(operation, {})):
        if not list(part.results[0].uses):
            part.erase()


def _with_parts(operation: Any, seen: dict[Any, None]) -> list[Any]:
    """An operation after all those that give what it reads, and what these read."""
    if operation not in seen:
        for inner in map(owner, operation.operands):
            if inner is not None:
                _with_parts(inner, seen)
        seen[operation] = None
    return list(seen)


@cache
def calls() -> Any:
    """The library's functions that make an operation each."""
    with importing(_WORK):
        from coreai._compiler.dialects import coreai

    return coreai


def _asset() -> Any:
    with importing(_WORK):
        from coreai.authoring import AIModelAsset

    return AIModelAsset


def _context() -> Any:
    with importing(_WORK):
        from coreai.authoring import Context

    return Context()._mlir_context


@cache
def _ir() -> Any:
    with importing(_WORK):
        from coreai._compiler import ir

    return ir


@cache
def _bindings() -> Any:
    with importing(_WORK):
        from coreai._compiler._mlir_libs._coreaiIR import _bindings

    return _bindings


def make_constant(array: Array, dtype: DType) -> Any:
    """A new constant where operations are being inserted; `array`: unpacked, of any layout."""
    ir = _ir()

    kind = ir.RankedTensorType.get(array.shape, _element_type(dtype))
    make = _bindings().mlir.dialects.coreai.create_elements_attr
    attribute = make(ir.Location.unknown(), kind, packed_bytes(array, dtype))
    return calls().ConstantOp(value=attribute).result


def reshaped(value: Any, shape: tuple[int, ...]) -> Any:
    """A value in a shape, which it mostly has: the view has biases as vectors."""
    found = tensor(value.type)
    if found is None or found.shape == shape:
        return value
    return calls().reshape(value, make_constant(np.array(shape, np.int32), BY_NAME["int32"]))


def _element_type(dtype: DType) -> Any:
    ir = _ir()

    floats: dict[str, Any] = {
        "float16": ir.F16Type, "float32": ir.F32Type, "bfloat16": ir.BF16Type, "float4_e2m1fn": ir.Float4E2M1FNType,
        "float8_e4m3fn": ir.Float8E4M3FNType, "float8_e5m2": ir.Float8E5M2Type, "float8_e8m0fnu": ir.Float8E8M0FNUType,
    }  # fmt: skip
    if dtype.name in floats:
        return floats[dtype.name].get()
    return (ir.IntegerType.get_signed if dtype.name.startswith("int") else ir.IntegerType.get_unsigned)(dtype.bits)


def _below(operation: Any) -> Iterator[Any]:
    for block in within(operation):
        for inner in block:
            yield inner
            yield from _below(inner)
