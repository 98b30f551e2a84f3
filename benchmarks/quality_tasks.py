"""The models that `quality.py` compresses, the data for calibrating them, and how well a compressed one does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
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

MNIST = Path(os.environ.get("MNIST", ROOT / "data" / "mnist"))  # the folder of its four files
BATCH = 1000  # test images at once


@dataclass(frozen=True)
class Task:
    """A model as a module and as a package.

    `batches`: inputs of the module for layer-wise methods, `layers`: the names of its blocks, None for a Sequential.
    `loss`, `labelled`: for sensitivities, one sample each. `samples`: inputs of the package.
    `outputs`, `outputs_of_package`: of a compressed module or package, (test samples, features).
    `original`: of the model. `score`: how good outputs are.
    """

    title: str
    model: nn.Module
    package: Path
    batches: list[Tensor]
    layers: list[str] | None
    labelled: list[tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
    samples: list[dict[str, np.ndarray]]
    outputs: Callable[[nn.Module], np.ndarray]
    outputs_of_package: Callable[[Any], np.ndarray]
    original: np.ndarray
    score: Callable[[np.ndarray], float]


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
    samples, test = minilm.samples(CALIBRATION[:calibration]), minilm.samples(TEST[:tests])
    batches, test_ids = [_tokens(sample) for sample in samples], [_tokens(sample) for sample in test]
    random = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, (1, 384), generator=random) * 2.0 - 1 for _ in batches]

    @torch.no_grad()
    def embed(model: nn.Module) -> np.ndarray:
        return torch.cat([model(ids) for ids in test_ids]).double().numpy()

    original = embed(model)
    return Task(
        title="MiniLM",
        model=model,
        package=package,
        batches=batches,
        layers=[r"bert\.encoder\.layer\.\d+"],
        labelled=list(zip(batches, signs, strict=True)),
        loss=projection_loss,
        samples=samples,
        outputs=embed,
        outputs_of_package=lambda model: minilm.embeddings(model, test),
        original=original,
        score=lambda outputs: float(minilm.cosines(original, outputs).mean()),
    )


def _tokens(sample: minilm.Sample) -> Tensor:
    return torch.from_numpy(sample["ids"][:, : sample["mask"].sum()]).long()


def digits(calibration: int) -> Task:
    """The example package, for the digits of scikit-learn, and the same network in PyTorch with its weights."""
    model, package = build_digits.network().eval(), ROOT / "examples" / "digits.mlpackage"
    with torch.no_grad():
        for weight in corepress.load(package).weights():
            layer, kind = weight.name.removesuffix("_to_fp16").rsplit("_", 1)
            getattr(model.get_submodule(layer), kind).copy_(torch.from_numpy(weight.read().astype(np.float32)))
    train, test, train_labels, test_labels = map(torch.from_numpy, build_digits.digits())
    return _classifier("digits", model, package, "image", (train, train_labels, test, test_labels), calibration)


def mnist_network(folder: Path, calibration: int, epochs: float) -> Task:
    """The network of the MNIST examples, after a short training that is kept in the folder."""
    data = mnist.load(MNIST)
    net, saved = mnist.Net(), folder / f"mnist-{epochs:g}.pt"
    if not saved.exists():
        torch.manual_seed(0)
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
    return _classifier("MNIST", model, package, "image", data, calibration)


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


def _classifier(title: str, model: nn.Module, package: Path, name: str, data: mnist.Data, calibration: int) -> Task:
    train, labels, test, expected = data
    train, labels = train[:calibration], labels[:calibration]
    whole = title == "MNIST"  # its package takes batches

    @torch.no_grad()
    def logits(model: nn.Module) -> np.ndarray:
        return torch.cat([model(batch) for batch in test.split(BATCH)]).double().numpy()

    def logits_of_package(model: Any) -> np.ndarray:
        program = load_program(model)
        parts = [program.predict({name: part.numpy()})["logits"] for part in test.split(BATCH if whole else 1)]
        return np.concatenate(parts).astype(float)

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
        outputs=logits,
        outputs_of_package=logits_of_package,
        original=logits(model),
        score=lambda outputs: float((outputs.argmax(1) == expected.numpy()).mean()),
    )
