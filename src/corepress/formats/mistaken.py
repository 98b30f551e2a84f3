"""What people give instead of a model, and the sentence that tells each of them what to give.

`refuse(path)` raises it, and returns when there is nothing to say: then the path may be a model. One more mistake
to know is one more line of `_FILES`, `_ENDINGS` or `_FOLDERS`.
"""

from __future__ import annotations

import os
from pathlib import Path

from corepress.errors import FormatError

MODEL_ENDINGS = (".mlpackage", ".mlmodel")
_LFS = b"version https://git-lfs.github.com/spec/"
_HEAD_BYTES = 64
_MANIFEST = "Manifest.json"
# The deepest file of a package lies three folders below its root.
_INSIDE = 4
_SHOWN = 3

_PYTORCH = (
    "a PyTorch file; convert the model with coremltools.convert(..., convert_to='mlprogram'), or compress it before, "
    "with corepress.torch"
)
_SAFETENSORS = (
    "weights without a model; load them into their PyTorch model and convert that with coremltools.convert, or "
    "compress them with compress_checkpoint of corepress.torch"
)
_COMPILED = "a compiled model, for running only; give the .mlpackage or .mlmodel that it was compiled from"
_CORE_AI = "a Core AI model, which this takes no part in; give the Core ML package of the same model"
_ARCHIVE = "an archive; unpack it and give the .mlpackage in it"
_UNCONVERTED = "and not of Core ML; convert the source model with coremltools.convert(..., convert_to='mlprogram')"
_ONNX = "an ONNX model; convert the PyTorch or TensorFlow model it came from with coremltools.convert"

# By the first bytes of a file: (offset, bytes, what it is).
_FILES = (
    (0, b"GGUF", f"a GGUF file {_UNCONVERTED}"),
    (4, b"TFL3", f"a TensorFlow Lite model {_UNCONVERTED}"),
    (0, b"\x89HDF\r\n\x1a\n", f"a Keras or HDF5 file {_UNCONVERTED}"),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ\0", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
)
_ENDINGS = {
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".ckpt": _PYTORCH,
    ".pt2": _PYTORCH,
    ".safetensors": _SAFETENSORS,
    ".onnx": _ONNX,
    ".gguf": f"a GGUF file {_UNCONVERTED}",
    ".tflite": f"a TensorFlow Lite model {_UNCONVERTED}",
    ".h5": f"a Keras or HDF5 file {_UNCONVERTED}",
    ".keras": f"a Keras or HDF5 file {_UNCONVERTED}",
    ".pb": f"a TensorFlow graph {_UNCONVERTED}",
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".mlmodelc": _COMPILED,
    ".aimodel": _CORE_AI,
}
# By a file that a folder holds: (its name, what the folder is).
_FOLDERS = (
    ("coremldata.bin", _COMPILED),
    ("model.mil", _COMPILED),
    ("main.mlirb", _CORE_AI),
    ("model.safetensors", f"a folder of {_SAFETENSORS}"),
    ("model.safetensors.index.json", f"a folder of {_SAFETENSORS}"),
    ("pytorch_model.bin", f"the folder of {_PYTORCH}"),
    ("saved_model.pb", f"a TensorFlow model {_UNCONVERTED}"),
)


def refuse(path: Path) -> None:
    """A FormatError for what is plainly no Core ML model, with the advice that helps."""
    if not os.path.lexists(path):
        raise FormatError(f"{path}: no such file or folder{_near(path)}")
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for some
        raise FormatError(f"{path}: a link to {path.readlink()}, which does not exist")
    outer = _package_around(path)
    if outer is not None:
        raise FormatError(f"{path}: it lies inside a package; give the package itself, {outer}")
    if not path.is_dir() and not path.is_file():  # a pipe or a device, which may never end
        raise FormatError(f"{path}: it is neither a file nor a folder; give the path of an .mlpackage or .mlmodel")
    what = _folder(path) if path.is_dir() else _file(path)
    if what is not None:
        raise FormatError(f"{path}: it is {what}")


def refuse_pointer(path: Path, head: bytes) -> None:
    """A FormatError for the text that stands for a large file where Git LFS has not fetched it; `head` is its
    beginning."""
    if head.startswith(_LFS):
        raise FormatError(
            f"{path}: it is a Git LFS pointer, a note that stands for the file; fetch the file with 'git lfs pull'"
        )


def _near(path: Path) -> str:
    """What there is instead of a path that does not exist."""
    parent = path.absolute().parent
    if not parent.is_dir():
        missing = next(folder for folder in (parent, *parent.parents) if folder.parent.is_dir())
        return f"; the folder {missing} does not exist"
    import difflib

    names = {name.casefold(): name for name in sorted(_listed(parent)) if not name.startswith(".")}
    written = path.name.casefold()
    found = [names[written + ending] for ending in MODEL_ENDINGS if written + ending in names]
    found += [names[name] for name in difflib.get_close_matches(written, names, _SHOWN) if names[name] not in found]
    return f"; did you mean {_either([str(path.with_name(name)) for name in found[:_SHOWN]])}?" if found else ""


def _either(options: list[str]) -> str:
    return ", ".join(options[:-1]) + " or " + options[-1] if len(options) > 1 else options[0]


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _package_around(path: Path) -> Path | None:
    """The package that a path lies in: not one that merely lies beside it."""
    inner = path.absolute()
    for folder in list(inner.parents)[:_INSIDE]:
        own = inner == folder / _MANIFEST or folder / "Data" in (inner, *inner.parents)
        if own and _has_manifest(folder):
            return folder
    return None


def package_holding(path: Path) -> Path | None:
    """The package in whose folder an output at `path` would lie, links followed."""
    parent = path.absolute().parent.resolve()
    return next(filter(_has_manifest, (parent, *parent.parents)), None)


def _has_manifest(folder: Path) -> bool:
    try:
        return b"rootModelIdentifier" in (folder / _MANIFEST).read_bytes()
    except OSError:
        return False


def _folder(path: Path) -> str | None:
    """What a folder is that has no manifest."""
    names = _listed(path)
    if _MANIFEST in names:
        return None
    for name, what in _FOLDERS:
        if name in names:
            return what
    if path.suffix.lower() in _ENDINGS:
        return _ENDINGS[path.suffix.lower()]
    if not names:
        return f"an empty folder; a package has at least a {_MANIFEST}"
    models = [str(path / name) for name in sorted(names) if name.lower().endswith(MODEL_ENDINGS)]
    if models:
        return f"a folder around the model; give {_either(models[:_SHOWN])}"
    if any(name.endswith(".mlmodelc") for name in names):
        return f"a folder around {_COMPILED}"
    if path.suffix.lower() == ".mlpackage":
        return f"not a whole package: it has no {_MANIFEST}; copy or download it anew, as a folder"
    return None


def _file(path: Path) -> str | None:
    """What a file is, by its first bytes and its ending."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise FormatError(f"{path}: can't read it: {error.strerror}") from error
    refuse_pointer(path, head)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    for offset, magic, what in _FILES:
        if head[offset:].startswith(magic):
            return what
    if not head:
        return "an empty file"
    return _ENDINGS.get(path.suffix.lower())


def _zip(path: Path) -> str:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return _ARCHIVE
    if any(name.endswith("data.pkl") for name in names):
        return _PYTORCH
    if any(name.endswith(".npy") for name in names):
        return "a file of arrays (.npz), not a model"
    models = (next((part for part in name.split("/") if part.endswith(MODEL_ENDINGS)), None) for name in names)
    return f"a zip archive; unpack it and give {next(filter(None, models), 'the .mlpackage in it')}"
