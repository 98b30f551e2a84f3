"""Inputs for a model from `.npz` files and images, and as a person names them."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float16

from corepress.errors import ConfigError, DataError, FormatError, importing
from corepress.formats.atomic import Kind, replacing
from corepress.formats.features import Feature, Interface
from corepress.formats.mlprogram import Model
from corepress.runtime.domains import Domain
from corepress.runtime.random_inputs import needed, random_inputs
from corepress.runtime.values import to_tensors
from corepress.sequences import ALONE, Sample, Step, only_single_steps, steps_of

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
log = logging.getLogger(__name__)

# An array of one step of a sequence: the number of the step, and the name of the input.
_OF_STEP = re.compile(r"(\d+)/(.+)", re.DOTALL)
NPZ = Kind("an .npz file", ".npz", False, lambda path: path.is_file() and path.suffix.lower() == ".npz")


def read_samples(path: str | Path, interface: Interface) -> Iterator[Sample]:
    """Read inputs from a `.npz` file, an image, a folder of either, sorted by name, or a folder of such folders.

    The arrays of a `.npz` are named as the inputs (for a model with one input, an only array that fits will do); others
    are ignored. An array is one sample when its shape fits the input, else a batch of them along its first axis.
    Images go to the only input, resized to it; one that is an array of rank 4 gets values from 0 to 1.

    A sequence of steps is a `.npz` whose arrays are named "0/input", "1/input" (batches are several sequences, and an
    array without a number belongs to each step), or a folder of files in a folder, one for each step.
    Raises CorepressError where nothing, or nothing that fits, is found.
    """
    source = Path(path)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    files = _files(source)
    folders = [folder for folder in _sorted(source) if folder.is_dir() and _files(folder)] if source.is_dir() else []
    if files and folders and interface.states:
        raise DataError(
            f"{source}: it holds the sample {files[0].name} and the folder of steps {folders[0].name}: keep one kind"
        )
    if files and files[0].suffix.lower() in _IMAGES:
        _picture_input(interface, source)
    if files:
        return (sample for file in files for sample in _in_file(file, interface))
    if folders:
        return (tuple(_step_in(file, interface) for file in _files(folder)) for folder in folders)
    raise DataError(f"{source}: there are no .npz files or images to read inputs from")


def folders_of_functions(model: Any, path: Path, function: str | None = None) -> dict[str, Path]:
    """The folders of samples for several functions of a package, by the names of both; empty where there are none.

    `function`: the one that all are for, if that was said.
    """
    if function is not None or not isinstance(model, Model) or not path.is_dir():
        return {}
    names = {entry.key for entry in model.spec.mlProgram.functions}
    folders = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir()}
    return folders if len(names) > 1 and folders and set(folders) <= names else {}


def _files(source: Path) -> list[Path]:
    """The files with inputs of a folder, sorted by name, or a single one: of one kind, arrays before images."""
    files = _sorted(source) if source.is_dir() else [source]
    arrays = [file for file in files if file.suffix.lower() == ".npz" and not file.is_dir()]
    return arrays or [file for file in files if file.suffix.lower() in _IMAGES and not file.is_dir()]


def _sorted(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name; numbers in names count as such, so that 10 comes after 9."""
    return sorted(folder.iterdir(), key=lambda path: [_order(part) for part in re.split(r"(\d+)", path.name)])


