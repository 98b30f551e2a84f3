"""The models that `quality.py` compresses, the data for calibrating them, and how well a compressed one does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import corepress
from corepress.runtime import load as load_program

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]  # the encoder and sentences of the tests; the MNIST network
import mnist  # noqa: E402
from tests import minilm  # noqa: E402
from tests.sentences import CALIBRATION, TEST  # noqa: E402
from tools import build_digits  # noqa: E402

from other_kinds import disturbed, prose  # noqa: E402

MNIST = Path(os.environ.get("MNIST", ROOT / "data" / "mnist"))  # the folder of its four files
BATCH = 1000  # test images at once


@dataclass(frozen=True)
class Test:
    """Inputs that nothing learns from.

    `outputs`, `outputs_of_package`: what a compressed module or package makes of them, (inputs, features). `original`:
    what the model does. `score`: how good outputs are.
    """

    outputs: Callable[[nn.Module], np.ndarray]
    outputs_of_package: Callable[[Any], np.ndarray]
    original: np.ndarray
    score: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Task:
    """A model as a module and as a package.

    `batches`: inputs of the module for layer-wise methods, `layers`: the names of its blocks, None for a Sequential.
    `loss`, `labelled`: for sensitivities, one sample each. `samples`: inputs of the package. `tests`: of the same kind
    as these, and of another one.
    """

    title: str
    model: nn.Module
    package: Path
    batches: list[Tensor]
    layers: list[str] | None
    labelled: list[tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
    samples: list[dict[str, np.ndarray]]
    tests: tuple[Test, Test]


class Encoder(nn.Module):
    """The embedding, (1, 384), of one sentence's tokens, (1, length): nothing is padded, so that no mask is needed."""

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bert.embeddings(ids, torch.zeros_like(ids), torch.arange(ids.shape[1])[None])
        return nn.functional.normalize(self.bert.encoder(x)[0].mean(1), dim=-1)


