"""What people give instead of a model: each gets the sentence that says what to give."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress.errors import CorepressError, FormatError
from corepress.formats.mlprogram import load
from corepress.formats.package import find_package
from tests.formats.mlprogram.test_model import tree
from tests.formats.test_atomic import a_package

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
SPEC = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def told(path: Path, *words: object) -> str:
    with pytest.raises(FormatError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path).rstrip("/")), message
    assert all(str(word) in message for word in words), message
    return message


def test_near_names(tmp_path) -> None:
    for name in ("MobileNet.mlpackage", "mobilenet2.mlpackage", "notes.txt"):
        (tmp_path / name).mkdir()
    told(tmp_path / "MobileNet", "no such file", f"did you mean {tmp_path / 'MobileNet.mlpackage'}")
    told(tmp_path / "mobilnet.mlpackage", tmp_path / "MobileNet.mlpackage", " or ")
    assert "did you mean" not in told(tmp_path / "something else entirely")
    told(tmp_path / "a/b/net.mlpackage", "no such file", f"the folder {tmp_path / 'a'} does not exist")
    (tmp_path / "link.mlpackage").symlink_to("gone")
    told(tmp_path / "link.mlpackage", "a link to gone")


@pytest.mark.parametrize("content", ["coremldata.bin", "model.mil"])
def test_a_compiled_model(tmp_path, content) -> None:
    (tmp_path / "net.mlmodelc").mkdir()
    told(tmp_path / "net.mlmodelc", "compiled", ".mlpackage")
    (tmp_path / "net.mlmodelc" / content).write_bytes(b"x")
    (tmp_path / "net.mlmodelc").rename(tmp_path / "net")
    told(tmp_path / "net", "compiled", ".mlpackage")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    told(tmp_path / "pipe", "neither a file nor a folder")
    told(Path("/dev/null"), "neither a file nor a folder")


def test_an_archive(tmp_path) -> None:
    package = a_package(tmp_path / "net.mlpackage")
    for name in ("net.mlpackage.zip", "net2.mlpackage"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in package.rglob("*"):
                archive.write(file, file.relative_to(tmp_path))
        told(tmp_path / name, "zip archive", "unpack", "net.mlpackage")
    with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as archive:
        archive.add(package)
    told(tmp_path / "net.tar.gz", "archive", "unpack")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    told(tmp_path / "x.npz", "arrays")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "net.mlpackage.zip").read_bytes()[:100])
    told(tmp_path / "cut.zip", "archive")


@pytest.mark.parametrize("file", ["Manifest.json", SPEC, WEIGHTS])
def test_a_pointer_of_git_lfs(package, tmp_path, file) -> None:
    copy = Path(shutil.copytree(package(), tmp_path / "net.mlpackage"))
    (copy / file).write_text(POINTER)
    with pytest.raises(CorepressError, match="git lfs pull") as error:
        load(copy)
    assert str(copy / file) in str(error.value)
    (tmp_path / "net.mlmodel").write_text(POINTER)
    told(tmp_path / "net.mlmodel", "git lfs pull")


def test_a_folder_around_the_package(tmp_path) -> None:
    one = a_package(tmp_path / "one/net.mlpackage")
    told(tmp_path / "one", "folder around", one)
    for number in range(5):
        a_package(tmp_path / f"many/{number}.mlpackage")
    told(tmp_path / "many", tmp_path / "many/0.mlpackage", " or ")
    (tmp_path / "empty.mlpackage").mkdir()
    told(tmp_path / "empty.mlpackage", "empty folder", "Manifest.json")
    (tmp_path / "half.mlpackage/Data").mkdir(parents=True)
    told(tmp_path / "half.mlpackage", "Manifest.json", "anew")


@pytest.mark.parametrize("inner", ["Data", "Data/com.apple.CoreML", SPEC, "Manifest.json", WEIGHTS])
def test_a_path_inside_a_package(package, inner, monkeypatch) -> None:
    told(package() / inner, "inside a package", package())
    monkeypatch.chdir((package() / inner).parent)
    with pytest.raises(FormatError, match="inside a package"):
        load(Path(inner).name)


def test_a_model_beside_a_manifest_of_something_else(tmp_path) -> None:
    """A folder with `Data` and a manifest is no package when the manifest names no root model."""
    package = a_package(tmp_path / "project/Data/net.mlpackage")
    (tmp_path / "project/Manifest.json").write_text("{}")
    assert find_package(package).root == package


def test_a_model_of_core_ai(tmp_path) -> None:
    (tmp_path / "net.aimodel").mkdir()
    (tmp_path / "net.aimodel/main.mlirb").write_bytes(b"x")
    told(tmp_path / "net.aimodel", "Core AI")


@pytest.mark.parametrize(
    "name,content,words",
    [
        ("net.pth", b"\x80\x02}q\x00.", "PyTorch"),
        ("net.pt", b"anything", "PyTorch"),
        ("net.safetensors", b"\x10\0\0\0\0\0\0\0{}", "coremltools.convert"),
        ("net.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("net.gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("net", b"GGUF\x03\0\0\0", "GGUF"),
        ("net.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("net.mlmodel", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("net.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
        ("empty.mlmodel", b"", "empty file"),
    ],
)
def test_files_of_other_frameworks(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    told(tmp_path / name, words)


def test_a_file_of_pytorch_is_known_by_its_content(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights")
    told(tmp_path / "weights", "PyTorch", "corepress.torch")


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_folders_of_other_frameworks(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"x")
    told(tmp_path, "PyTorch")


# Packages made of links.


def as_hugging_face_keeps_it(source: Path, folder: Path, inner: str = "") -> Path:
    """The package in a cache: each file a link into the folder of blobs."""
    blobs, snapshot = folder / "models--x--y/blobs", folder / "models--x--y/snapshots/0a1b2c" / inner
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(source.rglob("*"))):
        if file.is_file():
            shutil.copyfile(file, blobs / f"{number:040x}")
            link = snapshot / source.name / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return snapshot / source.name


@pytest.mark.parametrize("inner", ["", "coreml/small"])
def test_a_package_in_the_cache_of_hugging_face(package, tmp_path, inner) -> None:
    source = Path(shutil.copytree(package(), tmp_path / "source" / "net.mlpackage"))
    (source / "Data/extra.txt").write_text("kept")
    linked = as_hugging_face_keeps_it(source, tmp_path, inner)
    model = load(linked)
    assert model.size() == sum(map(len, tree(source).values()))
    for weight, expected in zip(model.weights(), load(source).weights(), strict=True):
        assert (weight.dense() == expected.dense()).all()
    saved = model.save(tmp_path / "out.mlpackage")
    assert tree(saved.path) == tree(source)
    assert not any(path.is_symlink() for path in saved.path.rglob("*"))
    before = tree(tmp_path / "models--x--y")
    config = corepress.coreml.OptimizationConfig(corepress.coreml.OpLinearQuantizerConfig())
    small = corepress.coreml.linear_quantize_weights(linked, config).save(tmp_path / "small.mlpackage")
    assert not any(path.is_symlink() for path in small.path.rglob("*"))
    assert tree(tmp_path / "models--x--y") == before
    # Asked for, real files take the place of the links; what they led to stays.
    blobs = tree(tmp_path / "models--x--y/blobs")
    model.save(linked, overwrite=True)
    assert tree(linked) == tree(source) and tree(tmp_path / "models--x--y/blobs") == blobs
    assert not any(path.is_symlink() for path in linked.rglob("*"))


def test_links_to_secrets_are_not_followed(package, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret that must not be copied into a model " * 9)
    for number, file in enumerate(("Manifest.json", SPEC, WEIGHTS, "Data/notes.txt", "LICENSE")):
        copy = Path(shutil.copytree(package(), tmp_path / f"{number}.mlpackage"))
        (copy / file).unlink(missing_ok=True)
        (copy / file).symlink_to(secret)
        with pytest.raises(CorepressError) as error:
            load(copy).save(tmp_path / "out.mlpackage")
        assert "must not be copied" not in str(error.value)
        assert not (tmp_path / "out.mlpackage").exists()


def test_links_to_folders_and_to_nothing_are_refused(package, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    for number, target in enumerate((tmp_path / "folder", tmp_path / "nothing", "/dev/zero")):
        copy = Path(shutil.copytree(package(), tmp_path / f"{number}.mlpackage"))
        (copy / "Data/extra").symlink_to(target)
        with pytest.raises(FormatError, match="symbolic link"):
            load(copy).save(tmp_path / "out.mlpackage")


def test_a_package_named_by_a_link(package, tmp_path) -> None:
    (tmp_path / "link.mlpackage").symlink_to(package())
    saved = load(tmp_path / "link.mlpackage").save(tmp_path / "out.mlpackage")
    assert tree(saved.path) == tree(package())