def _order(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (0, part)


def _in_file(file: Path, interface: Interface) -> Iterator[Sample]:
    if file.suffix.lower() == ".npz":
        yield from _in_npz(file, interface)
    else:
        feature = _picture_input(interface, file)
        yield {feature.name: read_image(file, feature)}


def _step_in(file: Path, interface: Interface) -> Step:
    """The only sample in a file."""
    found = list(_in_file(file, interface))
    if len(found) != 1 or not isinstance(found[0], Mapping):
        what = "a sequence" if len(found) == 1 else f"{len(found)} samples"
        raise ConfigError(f"{file}: it holds {what}, but is one step of a sequence, the folder {file.parent.name}")
    return found[0]


def _in_npz(file: Path, interface: Interface) -> Iterator[Sample]:
    """The samples of one file, or its sequences where its arrays are named by steps."""
    arrays, names = _read_npz(file), {feature.name for feature in interface.inputs}
    steps: dict[int, dict[str, NDArray[Any]]] = {}
    for name in [name for name in arrays if name not in names]:
        if found := _OF_STEP.fullmatch(name):
            step = steps.setdefault(int(found[1]), {})
            if found[2] in step:
                raise ConfigError(f"{file}: it has two arrays for {found[2]!r} of step {int(found[1])}")
            step[found[2]] = arrays.pop(name)
    if not steps:
        yield from _samples(file, arrays, interface)
        return
    of_steps = {n: list(_samples(file, arrays | steps[n], interface, f" of step {n}")) for n in sorted(steps)}
    counts = {number: len(found) for number, found in of_steps.items()}
    if len(set(counts.values())) > 1:
        several = ", ".join(f"{number}: {count}" for number, count in counts.items())
        raise ConfigError(f"{file}: its steps hold different numbers of samples ({several})")
    yield from zip(*of_steps.values(), strict=True)


def read_inputs(
    given: Sequence[str],
    interface: Interface,
    seed: int | None = None,
    domains: Mapping[str, Domain] | None = None,
) -> dict[str, Any]:
    """Inputs as a person names them, `name=value`: a `.npy`, `.npz` or image file, or a number that fills the shape.

    `seed`: of random values, from their `domains`, for the inputs that are not given; without it, they are an error
    that names them.
    """
    features = {feature.name: feature for feature in interface.inputs}
    inputs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not of the form NAME=VALUE")
        if name not in features:
            raise ConfigError(f"there is no input {name!r}; the inputs are {', '.join(features) or 'none'}")
        if name in inputs:
            raise ConfigError(f"input {name!r} is given twice")
        inputs[name] = _read_value(value, features[name])
    missing = [feature.name for feature in needed(interface) if feature.name not in inputs]
    if missing and seed is None:
        raise ConfigError(f"inputs are missing: {', '.join(missing)}; give them, or ask for random ones (--random)")
    return next(random_inputs(interface, seed, domains=domains)) | inputs if seed is not None else inputs


def only_sample(path: Path, interface: Interface) -> Sample:
    """The sample, or sequence of steps, in a file or folder as `read_samples` takes it; of several the first, with a
    warning."""
    samples = read_samples(path, interface)
    first = next(samples)
    if more := sum(1 for _ in samples):
        log.warning("%s: its first sample is run; there are %d more", path, more)
    return first


def write_outputs(path: Path, answers: Sequence[Mapping[str, Any]], *, overwrite: bool = False) -> None:
    """Write what a model answered to a `.npz` file; of probabilities by label, the numbers in their order.

    Of several steps, arrays are named as those of a sequence of inputs: "0/output", "1/output"."""
    places = ["" if len(answers) == 1 else f"{number}/" for number in range(len(answers))]
    arrays = {
        place + name: np.array(list(value.values()) if isinstance(value, Mapping) else value)
        for place, outputs in zip(places, answers, strict=True)
        for name, value in outputs.items()
    }
    _write_npz(path, arrays, overwrite)


def write_samples(path: Path, samples: Sequence[Sample], *, overwrite: bool = False) -> None:
    """Write samples of the same shapes to a `.npz` file that `read_samples` reads, with one axis more."""
    alone = only_single_steps(samples)
    arrays = {
        name if alone else f"{number}/{name}": np.stack([np.asarray(step[name]) for step in steps])
        for number, steps in enumerate(zip(*map(steps_of, samples), strict=True))
        for name in steps[0]
    }
    _write_npz(path, arrays, overwrite)


def _write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], overwrite: bool) -> None:
    # Not np.savez: there an array could not be named "file".
    with replacing(path, NPZ, overwrite=overwrite) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_value(text: str, feature: Feature) -> Any:
    """A `.npy`, `.npz` or image file, or a number, as an input takes it."""
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix in _IMAGES:
        return read_image(path, feature)
    if suffix == ".npz":
        arrays = _read_npz(path)
        if feature.name not in arrays and len(arrays) != 1:
            raise ConfigError(f"{path}: it has no array {feature.name!r}, but {', '.join(arrays) or 'none'}")
        return arrays.get(feature.name, next(iter(arrays.values()), None))
    if suffix == ".npy":
        return _numpy_load(path)
    try:
        return np.full(feature.shape, float(text)).astype(feature.dtype)
    except ValueError as error:
        raise ConfigError(f"input {feature.name!r}: {text!r} is neither a .npy, .npz or image file nor a number") from (
            error
        )


def read_image(path: Path, feature: Feature) -> Any:
    """A picture in the size that an input wants: a PIL image for an image input, else an array from 0 to 1."""
    with importing("reading images"):
        from PIL import Image, UnidentifiedImageError
    if len(feature.shape) != 4 or feature.shape[1] not in (1, 3):
        raise ConfigError(f"{path}: input {feature.name!r} is {feature.describe()}, which is not a picture")
    _, channels, height, width = feature.shape
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FormatError(f"{path}: it can't be read as an image") from error
    if not feature.allows((1, channels, picture.height, picture.width)):
        picture = picture.resize((width, height))
    if feature.kind == "image":
        return picture
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels) / 255
    return pixels.transpose(2, 0, 1)[None].astype(feature.dtype)


def _picture_input(interface: Interface, path: Path) -> Feature:
    required = needed(interface)
    if len(required) != 1:
        names = ", ".join(feature.name for feature in required) or "none"
        raise ConfigError(f"{path}: images fit a model with one input only, and this one has {names}")
    return required[0]


def _numpy_load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # of a damaged file NumPy, zipfile, zlib and Python's tokenizer each raise their own
        raise FormatError(f"{path}: it can't be read as a file of arrays ({type(error).__name__})") from error


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    file = _numpy_load(path)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise FormatError(f"{path}: it is not a .npz file")
    try:
        with file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # as above
        raise FormatError(f"{path}: its arrays can't be read ({type(error).__name__})") from error