def projection_loss(model: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
    """The embedding on a random direction: mean squares of its gradient are the diagonal of J^T J, J its derivative."""
    return (model(sample[0]) * sample[1]).sum()


def label_loss(model: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(sample[0]), sample[1])


def encoder(folder: Path, calibration: int, tests: int) -> Task:
    """all-MiniLM-L6-v2 with its real weights; so many sentences to calibrate on and others to test with."""
    transformers, source = minilm._libraries()
    model = Encoder(transformers.BertModel.from_pretrained(source, attn_implementation="eager")).eval()
    package = folder / "minilm.mlpackage"
    if not package.exists():
        minilm.package(folder)
    samples = minilm.samples(CALIBRATION[:calibration])
    batches = [tokens(sample) for sample in samples]
    return Task(
        title="MiniLM",
        model=model,
        package=package,
        batches=batches,
        layers=[r"bert\.encoder\.layer\.\d+"],
        labelled=signed(batches, 0),
        loss=projection_loss,
        samples=samples,
        tests=(_reading(model, TEST[:tests]), _reading(model, prose(tests))),
    )


def _reading(model: nn.Module, texts: list[str]) -> Test:
    test = minilm.samples(texts)
    ids = [tokens(sample) for sample in test]

    @torch.no_grad()
    def embed(model: nn.Module) -> np.ndarray:
        return torch.cat([model(own) for own in ids]).double().numpy()

    original = embed(model)
    return Test(
        outputs=embed,
        outputs_of_package=lambda model: minilm.embeddings(model, test),
        original=original,
        score=lambda outputs: float(minilm.cosines(original, outputs).mean()),
    )


def signed(batches: Sequence[Tensor], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Each with the signs of a random sum of the embedding, which stands for a loss."""
    random = torch.Generator().manual_seed(seed)
    return [(batch, torch.randint(0, 2, (1, 384), generator=random) * 2.0 - 1) for batch in batches]


def tokens(sample: minilm.Sample) -> Tensor:
    return torch.from_numpy(sample["ids"][:, : sample["mask"].sum()]).long()


def digits(folder: Path, calibration: int, seed: int = 0) -> Task:
    """A network for the digits of scikit-learn: of seed 0 that of the example package, of others one like it."""
    model = build_digits.network().eval()
    arrays = build_digits.digits()
    train, test, train_labels, test_labels = map(torch.from_numpy, arrays)
    package = ROOT / "examples" / "digits.mlpackage" if seed == 0 else folder / f"digits-{seed}.mlpackage"
    if not package.exists():
        torch.manual_seed(seed)
        build_digits.train(model, train, train_labels)
        build_digits.convert(model, build_digits.accuracy(model, test, test_labels)).save(str(package))
    with torch.no_grad():
        for weight in corepress.load(package).weights():
            layer, kind = weight.name.removesuffix("_to_fp16").rsplit("_", 1)
            getattr(model.get_submodule(layer), kind).copy_(torch.from_numpy(weight.read().astype(np.float32)))
    data = train, train_labels, test, test_labels
    return _classifier("digits", model.eval(), package, "image", data, calibration, seed)


def mnist_network(folder: Path, calibration: int, epochs: float, seed: int = 0) -> Task:
    """The network of the MNIST examples, after a short training that is kept in the folder."""
    data = mnist.load(MNIST)
    net, saved = mnist.Net(), folder / (f"mnist-{epochs:g}.pt" if seed == 0 else f"mnist-{epochs:g}-{seed}.pt")
    if not saved.exists():
        torch.manual_seed(seed)
        net = mnist.Net()
        mnist.train(net, data, epochs)
        torch.save(net.state_dict(), saved)
    net.load_state_dict(torch.load(saved))
    # The same as a chain, as coremltools' LayerwiseCompressor needs it.
    model = nn.Sequential(
        *(net.conv1, nn.ReLU(), nn.MaxPool2d(2), net.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), net.dense1, nn.ReLU(), net.dense2),
    ).eval()
    package = saved.with_suffix(".mlpackage")
    if not package.exists():
        _convert(model, package)
    return _classifier("MNIST", model, package, "image", data, calibration, seed)


def _convert(model: nn.Module, path: Path) -> None:
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(model, torch.zeros(1, 1, 28, 28)),
            inputs=[ct.TensorType("image", (ct.RangeDim(1, BATCH, default=1), 1, 28, 28))],
            outputs=[ct.TensorType("logits")],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
    converted.save(str(path))


def _classifier(
    title: str, model: nn.Module, package: Path, name: str, data: mnist.Data, calibration: int, seed: int
) -> Task:
    train, labels, test, expected = data
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:calibration]
    train, labels = train[chosen], labels[chosen]
    at_once = BATCH if title == "MNIST" else 1  # its package takes batches
    others = torch.from_numpy(disturbed(test.numpy()))
    return Task(
        title=title,
        model=model,
        package=package,
        batches=[batch.clone() for batch in train.split(16)],
        layers=None,
        # coremltools copies each sample with all of the storage that it is a view of.
        labelled=[(image.clone(), label.clone()) for image, label in zip(train.split(1), labels.split(1), strict=True)],
        loss=label_loss,
        samples=[{name: image.numpy()} for image in train.split(1)],
        tests=(_classified(model, name, test, expected, at_once), _classified(model, name, others, expected, at_once)),
    )


def _classified(model: nn.Module, name: str, images: Tensor, labels: Tensor, at_once: int) -> Test:
    @torch.no_grad()
    def logits(model: nn.Module) -> np.ndarray:
        return torch.cat([model(batch) for batch in images.split(BATCH)]).double().numpy()

    def logits_of_package(model: Any) -> np.ndarray:
        program = load_program(model)
        parts = [program.predict({name: part.numpy()})["logits"] for part in images.split(at_once)]
        return np.concatenate(parts).astype(float)

    return Test(
        outputs=logits,
        outputs_of_package=logits_of_package,
        original=logits(model),
        score=lambda outputs: float((outputs.argmax(1) == labels.numpy()).mean()),
    )