def _samples(
    path: Path, arrays: Mapping[str, NDArray[Any]], interface: Interface, of_step: str = ""
) -> Iterator[dict[str, Any]]:
    """Split the arrays of one file, or `of_step` of one, into samples; an array that fits as it is belongs to each."""
    required = needed(interface)
    found = {feature.name: feature for feature in interface.inputs if feature.name in arrays}
    if not found and len(required) == 1:
        fitting = [name for name in arrays if _count(arrays[name], required[0]) is not None]
        if len(fitting) == 1:
            arrays, found = {required[0].name: arrays[fitting[0]]}, {required[0].name: required[0]}
    for feature in required:
        if feature.name not in found:
            names = ", ".join(arrays) or "none"
            raise ConfigError(f"{path}: it has no array for the input {feature.name!r}{of_step}, but {names}")
    counts = {}
    for name, feature in found.items():
        count = _count(arrays[name], feature)
        if count is None:
            shape = "x".join(map(str, arrays[name].shape))
            raise ConfigError(f"{path}: array {name!r}{of_step} is {shape}, but the input is {feature.describe()}")
        counts[name] = count
    batches = {name: count for name, count in counts.items() if count >= 0}
    if len(set(batches.values())) > 1:
        several = ", ".join(f"{name}: {count}" for name, count in batches.items())
        raise ConfigError(f"{path}: its arrays{of_step} hold different numbers of samples ({several})")
    for index in range(next(iter(batches.values()), 1)):
        yield {name: _pick(arrays[name], feature, index, name in batches) for name, feature in found.items()}


def _count(array: NDArray[Any], feature: Feature) -> int | None:
    """How many samples a batch holds; -1 for an array that is one sample as it is, None for one that does not fit."""
    if feature.kind == "number":
        return -1 if array.ndim == 0 else len(array) if array.ndim == 1 else None
    if feature.allows(array.shape):
        return -1
    if array.ndim and (feature.allows(array.shape[1:]) or feature.allows((1, *array.shape[1:]))):
        return len(array)
    return None


def _pick(array: NDArray[Any], feature: Feature, index: int, batched: bool) -> NDArray[Any]:
    if not batched:
        return array
    one = array[index]
    if feature.kind == "number" or feature.allows(one.shape):
        return np.asarray(one)
    return np.asarray(array[index : index + 1])


def checked(
    samples: Iterable[Any],
    interface: Interface | None,
    argument: str = "sample_data",
    *,
    finite: bool = False,
    warns: bool = False,
) -> Iterator[Sample]:
    """The samples of a caller, one at a time and checked: each {input name: array}, or a list of such steps. The name
    None stands for the only input.

    `interface`: what the model takes; None where that is unknown, and names and shapes are not checked. `argument`:
    what the caller calls the samples. `finite`: whether something is learnt from them, so that NaN and infinities are
    refused. `warns`: say so where a model with a state got nothing but single steps. Raises ConfigError for a sample
    that does not fit, with its number from 0, and where there are none.
    """
    if isinstance(samples, Mapping) or not isinstance(samples, Iterable):
        raise ConfigError(f"{argument} must be a list or an iterable of dictionaries {{input name: array}}")
    number, alone = -1, True
    for number, given in enumerate(samples):
        where = f"sample {number} of {argument}"
        if isinstance(given, list | tuple):
            if not given:
                raise ConfigError(f"{where} is a sequence without steps")
            steps = enumerate(given)
            sample: Sample = tuple(_checked(step, interface, f"{where}, step {n}", finite) for n, step in steps)
        else:
            sample = _checked(given, interface, where, finite)
        alone &= only_single_steps([sample])
        yield sample
    if number < 0:
        raise ConfigError(f"{argument} is empty: at least one sample is needed")
    if warns and alone and interface is not None and interface.states:
        log.warning("%s", ALONE)


def _checked(given: Any, interface: Interface | None, where: str, finite: bool) -> Step:
    """One step. `where`: what it is, for messages."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a dictionary of {{input name: array}}, not {type(given).__name__}")
    try:
        step = _named(given, interface)
        if interface is not None:
            (finite_tensors if finite else to_tensors)(interface.inputs, step)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return step


def _named(step: Mapping[Any, Any], interface: Interface | None) -> Step:
    """The step with the name of the only input in place of None."""
    if None not in step or interface is None:
        return step
    names = [feature.name for feature in interface.inputs]
    if len(step) > 1 or len(names) > 1:
        raise ConfigError(f"the name None stands for the only input, and this model has {', '.join(names) or 'none'}")
    return {names[0]: step[None]}


def finite_tensors(inputs: tuple[Feature, ...], sample: Step) -> dict[str, Tensor]:
    """A step as tensors that a model can learn from; ConfigError for NaN, infinities and what does not fit."""
    tensors = to_tensors(inputs, sample)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            large = ", or some that are too large for float16" if tensor.dtype == float16 else ""
            raise ConfigError(f"input {name!r} holds NaN or infinite numbers{large}")
    return tensors
